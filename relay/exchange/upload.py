"""The client's read side: the request body goes up, beside the response that comes down.

Who ends it: the body's end, the client's leaving (recorded, the exchange is cancelled), a Fault in its bytes or its
deadline (kept in `fault`, the exchange's nursery is cancelled and the exchange answers), the upstream that stops
reading (an early response is then on its way: the response side decides), or `stop`.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from relay.config.values import Route
from relay.http.fault import Fault
from relay.sources.request_body import RequestBody
from relay.upstreams.lease import Lease
from relay.wires.alarms import Alarms
from relay.wires.client_wire import ClientWire, on_engine
from relay.wires.socket_wire import SocketWire
from relay.wires.splice import TAKE
from relay.wires.wire import Expired, Gone

# Seconds before the least rate of an upload is enforced: TCP's slow start, a phone's radio
SLOW_START = 5.0


class BodyReading:
    """Reads of a request body under the two clocks that bound a slow sender: idle, and least rate."""

    __slots__ = ("_alarms", "_left", "_route", "_started", "body", "wire")

    def __init__(
        self,
        body: RequestBody,
        wire: ClientWire,
        route: Route,
        alarms: Alarms,
        left: Callable[[], None],
    ) -> None:
        """left: called when the client leaves; it cancels whoever reads."""
        self.body = body
        self.wire = wire
        self._route = route
        self._alarms = alarms
        self._left = left
        self._started = alarms.awake()

    async def next(self) -> bytes:
        """The next bytes. Raises: Fault (408). A client that leaves ends the exchange."""
        self._set_clock()
        try:
            data = await self.wire.receive()
        except Expired:
            raise self._silent() from None
        except Gone:
            data = b""
        await self._check(len(data))
        return data

    async def next_unseen(
        self, client: SocketWire, target: SocketWire, limit: int
    ) -> tuple[int, bytes]:
        """The next bytes straight to `target`; as `SocketWire.pass_on`, and as `next`."""
        self._set_clock()
        try:
            size, rest = await client.pass_on(target, limit)
        except Expired:
            raise self._silent() from None
        await self._check(size)
        return size, rest

    def _set_clock(self) -> None:
        self.wire.read_by = trio.current_time() + self._route.timeouts.request_body_idle

    def _silent(self) -> Fault:
        idle = self._route.timeouts.request_body_idle
        message = f"no byte of the request body for {idle:g} s"
        return Fault("client", 408, "request_timeout", message)

    async def _check(self, size: int) -> None:
        if not size:
            self._left()
            await trio.sleep_forever()  # `left` cancelled the scope around us
        self._check_rate(size)

    def _check_rate(self, size: int) -> None:
        least = self._route.limits.request_body_rate
        elapsed = self._alarms.awake() - self._started
        if least and elapsed > SLOW_START and (self.body.received + size) / elapsed < least:
            raise Fault(
                "client", 408, "request_too_slow", f"the request body is slower than {least} B/s"
            )


class Upload:
    """Feeds the rest of one request body to one upstream wire."""

    __slots__ = (
        "_awaits_head",
        "_failed",
        "_finished",
        "_lease",
        "_reading",
        "_scope",
        "_wire",
        "_within",
        "fault",
    )

    def __init__(
        self,
        reading: BodyReading,
        lease: Lease,
        within: float,
        *,
        write: float,
        awaits_head: Callable[[], bool],
        failed: Callable[[], None],
    ) -> None:
        """
        Args:
            within: seconds from the end of the body to the response head.
            write: seconds in which the upstream must take some of it.
            awaits_head: whether the source still waits for that head.
            failed: called when `fault` was set.
        """
        self._reading = reading
        self._lease = lease
        self._wire = lease.wire
        self._wire.write_within = write
        self._within = within
        self._awaits_head = awaits_head
        self._failed = failed
        self._scope = trio.CancelScope()
        self._finished = trio.Event()
        self.fault: Fault | None = None

    async def run(self) -> None:
        """The nursery's child. Cancellation: what was read is in `body.kept`, the wire is dead."""
        try:
            with self._scope:
                await self._feed()
        except Fault as fault:
            self.fault = fault
            self._failed()
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Give the wire up; returns when nothing feeds it any more."""
        self._scope.cancel()
        await self._finished.wait()

    async def _feed(self) -> None:
        reading, body = self._reading, self._reading.body
        client = reading.wire
        plain = type(self._wire) is SocketWire
        try:
            await self._wire.flushed()  # the head, and what there was of the body
            while not body.done:
                if plain and body.plain and on_engine(client):
                    # One take of a plain body, unseen; what the upstream does not take at once is waited for.
                    size, rest = await reading.next_unseen(client, self._wire, body.wanted(TAKE))
                    body.passed(size)
                    if rest:
                        await self._wire.send(rest)
                    continue
                out = body.take(await reading.next())
                if out:
                    await self._wire.send(out)
            self._lease.request_sent()
        except (Gone, Expired):
            pass  # the upstream takes no more: it may have answered, or must now
        if self._awaits_head():
            self._wire.read_until(trio.current_time() + self._within)


async def whole_body(reading: BodyReading, limit: int) -> bytes:
    """The whole body, for a source that reads it itself. Raises: Fault."""
    body = reading.body
    while not body.done:
        body.take(await reading.next())
        if body.size > limit:
            break
    if body.size > limit:
        raise Fault("client", 413, "body_too_large", "the request body is over the limit")
    return body.given()
