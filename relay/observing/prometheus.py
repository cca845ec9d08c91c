"""The figures of all workers as Prometheus reads them. Loaded by the first scrape.

Names and labels are a contract; `docs/reference/metrics.md` says what each means, and
`docs/grafana-dashboard.json` draws them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from relay import __version__
from relay.observing.counters import (
    CANCEL_BOUNDS,
    DURATION_BOUNDS,
    GAP_BOUNDS,
    STORE_BOUNDS,
    TTFB_BOUNDS,
)
from relay.observing.exposition import Snapshot


def expose(totals: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text of a scrape and its media type: OpenMetrics where `accept` asks for it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(totals))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Figures(Collector):
    """The metrics of one scrape."""

    def __init__(self, totals: Snapshot) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        yield from self._routes()
        yield from self._process()
        yield from self._upstreams()
        yield from self._workers()

    def _routes(self) -> Iterator[Metric]:
        exchanges = CounterMetricFamily(
            "relay_exchanges", "Exchanges that ended.", labels=("route", "ending")
        )
        active = GaugeMetricFamily(
            "relay_streams_active", "Event streams under way.", labels=("route",)
        )
        events = CounterMetricFamily(
            "relay_events", "Events relayed, of live streams too.", labels=("route",)
        )
        size = CounterMetricFamily(
            "relay_bytes",
            "Body bytes: in, from clients; out, to clients, of live streams too.",
            labels=("route", "direction"),
        )
        first = HistogramMetricFamily(
            "relay_time_to_first_byte_seconds",
            "From the request head to the response head.",
            labels=("route",),
        )
        duration = HistogramMetricFamily(
            "relay_stream_duration_seconds", "Event streams that ended.", labels=("route",)
        )
        gap = HistogramMetricFamily(
            "relay_event_gap_seconds", "From one event of a stream to the next.", labels=("route",)
        )
        runs = GaugeMetricFamily(
            "relay_runs_active", "Resumable runs under way.", labels=("route",)
        )
        viewers = GaugeMetricFamily("relay_viewers", "Who reads them.", labels=("route",))
        joins = CounterMetricFamily(
            "relay_joins",
            "Viewers of runs: begin, join, resume, replay.",
            labels=("route", "how"),
        )
        gaps = CounterMetricFamily(
            "relay_gaps", "Holes that viewers were told of.", labels=("route",)
        )
        captured = CounterMetricFamily(
            "relay_captured", "Sums of numbers that streams said.", labels=("route", "name")
        )
        stops = CounterMetricFamily("relay_stops", "Runs that were stopped.", labels=("route",))
        for name, route in sorted(self._totals["routes"].items()):
            runs.add_metric((name,), route["runs"])
            viewers.add_metric((name,), route["viewers"])
            gaps.add_metric((name,), route["gaps"])
            stops.add_metric((name,), route["stops"])
            for how, number in sorted(route["joins"].items()):
                joins.add_metric((name, how), number)
            for said, total in sorted(route["captured"].items()):
                captured.add_metric((name, said), total)
            for ending, number in sorted(route["endings"].items()):
                exchanges.add_metric((name, ending), number)
            active.add_metric((name,), route["active"])
            events.add_metric((name,), route["events"])
            size.add_metric((name, "in"), route["bytes_in"])
            size.add_metric((name, "out"), route["bytes_out"])
            _observed(first, (name,), TTFB_BOUNDS, route["first_byte"])
            _observed(duration, (name,), DURATION_BOUNDS, route["duration"])
            _observed(gap, (name,), GAP_BOUNDS, route["event_gap"])
        yield from (exchanges, active, events, size, first, duration, gap)
        yield from (runs, viewers, joins, gaps, stops, captured)

    def _process(self) -> Iterator[Metric]:
        totals = self._totals
        delay = HistogramMetricFamily(
            "relay_cancel_delay_seconds", "From the client's leaving to the upstream closed."
        )
        _observed(delay, (), CANCEL_BOUNDS, totals["cancel_delay"])
        yield delay
        yield GaugeMetricFamily(
            "relay_held_bytes",
            "Bytes held in memory: unfinished events, and what slow clients did not take.",
            totals["held"],
        )
        logs = GaugeMetricFamily(
            "relay_log_bytes", "Of the logs of all runs, with what a run takes.", labels=("store",)
        )
        logs.add_metric(("memory",), totals["log_bytes"])
        yield logs
        errors = CounterMetricFamily(
            "relay_store_errors", "What the store of streams failed at.", labels=("store", "what")
        )
        for name, number in sorted(totals["store_errors"].items()):
            errors.add_metric(tuple(name.split(":", 1)), number)
        yield errors
        seconds = HistogramMetricFamily(
            "relay_store_seconds",
            "From an append to a run until every process can read it.",
            labels=("store",),
        )
        for name, observed in sorted(totals["store_seconds"].items()):
            _observed(seconds, (name,), STORE_BOUNDS, observed)
        yield seconds
        yield GaugeMetricFamily(
            "relay_connections", "Client connections open now.", totals["connections"]
        )
        yield CounterMetricFamily(
            "relay_accepted_connections", "Client connections.", totals["connections_total"]
        )
        yield CounterMetricFamily(
            "relay_log_lines_dropped",
            "Lines of the access log and of stderr that nobody took in time.",
            totals["log_dropped"],
        )
        build = GaugeMetricFamily("relay_build_info", "1.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _upstreams(self) -> Iterator[Metric]:
        labels = ("upstream", "url")
        up = GaugeMetricFamily("relay_upstream_up", "1: no worker leaves it alone.", labels=labels)
        failures = GaugeMetricFamily(
            "relay_upstream_failures", "Failures in a row, of the worst worker.", labels=labels
        )
        streams = GaugeMetricFamily("relay_upstream_streams", "Exchanges under way.", labels=labels)
        idle = GaugeMetricFamily(
            "relay_upstream_idle_connections", "Connections kept for reuse.", labels=labels
        )
        for url in self._totals["upstreams"]:
            key = (url.upstream, url.url)
            up.add_metric(key, url.up)
            failures.add_metric(key, url.failures)
            streams.add_metric(key, url.streams)
            idle.add_metric(key, url.idle)
        yield from (up, failures, streams, idle)

    def _workers(self) -> Iterator[Metric]:
        labels = ("worker",)
        cpu = CounterMetricFamily(
            "relay_worker_cpu_seconds", "CPU time of the process.", labels=labels
        )
        resident = GaugeMetricFamily(
            "relay_worker_resident_bytes", "Resident memory of the process.", labels=labels
        )
        draining = GaugeMetricFamily("relay_worker_draining", "1: it ends.", labels=labels)
        for number, worker in self._totals["workers"].items():
            key = (str(number),)
            cpu.add_metric(key, worker["cpu"])
            resident.add_metric(key, worker["resident"])
            draining.add_metric(key, worker["draining"])
        yield from (cpu, resident, draining)


def _observed(
    metric: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    observed: Sequence[float],
) -> None:
    """Add what was observed: counts by bucket, then the sum; Prometheus wants them cumulated."""
    buckets: list[tuple[str, float]] = []
    cumulated = 0.0
    for bound, count in zip((*map(str, bounds), "+Inf"), observed, strict=False):
        cumulated += count
        buckets.append((bound, cumulated))
    metric.add_metric(labels, buckets, observed[-1])
