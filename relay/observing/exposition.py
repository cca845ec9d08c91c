"""The figures of a worker as plain numbers, and the sum of many workers' figures.

    worker ─► snapshot ─► (a slot, as JSON) ─► Totals.add ─► observing.prometheus, the live page

Rules
  * Nothing here runs but at a scrape. What the hot path adds to are the integers of `counters`;
    streams that are under way are added to them here, so a counter never waits for an ending.
  * A snapshot is JSON: it crosses a process border. Streams travel apart from it, as rows, because
    there may be thousands of them and a scrape needs none.
  * A sum never falls. A worker that died, or does not answer, leaves what it had counted when it
    was last seen: to Prometheus a sum that falls is a counter that began again at zero, and the
    next rate would be the whole history.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from relay.observing.counters import Counters, Histogram
from relay.observing.record import Record

Snapshot = dict[str, Any]
Row = list[Any]

SLOW = 5.0  # seconds without a byte until the upstream counts as the slow side (arbitrary)
# What a row says of one body under way. Its times are whole milliseconds: a worker writes rows for
# all its streams in one go, between two steps of theirs, and rounding would be a third of that.
COLUMNS: Final = (
    "id",
    "kind",  # "events" | "bytes" | "run": one upstream for any number of viewers
    "route",
    "client",
    "method",
    "path",
    "upstream",
    "age",
    "events",
    "bytes",  # of the body, to the client, framing included
    "last_event",  # how long ago; null: none yet
    "held",  # bytes in memory: an unfinished event, and what the client did not take yet
    "slow",  # "client": bytes wait for it · "upstream": silent for SLOW · null
    "run",  # of a run, and of each of its viewers; null: the stream cannot be resumed
    "viewers",  # of a run; null: this is none
)
_COUNTED: Final = ("events", "bytes_in", "bytes_out", "gaps", "stops")
_NOW: Final = ("active", "runs", "viewers")  # gauges of a route
_BY_NAME: Final = ("endings", "joins", "captured")
_HISTOGRAMS: Final = ("first_byte", "duration", "event_gap")
_PAGE: Final = resource.getpagesize()


# -- what of a worker is looked at -----------------------------------------------------------------


class _Flow(Protocol):
    @property
    def events(self) -> int: ...
    @property
    def held(self) -> int: ...


class _Transfer(Protocol):
    @property
    def record(self) -> Record: ...
    @property
    def flow(self) -> _Flow: ...
    @property
    def sent(self) -> int: ...
    @property
    def unsent(self) -> int: ...
    @property
    def paused(self) -> bool: ...
    @property
    def last_in(self) -> float: ...
    @property
    def last_event(self) -> float: ...


class _Run(Protocol):
    """A run under way."""

    @property
    def shown(self) -> str: ...
    @property
    def viewers(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def last_out(self) -> float: ...
    @property
    def log(self) -> _Log: ...


class _Log(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def total(self) -> int: ...


class _UrlState(Protocol):
    def _asdict(self) -> dict[str, Any]: ...


class Observed(Protocol):
    """A worker."""

    @property
    def counters(self) -> Counters: ...
    @property
    def registry(self) -> Iterable[_Transfer]: ...
    @property
    def draining(self) -> bool: ...
    @property
    def lines_dropped(self) -> int: ...
    @property
    def log_bytes(self) -> int:
        """Of the logs of all runs."""

    @property
    def store_errors(self) -> Mapping[str, int]:
        """What the store failed at, by `store:what`."""

    @property
    def store_seconds(self) -> Mapping[str, Histogram]:
        """From an append until every process can read it, by the store's name."""

    def url_states(self) -> Iterable[_UrlState]: ...
    def runs(self) -> Iterable[tuple[_Run, Record]]:
        """Those under way, each with what is known of its request."""


# -- one worker ------------------------------------------------------------------------------------


