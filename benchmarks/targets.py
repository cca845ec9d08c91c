"""What relay has to show, as ratios within one run, and whether it does."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load.target import Figures
from benchmarks.peers import RELAY

Medians = Mapping[str, Mapping[str, Figures]]
"""measure → peer → figure → median over the runs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """``figure`` of relay, divided by that of ``peer`` (or as it is), is at most or at least
    ``limit``."""

    title: str
    measure: str
    figure: str
    limit: float
    peer: str | None = None
    at_least: bool = False


WANTED = (
    Wanted("CPU per event against nginx", "paced", "cpu_us", 1.0, "nginx"),
    Wanted("CPU per event against node http-proxy", "paced", "cpu_us", 0.5, "node"),
    Wanted("CPU per event against aiohttp", "paced", "cpu_us", 0.4, "aiohttp"),
    Wanted("p50 latency against nginx", "paced", "p50_us", 1.2, "nginx"),
    Wanted("p99 latency against nginx", "paced", "p99_us", 1.2, "nginx"),
    # relay divided by its own resumable streams: at most 1.3 times the plain route.
    Wanted("CPU per event, plain by resumable", "paced", "cpu_us", 0.77, "resumed", at_least=True),
    Wanted("flood against nginx", "flood", "events_s", 2.5, "nginx", at_least=True),
    Wanted("flood against node http-proxy", "flood", "events_s", 1.0, "node", at_least=True),
    Wanted("memory per idle stream, KiB", "idle", "kib_per_stream", 6.0),
    Wanted("memory per stream after a burst, KiB", "burst", "kib_per_stream", 6.0),
    Wanted("growth of CPU per event, 100 to 8,000 streams", "growth", "growth", 1.3),
    Wanted("download MB/s against HAProxy", "down", "mb_s", 1.3, "haproxy", at_least=True),
    Wanted("download CPU per GB against HAProxy", "down", "cpu_s_gb", 0.6, "haproxy"),
    Wanted("upload MB/s against HAProxy", "up", "mb_s", 1.3, "haproxy", at_least=True),
    Wanted("upload CPU per GB against HAProxy", "up", "cpu_s_gb", 0.6, "haproxy"),
    Wanted(
        "one upload by curl, MB/s against HAProxy", "upload", "mb_s", 1.3, "haproxy", at_least=True
    ),
    Wanted("one upload by curl, CPU per GB against HAProxy", "upload", "cpu_s_gb", 0.6, "haproxy"),
    Wanted("chunked download CPU per GB against HAProxy", "chunked", "cpu_s_gb", 1.2, "haproxy"),
    Wanted("CPU per small request against node http-proxy", "small", "cpu_us", 0.5, "node"),
    Wanted("CPU per small request against Caddy", "small", "cpu_us", 0.5, "caddy"),
    Wanted("CPU per small request against aiohttp", "small", "cpu_us", 0.5, "aiohttp"),
    Wanted("CPU per distinct request against node http-proxy", "distinct", "cpu_us", 1.3, "node"),
    Wanted(
        "a new stream's first event against nginx, p50", "beginning", "quiet_p50_us", 1.5, "nginx"
    ),
    Wanted("the same beside 500 streams, p99", "beginning", "busy_p99_us", 1.5, "nginx"),
    *(
        wanted
        for phase in ("head", "silent", "flowing", "upload")
        for wanted in (
            Wanted(f"client left, {phase}: median µs", "leaving", f"{phase}_p50_us", 1000),
            Wanted(f"client left, {phase}: worst µs", "leaving", f"{phase}_worst_us", 20_000),
        )
    ),
    Wanted("client left: missed", "leaving", "missed", 0),
    Wanted("start to listening, ms", "startup", "started_ms", 250),
    Wanted("memory at start, MiB", "startup", "start_mib", 30),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured."""

    wanted: Wanted
    found: float | None
    """None: not measured in this run."""

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        if self.wanted.at_least:
            return self.found >= self.wanted.limit
        return self.found <= self.wanted.limit


def verdicts(medians: Medians) -> list[Verdict]:
    """Every target in its order."""
    return [Verdict(wanted, _found(medians, wanted)) for wanted in WANTED]


def _found(medians: Medians, wanted: Wanted) -> float | None:
    peers = medians.get(wanted.measure, {})
    own = peers.get(RELAY, {}).get(wanted.figure)
    if own is None or wanted.peer is None:
        return own
    other = peers.get(wanted.peer, {}).get(wanted.figure)
    return own / other if other else None
