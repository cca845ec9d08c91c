"""What the load is pointed at, and the window in which figures are taken."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from benchmarks.accounting import Cpu, cpu

Figures = dict[str, float]

# Share of the load's core (origin and client together) above which figures are suspect
SATURATED = 0.85


class LoadError(Exception):
    """The proxy did not do what the load needs: refused, answered otherwise, or stalled."""


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy and the origin behind it, both on 127.0.0.1."""

    port: int
    pid: int
    origin_port: int
    origin_pid: int

    @property
    def host(self) -> bytes:
        """The Host field of requests through the proxy."""
        return b"127.0.0.1:%d" % self.port


@dataclass(slots=True)
class Window:
    """``with Window(target) as window:`` counts CPU and time of the block; no garbage collection
    inside."""

    target: Target
    seconds: float = 0.0
    proxy: Cpu = field(default_factory=lambda: Cpu(0, 0))
    origin_share: float = 0.0
    load_share: float = 0.0
    _began: float = 0.0
    _before: tuple[Cpu, Cpu, float] = (Cpu(0, 0), Cpu(0, 0), 0.0)

    def __enter__(self) -> "Window":
        gc.collect()
        gc.disable()
        self._before = cpu(self.target.pid), cpu(self.target.origin_pid), time.process_time()
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.monotonic() - self._began
        proxy, origin, own = self._before
        self.proxy = cpu(self.target.pid) - proxy
        self.load_share = (time.process_time() - own) / self.seconds
        self.origin_share = (cpu(self.target.origin_pid) - origin).exact_ns / 1e9 / self.seconds
        gc.enable()

    def shares(self) -> Figures:
        """Who was busy: a proxy at 1.0 is the limit itself, load and origin above SATURATED are."""
        return {
            "proxy_share": self.proxy.exact_ns / 1e9 / self.seconds,
            "proxy_share_ticks": self.proxy.ticks_ns / 1e9 / self.seconds,
            "load_share": self.load_share,
            "origin_share": self.origin_share,
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the ordered values lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
