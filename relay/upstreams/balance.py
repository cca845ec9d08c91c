"""Which url of an upstream gets the next request. Pure: values in, a choice out.

Rules, in this order
  * A url that was tried for this exchange is not tried again.
  * Urls that are left alone (back-off, failed checks) are chosen only when nothing else is left.
    Then the one whose back-off ends first is tried all the same: a refused dial costs less than a
    millisecond, and a 502 without having tried would turn one lost packet into a second of errors
    wherever there is a single url.
  * least-streams: the fewest exchanges under way per weight. The weight is below one while a url
    that came back warms up (slow start). Ties go round.
  * round-robin: in turn, by weight.

"In turn" is stride scheduling (Waldspurger 1995): each url carries the virtual time of its next
turn, `turn`, and a choice moves it by 1/weight. `Group.choose` does that, so this function changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf
from typing import Literal, Protocol, TypeVar


class Candidate(Protocol):
    """What choosing needs to know of a url; `Origin` is one."""

    streams: int
    turn: float
    retry_at: float
    failing_checks: bool

    def available(self, now: float) -> bool: ...
    def weight(self, now: float) -> float: ...


C = TypeVar("C", bound=Candidate)


def choose(
    origins: Sequence[C],
    tried: Collection[C],
    now: float,
    balance: Literal["least-streams", "round-robin"] = "least-streams",
) -> C | None:
    """The url for the next request, None when all were tried. `now`: trio.current_time()."""
    best: C | None = None
    least: tuple[float, float] = (inf, inf)
    for origin in origins:
        if origin in tried or not origin.available(now):
            continue
        load = (origin.streams + 1) / origin.weight(now) if balance == "least-streams" else 0.0
        if (load, origin.turn) < least:
            best, least = origin, (load, origin.turn)
    return best if best is not None else _last_resort(origins, tried)


def _last_resort(origins: Sequence[C], tried: Collection[C]) -> C | None:
    left = [origin for origin in origins if origin not in tried]
    return min(left, key=lambda origin: (origin.failing_checks, origin.retry_at), default=None)
