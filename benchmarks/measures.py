"""The measures: which load, how large in full and in ``--quick``, and which figures the table
shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.load.beginning import beginning
from benchmarks.load.bulk import down, up
from benchmarks.load.curl import curl_upload
from benchmarks.load.leaving import PHASES, leaving
from benchmarks.load.requests import small
from benchmarks.load.streams import burst, flood, idle, paced
from benchmarks.load.target import Figures, LoadError, Target

GROWTH_STEPS = (100, 500, 2000, 8000)  # streams
GROWTH_TOTAL = 5000.0  # events a second over all streams of a step


@dataclass(frozen=True, slots=True)
class Shown:
    """A row of the table."""

    key: str
    title: str
    digits: int = 1
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: ``run`` with the arguments of ``full`` or of ``quick``."""

    name: str
    what: str
    run: Callable[..., Figures]
    shown: tuple[Shown, ...]
    full: Mapping[str, object] = field(default_factory=dict)
    quick: Mapping[str, object] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    """Arguments of the origin."""


def growth(
    target: Target,
    *,
    steps: tuple[int, ...] = (100, 8000),
    total: float = GROWTH_TOTAL,
    seconds: float = 4.0,
) -> Figures:
    """CPU per event at the same total rate over more and more streams.

    A step that a peer does not reach ends its figures there; ``failed_at`` tells which.
    """
    figures: Figures = {}
    for streams in steps:
        try:
            step = paced(target, streams=streams, rate=total / streams, seconds=seconds)
        except (LoadError, OSError):
            if not figures:
                raise
            figures["failed_at"] = streams
            break
        for key in ("cpu_us", "p50_us", "p99_us", "load_share", "origin_share", "proxy_share"):
            figures[f"{key}_{streams}"] = step[key]
    first, last = f"cpu_us_{steps[0]}", f"cpu_us_{steps[-1]}"
    if first in figures and last in figures:
        figures["growth"] = figures[last] / figures[first]
    return figures


def rates(
    target: Target,
    *,
    steps: tuple[float, ...] = (2, 5, 10, 20, 30, 40, 60),
    streams: int = 500,
    seconds: float = 3.0,
) -> Figures:
    """Latency against rate, for the plot: until the proxy or the load has no core left."""
    figures: Figures = {}
    for rate in steps:
        step = paced(target, streams=streams, rate=rate, seconds=seconds)
        total = f"{streams * rate:.0f}"
        figures[f"p50_us_{total}"] = step["p50_us"]
        figures[f"p99_us_{total}"] = step["p99_us"]
        if step["events_s"] < 0.97 * step["offered_s"] or step["p50_us"] > 20_000:
            break
    return figures


def memory(
    target: Target, *, steps: tuple[int, ...] = (500, 1000, 2000, 4000), settle: float = 1.5
) -> Figures:
    """Memory against streams, for the plot."""
    figures: Figures = {}
    for streams in steps:
        step = idle(target, streams=streams, settle=settle)
        figures.setdefault("mib_0", step["base_mib"])
        figures[f"mib_{streams}"] = step["full_mib"]
    return figures


def startup(target: Target) -> Figures:
    """Nothing to do: the runner adds what the start showed to every measure."""
    return {}


