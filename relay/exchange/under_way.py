"""One request that is served in steps of the engine (`exchange.step`): whom it was sent to, and what becomes of that.

Rules
  * The lease is released once: in the step that ends the exchange (`_let_go`), or by who takes it over.
  * The exchange as the task has it is made where the task is to have it, and by the functions that make every other one.
"""

from __future__ import annotations

from typing import Protocol

import trio

from relay.exchange.exchange import Exchange
from relay.exchange.prepared import PreparedAnswer, PreparedRequest
from relay.exchange.preparing import Asking
from relay.exchange.transfer import LEFT, STALLED
from relay.exchange.worker import RouteState
from relay.http.heads import RequestHead
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.sources.attempt import Begun
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.connecting import Connecting
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired, Gone


class Host(Asking, Protocol):
    """The connection whose requests these are."""

    busy: bool
    kept: bool

    def begin(self, head: RequestHead, began: tuple[str, float] | None = None) -> Exchange:
        """An exchange for a request."""

    def over(self, exchange: Exchange) -> None:
        """The exchange has ended: close its books."""


class UnderWay:
    """A connection's request under way, if there is one. `Steps` says what happens to it, and when."""

    __slots__ = (
        "_asked",
        "_came_at",
        "_client",
        "_dialling",
        "_host",
        "_id",
        "_lease",
        "_origin",
        "_url",
        "_worker",
    )

    def __init__(self, host: Host, client: SocketWire) -> None:
        self._host = host
        self._client = client
        self._worker = host.worker
        self._asked: PreparedRequest[RouteState] | None = None  # None: the client is idle
        self._origin: Origin | None = None  # whom it is sent to
        self._dialling: Connecting | None = None
        self._lease: Lease | None = None
        self._id = ""
        self._url = ""
        self._came_at = 0.0

    def _exchange(self) -> Exchange:
        """The exchange for the task to go on with, as if the task had begun it."""
        asked = self._asked
        assert asked is not None
        exchange = self._host.begin(asked.head, (self._id, self._came_at))
        exchange.take_route(asked.head, asked.params, asked.state)
        exchange.record.about = asked.record.about
        exchange.phase = Phase.REQUEST if self._dialling is None else Phase.DIAL
        exchange.reached(self._url)
        self._client.on_gone = None
        return exchange

    def _count(self, status: int, size: int, first_byte: float) -> None:
        """The exchange is over: its line, and its counts."""
        asked, log = self._asked, self._worker.log
        assert asked is not None
        record = asked.record
        record.id, record.started, record.first_byte = self._id, self._came_at, first_byte
        record.status = record.upstream_status = status
        record.upstream, record.bytes_out = self._url, size
        if log is not None:
            log.write(self._worker.lines.end(record, COMPLETE, trio.current_time()))
        asked.state.counters.ended(COMPLETE.cause, 0, size, first_byte - self._came_at)

    def _let_go(self) -> None:
        """Be done with the upstream connection: it serves again, or is closed."""
        origin, self._origin = self._origin, None
        assert origin is not None
        origin.streams -= 1
        if self._lease is not None:
            self._lease.release()
        if self._dialling is not None:
            self._dialling.close()
        self._lease = self._dialling = None

    def _answered(self, lease: Lease, answer: PreparedAnswer[RouteState]) -> bytes:
        """The head of the answer has come, and can be passed on. Returns: as the client gets it."""
        lease.answered(answer.head)
        lease.origin.worked()
        return self._id.encode("ascii").join(answer.parts)

    def _end_under_way(self, cause: Cause | None) -> None:
        """End what is under way, where no task will: the task is cancelled (`cause` None), or a step raised."""
        if self._asked is None:
            return
        exchange = self._exchange()
        self._asked = None
        # There is none where a step raised before it was chosen, or behind the answer
        if self._origin is not None:
            self._let_go()
        if cause is not None:
            exchange.ending = Ending(Side.RELAY, exchange.phase, cause)
        self._host.over(exchange)

    def _half_written(self, status: int, size: int, first_byte: float) -> Exchange:
        """An exchange whose whole answer was posted, and is not taken yet, for the task to wait for."""
        exchange = self._exchange()
        exchange.answering = True
        exchange.phase = Phase.RESPONSE
        record = exchange.record
        record.status, record.bytes_out, record.first_byte = status, size, first_byte
        exchange.answered(status)
        return exchange

    async def _write_rest(self, exchange: Exchange) -> tuple[Exchange, Begun | None]:
        """Wait until the client has taken that answer. Cancellation: the exchange has ended, and is counted."""
        try:
            exchange.watch_client()
            await self._client.flushed()
            exchange.end(COMPLETE)
        except (Gone, Expired) as error:
            exchange.end(STALLED if isinstance(error, Expired) else LEFT)
        except BaseException:
            self._host.over(exchange)
            raise
        return exchange, None
