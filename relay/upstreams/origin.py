"""The live state of one url in this worker: its idle connections, its streams, its health.

The pool
  * LIFO: the newest idle wire is taken, so that the older ones can expire. `take`, `put` and the
    loss of an idle wire are O(1).
  * An idle wire that becomes readable is dead: an upstream has nothing to say unasked, so it is its
    end, or an answer to a question nobody put (RFC 9112 §9.2). It is closed at once. TLS is the
    exception that its wire knows: session tickets are bytes of the record layer, and receiving
    still finds nothing.
  * An idle wire is kept for less than common servers do, so that ours is the first to close.

Passive health, each arrow with the function that does it

    up ──failed──► left alone ──time──► due ──begin_trial──► on trial
    on trial ──worked──► up, warming (slow start)
    on trial ──failed──► left alone, for twice as long (1 s to 30 s, jittered)

  * One failure is enough: what calls `failed` is a refused dial or a deadline, never a client's
    fault.
  * Of all the requests that fail together only the first counts, or one broken second would make
    half a minute.
  * A trial that nobody finished (its client left) is over when the next back-off is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from random import uniform
from typing import TYPE_CHECKING

import trio

from relay.wires.alarms import Alarms, Entry
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Gone

if TYPE_CHECKING:
    from relay.config.values import Upstream, Url

FIRST_BACK_OFF = 1.0  # seconds
LONGEST_BACK_OFF = 30.0  # seconds
# ± share of the back-off: workers, and urls that fell together, do not come back together
JITTER = 0.2
LEAST_WEIGHT = 0.1  # where slow start begins: one tenth of a url's share


class Origin:
    """One url of one upstream.

    Resource handling: owns the idle wires; a wire that was taken belongs to the taker until it is
        put back.
    """

    __slots__ = (
        "_alarms",
        "_clock",
        "_idle",
        "_trial",
        "_warm_since",
        "cause",
        "entry",
        "failing_checks",
        "failures",
        "name",
        "retired",
        "retry_at",
        "streams",
        "turn",
        "upstream",
        "url",
    )

    def __init__(
        self,
        url: Url,
        upstream: Upstream,
        alarms: Alarms,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.url = url
        self.name = str(url)  # as every exchange with it is told of
        self.upstream = upstream
        self._alarms = alarms
        self._clock = clock
        self._idle: dict[SocketWire, float] = {}  # wire → when it expires; newest last
        self.entry: Entry | None = None
        self.retired = False  # the configuration no longer has it: nothing is kept any more
        self.streams = 0  # exchanges under way, counted by the sources
        self.turn = 0.0  # see balance
        self.failures = 0  # in a row; 0: up
        self.cause = ""  # of the last failure
        self.retry_at = 0.0  # when the back-off ends
        self._trial = False
        self.failing_checks = False  # set by active checks
        self._warm_since = -inf  # when it came back

    # -- the pool ----------------------------------------------------------------------------------

    @property
    def idle(self) -> tuple[SocketWire, ...]:
        """The idle wires, newest last."""
        return tuple(self._idle)

    def take(self, *, again: bool = False) -> SocketWire | None:
        """The newest idle wire that is alive; None: dial.

        Args:
            again: the request may be sent again on another one. Then an end that has come since the engine last looked costs
                nothing but that, and is not looked for.
        """
        while self._idle:
            wire, expires = self._idle.popitem()
            wire.on_readable = wire.on_gone = None
            if self._clock() >= expires:
                wire.close()
                self.close_idle()  # the others are older still
                return None
            # One system call against a lost request, or against an answer to a question nobody put:
            # either may have come since the engine last looked.
            if not wire.unread() if again and type(wire) is SocketWire else _quiet(wire):
                return wire
            wire.close()
        return None

    def put(self, wire: SocketWire) -> None:
        """Keep a wire that serves again by its lease, or close it where there is no use or no place for it."""
        if wire.closed:
            return
        if (
            self.retired
            or wire.hung_up
            or wire.torn
            or len(self._idle) >= self.upstream.keepalive_connections
            or (wire.readable and not _quiet(wire))
        ):
            wire.close()
            return
        wire.read_by = wire.write_within = inf
        wire.on_writable = wire.owner = None
        wire.half_close_kept = False
        wire.on_readable = wire.on_gone = partial(self._stir, wire)
        expires = self._clock() + self.upstream.keepalive_idle
        self._idle[wire] = expires
        self._alarms.arm(self, expires)

    def close_idle(self) -> None:
        """Close every idle wire now."""
        while self._idle:
            self._idle.popitem()[0].close()

    def _stir(self, wire: SocketWire) -> None:
        """The engine saw something on an idle wire."""
        if wire.hung_up or not _quiet(wire):
            self._idle.pop(wire, None)
            wire.close()

    def ring(self, now: float) -> float:
        """Close what was idle for too long (called by Alarms)."""
        for wire, expires in tuple(self._idle.items()):
            if now < expires:
                return expires
            del self._idle[wire]
            wire.close()
        return inf

    # -- health ------------------------------------------------------------------------------------

    def failed(self, cause: str) -> None:
        """It could not be reached, broke, or was silent too long; never a client's fault.

        `cause` is DialError's, or the caller's word; "exhausted" is our own lack: not counted.
        """
        if cause == "exhausted":
            return
        now = self._clock()
        if self.failures and now < self.retry_at and not self._trial:
            return
        self._trial = False
        self.failures += 1
        self.cause = cause
        self.retry_at = now + self._back_off()

    def worked(self) -> None:
        """A response head came."""
        if self.failures:
            self.failures = 0
            self.cause = ""
            self.retry_at = 0.0
            self._trial = False
            self._warm_since = self._clock()

    def begin_trial(self, now: float) -> None:
        """A url whose back-off is over was chosen: the others wait for what becomes of it."""
        if self.failures and now >= self.retry_at:
            self._trial = True
            self.retry_at = now + self._back_off()

    def checked(self, healthy: bool) -> None:
        """Active checks have made up their mind (after `rise` or `fall` of them)."""
        if healthy and self.failing_checks:
            self._warm_since = self._clock()
            self.worked()
        self.failing_checks = not healthy

    def available(self, now: float) -> bool:
        """Whether it may be chosen before others are exhausted."""
        return not self.failing_checks and (not self.failures or now >= self.retry_at)

    def weight(self, now: float) -> float:
        """Its share against a warm url: 1, less while it warms up after coming back."""
        warm_in = self.upstream.slow_start
        since = now - self._warm_since
        if since >= warm_in:
            return 1.0
        return max(LEAST_WEIGHT, since / warm_in)

    def _back_off(self) -> float:
        doubled = FIRST_BACK_OFF * 2.0 ** min(self.failures - 1, 10)
        return min(doubled, LONGEST_BACK_OFF) * uniform(1 - JITTER, 1 + JITTER)


def _quiet(wire: SocketWire) -> bool:
    """Whether nothing has come in: no byte of the stream, and not its end."""
    try:
        return wire.recv_nowait(1) is None
    except Gone:
        return False