def _leaving_shown() -> tuple[Shown, ...]:
    rows = []
    for phase in PHASES:
        rows.append(Shown(f"{phase}_p50_us", f"left, {phase}: median µs", 0))
        rows.append(Shown(f"{phase}_worst_us", f"left, {phase}: worst µs", 0))
        rows.append(Shown(f"{phase}_missed", f"left, {phase}: missed", 0))
    return tuple(rows)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            "paced",
            "500 streams, 20 events a second each, 100 bytes an event",
            paced,
            (
                Shown("cpu_us", "CPU per event, µs"),
                Shown("p50_us", "latency p50, µs", 0),
                Shown("p99_us", "latency p99, µs", 0),
                Shown("p999_us", "latency p99.9, µs", 0),
            ),
            quick={"seconds": 1.2, "warm": 0.4},
        ),
        Measure(
            "ticks",
            "the same from an origin whose timers have whole milliseconds (asyncio, Trio)",
            paced,
            (
                Shown("cpu_us", "CPU per event, µs"),
                Shown("p50_us", "latency p50, µs", 0),
                Shown("p99_us", "latency p99, µs", 0),
            ),
            quick={"seconds": 1.5, "warm": 0.5},
            origin=("--tick-us", "1000"),
        ),
        Measure(
            "beginning",
            "a new stream: from connect to its first event, on a quiet proxy and beside `paced`",
            beginning,
            (
                Shown("quiet_p50_us", "quiet, p50, µs", 0),
                Shown("quiet_p99_us", "quiet, p99, µs", 0),
                Shown("busy_p50_us", "beside 500 streams, p50, µs", 0),
                Shown("busy_p99_us", "beside 500 streams, p99, µs", 0),
            ),
            quick={"times": 60, "streams": 100},
        ),
        Measure(
            "flood",
            "8 streams as fast as they go, 100 bytes an event, each its own write",
            flood,
            (
                Shown("events_s", "events a second", 0, True),
                Shown("cpu_us", "CPU per event, µs", 2),
            ),
            quick={"seconds": 1.0, "warm": 0.3},
        ),
        Measure(
            "blocks",
            "8 streams as fast as they go, 100 bytes an event, 64 KiB of them in a write",
            flood,
            (
                Shown("events_s", "events a second", 0, True),
                Shown("cpu_us", "CPU per event, µs", 2),
            ),
            full={"together": 600},
            quick={"together": 600, "seconds": 1.0, "warm": 0.3},
        ),
        Measure(
            "idle",
            "4,000 silent streams",
            idle,
            (Shown("kib_per_stream", "memory per stream, KiB"),),
            quick={"streams": 1000, "settle": 0.6},
        ),
        Measure(
            "burst",
            "4,000 streams opened at once, an event every 5 seconds each",
            burst,
            (Shown("kib_per_stream", "memory per stream, KiB"),),
            quick={"streams": 1000, "settle": 1.0},
        ),
        Measure(
            "small",
            "64 keep-alive connections, the same head in every request",
            small,
            (
                Shown("cpu_us", "CPU per request, µs"),
                Shown("requests_s", "requests a second", 0, True),
                Shown("p99_us", "latency p99, µs", 0),
            ),
            quick={"seconds": 1.0, "warm": 0.3},
        ),
        Measure(
            "distinct",
            "64 keep-alive connections, another head in every request",
            small,
            (
                Shown("cpu_us", "CPU per request, µs"),
                Shown("requests_s", "requests a second", 0, True),
            ),
            full={"distinct": True},
            quick={"distinct": True, "seconds": 1.0, "warm": 0.3},
        ),
        Measure(
            "down",
            "4 downloads of known length",
            down,
            (Shown("mb_s", "MB/s", 0, True), Shown("cpu_s_gb", "CPU seconds per GB", 2)),
            quick={"seconds": 0.8, "warm": 0.2},
        ),
        Measure(
            "chunked",
            "4 downloads in chunks of 64 KiB",
            down,
            (Shown("mb_s", "MB/s", 0, True), Shown("cpu_s_gb", "CPU seconds per GB", 2)),
            full={"framing": "chunked"},
            quick={"framing": "chunked", "seconds": 0.8, "warm": 0.2},
        ),
        Measure(
            "up",
            "4 uploads of known length",
            up,
            (Shown("mb_s", "MB/s", 0, True), Shown("cpu_s_gb", "CPU seconds per GB", 2)),
            quick={"seconds": 0.8, "warm": 0.2},
        ),
        Measure(
            "upload",
            "uploads of 200 MB, one after the other, by `curl -T`",
            curl_upload,
            (Shown("mb_s", "MB/s", 0, True), Shown("cpu_s_gb", "CPU seconds per GB", 2)),
            quick={"mb": 50},
        ),
        Measure(
            "leaving",
            "the client leaves; until the origin's connection is closed",
            leaving,
            _leaving_shown(),
            quick={"times": 30},
        ),
        Measure(
            "growth",
            "5,000 events a second over 100 to 8,000 streams",
            growth,
            (
                Shown("cpu_us_100", "CPU per event, 100 streams, µs"),
                Shown("cpu_us_8000", "CPU per event, 8,000 streams, µs"),
                Shown("growth", "growth", 2),
            ),
            quick={"steps": (100, 2000), "seconds": 0.8},
        ),
        Measure(
            "startup",
            "from exec to listening",
            startup,
            (Shown("started_ms", "start, ms", 0), Shown("start_mib", "memory at start, MiB")),
        ),
        Measure("rates", "latency against rate (plot)", rates, (), quick={"steps": (5, 20)}),
        Measure(
            "growing",
            "CPU per event against streams (plot)",
            growth,
            (),
            {"steps": GROWTH_STEPS},
            {"steps": (100, 500), "seconds": 1.0},
        ),
        Measure("memory", "memory against streams (plot)", memory, (), quick={"steps": (500,)}),
    )
}
PLOTTED = ("rates", "growing", "memory")  # run only when named or with --plots
QUICK = (
    "paced",
    "beginning",
    "flood",
    "idle",
    "small",
    "down",
    "up",
    "leaving",
    "growth",
    "startup",
)