def snapshot(worker: Observed) -> Snapshot:
    """Every figure of this process. JSON can carry it."""
    routes = {name: _route(counters) for name, counters in worker.counters.routes.items()}
    held = bodies = 0
    for transfer in worker.registry:
        flow = transfer.flow
        route = routes.get(transfer.record.route)
        held += flow.held + transfer.unsent
        bodies += 1
        if route is not None:
            route["events"] += flow.events
            route["bytes_out"] += transfer.sent
            route["viewers"] += bool(transfer.record.run)
    for _, record in worker.runs():
        if record.route in routes:
            routes[record.route]["runs"] += 1
    counters = worker.counters
    return {
        "pid": os.getpid(),
        "draining": worker.draining,
        "routes": routes,
        "bodies": bodies,
        "held": held,
        "log_bytes": worker.log_bytes,
        "store_errors": dict(worker.store_errors),
        "store_seconds": {name: _histogram(of) for name, of in worker.store_seconds.items()},
        "connections": counters.connections,
        "connections_total": counters.connections_total,
        "cancel_delay": _histogram(counters.cancel_delay),
        "log_dropped": worker.lines_dropped,
        "upstreams": [url._asdict() for url in worker.url_states()],
        "cpu": time.process_time(),
        "resident": _resident(),
    }


def rows(worker: Observed, now: float) -> list[Row]:
    """Every body under way, in the columns of COLUMNS. `now`: trio.current_time()."""
    bodies = [_row(transfer, now) for transfer in worker.registry]
    return bodies + [_run_row(run, record, now) for run, record in worker.runs()]


def _row(transfer: _Transfer, now: float) -> Row:
    record, flow = transfer.record, transfer.flow
    events = flow.events
    silent = now - transfer.last_in >= SLOW
    slow = "client" if transfer.paused else "upstream" if silent else None
    return [
        record.id,
        "events" if record.streaming and not record.coding else "bytes",
        record.route,
        record.client,
        record.method,
        record.path,
        record.upstream,
        int((now - record.started) * 1000),
        events,
        transfer.sent,
        int((now - transfer.last_event) * 1000) if events else None,
        flow.held + transfer.unsent,
        slow,
        record.run or None,
        None,
    ]


def _run_row(run: _Run, record: Record, now: float) -> Row:
    silent = now - run.last_out >= SLOW
    return [
        run.shown,
        "run",
        record.route,
        record.client,
        record.method,
        record.path,
        record.upstream,
        int((now - record.started) * 1000),
        run.last,
        run.log.total,
        int((now - run.last_out) * 1000) if run.last else None,
        run.log.size,
        "upstream" if silent else None,
        run.shown,
        run.viewers,
    ]


