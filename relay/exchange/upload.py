"""The client's read side: the request body goes up, beside the response that comes down.

Who ends it: the body's end, the client's leaving (recorded, the exchange is cancelled), a Fault in its bytes or its
deadline (kept in `fault`, the exchange's nursery is cancelled and the exchange answers), the upstream that stops
reading (an early response is then on its way: the response side decides), or `stop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relay.http.fault import Fault
from relay.http.serialise import response_bytes
from relay.observing.ending import Phase
from relay.sources.request_body import RequestBody
from relay.upstreams.lease import Lease
from relay.wires.socket_wire import SocketWire
from relay.wires.splice import TAKE
from relay.wires.wire import Expired, Gone

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange

GRACE = (
    5.0  # seconds before the least rate of an upload is enforced: TCP's slow start, a phone's radio
)


class Upload:
    """Feeds the rest of one request body to one upstream wire."""

    __slots__ = ("_exchange", "_finished", "_lease", "_scope", "_wire", "_within", "fault")

    def __init__(self, exchange: Exchange, lease: Lease, within: float) -> None:
        self._exchange = exchange
        self._lease = lease
        self._wire = lease.wire
        self._within = within
        self._scope = trio.CancelScope()
        self._finished = trio.Event()
        self.fault: Fault | None = None

    async def run(self) -> None:
        """The nursery's child. Cancellation: what was read is in `body.kept`, the wire is dead."""
        exchange = self._exchange
        try:
            with self._scope:
                await self._feed()
        except Fault as fault:
            self.fault = fault
            assert exchange.nursery is not None
            exchange.nursery.cancel_scope.cancel()
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Give the wire up; returns when nothing feeds it any more."""
        self._scope.cancel()
        await self._finished.wait()

    async def _feed(self) -> None:
        body = self._exchange.body
        assert body is not None
        self._wire.write_within = self._exchange.route.timeouts.write
        reader = BodyReading(self._exchange)
        client = self._exchange.wire
        sockets = isinstance(client, SocketWire) and type(self._wire) is SocketWire
        try:
            await self._wire.flushed()  # the head, and what there was of the body
            while not body.done:
                if sockets and body.plain:
                    await self._move(reader, body)
                    continue
                out = body.take(await reader.next())
                if out:
                    await self._wire.send(out)
            self._lease.request_sent()
        except (Gone, Expired):
            pass  # the upstream takes no more: it may have answered, or must now
        if self._exchange.phase is Phase.REQUEST:
            self._wire.read_until(trio.current_time() + self._within)

    async def _move(self, reader: BodyReading, body: RequestBody) -> None:
        """One take of a plain body, unseen; what the upstream does not take at once is waited for."""
        size, rest = await reader.next_unseen(self._wire, body.wanted(TAKE))
        body.passed(size)
        if rest:
            await self._wire.send(rest)

    @staticmethod
    async def whole(exchange: Exchange, limit: int) -> bytes:
        """The whole body, for a source that reads it itself. Raises: Fault."""
        body = exchange.body
        if body is None:
            return b""
        if not body.done and exchange.head.expects_continue and not body.received:
            await exchange.say(response_bytes(100, b"", []))
        reader = BodyReading(exchange)
        while not body.done:
            body.take(await reader.next())
            if body.size > limit:
                break
        if body.size > limit:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        return body.given()


class BodyReading:
    """Reads of a request body under the two clocks that bound a slow sender: idle, and least rate."""

    __slots__ = ("_exchange", "_started", "_until")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._started = exchange.alarms.awake()

    async def next(self) -> bytes:
        """The next bytes. Raises: Fault (408). A client that leaves ends the exchange."""
        self._set_clock()
        try:
            data = await self._exchange.wire.receive()
        except Expired:
            raise self._silent() from None
        except Gone:
            data = b""
        await self._check(len(data))
        return data

    async def next_unseen(self, target: SocketWire, limit: int) -> tuple[int, bytes]:
        """The next bytes straight to `target`; as `SocketWire.pass_on`, and as `next`."""
        wire = self._exchange.wire
        assert isinstance(wire, SocketWire)
        self._set_clock()
        try:
            size, rest = await wire.pass_on(target, limit)
        except Expired:
            raise self._silent() from None
        await self._check(size)
        return size, rest

    def _set_clock(self) -> None:
        idle = self._exchange.route.timeouts.request_body_idle
        self._exchange.wire.read_by = trio.current_time() + idle

    def _silent(self) -> Fault:
        idle = self._exchange.route.timeouts.request_body_idle
        message = f"no byte of the request body for {idle:g} s"
        return Fault("client", 408, "request_timeout", message)

    async def _check(self, size: int) -> None:
        if not size:
            self._exchange.client_left()
            await trio.sleep_forever()  # client_left cancelled the scope around us
        self._check_rate(size)

    def _check_rate(self, size: int) -> None:
        exchange = self._exchange
        least = exchange.route.limits.request_body_rate
        elapsed = exchange.alarms.awake() - self._started
        assert exchange.body is not None
        if least and elapsed > GRACE and (exchange.body.received + size) / elapsed < least:
            raise Fault(
                "client", 408, "request_too_slow", f"the request body is slower than {least} B/s"
            )