def _route(counters: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {name: getattr(counters, name) for name in _COUNTED}
    figures["active"] = counters.active
    figures["runs"] = figures["viewers"] = 0
    figures["joins"] = dict(counters.joins)
    figures["captured"] = dict(counters.captured)
    figures["endings"] = {cause.value: n for cause, n in counters.endings.items()}
    for name in _HISTOGRAMS:
        figures[name] = _histogram(getattr(counters, name))
    return figures


def _histogram(histogram: Histogram) -> list[float]:
    """The counts by bucket, the last of them +Inf, and the sum of what was observed."""
    return [*histogram.counts, histogram.total]


def _resident() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE


# -- all workers -----------------------------------------------------------------------------------


class Url(NamedTuple):
    """One url of one upstream, as all workers see it."""

    upstream: str
    url: str
    up: bool  # no worker leaves it alone
    checks: bool | None  # the active checks' verdict; None: there are none
    streams: int
    idle: int
    failures: int  # in a row, in the worker that has seen most
    retry_in: float
    cause: str


class Totals:
    """The sum over workers, which remembers what departed ones had counted.

    What a worker counted after it was last seen and before it died is lost.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Snapshot] = {}  # the last figures of each worker, by number
        self._departed: list[Snapshot] = []  # the sum of those that are gone, if there are any

    def add(self, workers: Mapping[int, Snapshot]) -> Snapshot:
        """The figures of all workers together; `workers` are those that answered."""
        for number, figures in workers.items():
            before = self._seen.get(number)
            if before is not None and before["pid"] != figures["pid"]:
                self._departed = [_sum_counted([*self._departed, before])]
            self._seen[number] = figures
        absent = [self._seen[number] for number in self._seen.keys() - workers.keys()]
        counted = _sum_counted([*workers.values(), *absent, *self._departed])
        present = list(workers.values())
        for name, route in counted["routes"].items():
            there = [w["routes"][name] for w in present if name in w["routes"]]
            for gauge in _NOW:
                route[gauge] = sum(figures[gauge] for figures in there)
        for key in ("connections", "held", "bodies", "log_bytes"):
            counted[key] = sum(figures[key] for figures in present)
        counted["upstreams"] = list(_urls(present))
        counted["workers"] = {
            number: {key: figures[key] for key in ("pid", "draining", "cpu", "resident")}
            for number, figures in workers.items()
        }
        return counted


def _sum_counted(parts: Sequence[Snapshot]) -> Snapshot:
    """What is counted and never falls, summed."""
    routes: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, route in part["routes"].items():
            if name in routes:
                _add_route(routes[name], route)
            else:
                apart = {key: dict(route[key]) for key in _BY_NAME}
                routes[name] = {**route, **dict.fromkeys(_NOW, 0), **apart}
    errors: dict[str, int] = {}
    for part in parts:
        for what, number in part["store_errors"].items():
            errors[what] = errors.get(what, 0) + number
    seconds: dict[str, list[float]] = {}
    for part in parts:
        for name, histogram in part["store_seconds"].items():
            seconds[name] = _added([seconds[name], histogram]) if name in seconds else histogram
    return {
        "routes": routes,
        "store_errors": errors,
        "store_seconds": seconds,
        "connections_total": sum(part["connections_total"] for part in parts),
        "cancel_delay": _added([part["cancel_delay"] for part in parts]),
        "log_dropped": sum(part["log_dropped"] for part in parts),
    }


def _add_route(into: dict[str, Any], route: Mapping[str, Any]) -> None:
    for key in _COUNTED:
        into[key] += route[key]
    for key in _HISTOGRAMS:
        into[key] = _added([into[key], route[key]])
    for key in _BY_NAME:
        for name, number in route[key].items():
            into[key][name] = into[key].get(name, 0) + number


def _added(histograms: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) for column in zip(*histograms, strict=True)]


def _urls(workers: Sequence[Snapshot]) -> Iterator[Url]:
    """Each url once. A single worker's failure counts: the others may just not have tried."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figures in workers:
        for state in figures["upstreams"]:
            seen.setdefault((state["upstream"], state["url"]), []).append(state)
    for (upstream, url), states in seen.items():
        worst = max(states, key=lambda state: (not state["up"], state["failures"]))
        checked = [state["checks"] for state in states if state["checks"] is not None]
        yield Url(
            upstream,
            url,
            all(state["up"] for state in states),
            all(checked) if checked else None,
            sum(state["streams"] for state in states),
            sum(state["idle"] for state in states),
            worst["failures"],
            worst["retry_in"],
            worst["cause"],
        )


def stream_of(row: Row, worker: int) -> dict[str, Any]:
    """A row as the live list shows it: by name, its times in seconds."""
    stream = dict(zip(COLUMNS, row, strict=True))
    stream["age"] /= 1000
    if stream["last_event"] is not None:
        stream["last_event"] /= 1000
    stream["worker"] = worker
    return stream


def down(urls: Iterable[Url]) -> list[str]:
    """The upstreams of which every url is left alone, by name."""
    up: dict[str, bool] = {}
    for url in urls:
        up[url.upstream] = up.get(url.upstream, False) or url.up
    return [name for name, is_up in up.items() if not is_up]
