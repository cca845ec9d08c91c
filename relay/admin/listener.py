"""The admin listener: health, metrics, the live streams, and a page that shows them (docs/reference/admin.md).

    accept ─► head (http.heads) ─► Pages.answer ─► response (http.serialise) ─► next head …

Rules
  * Its own socket, its own limits: nothing of it can be reached through a public listener, and a
    flood of clients there takes no slot here.
  * It knows nothing of workers but what Control brings, so it is a task of a lone worker and a
    process of its own beside many.
  * Every wait has a deadline. A request with a body is refused: no resource takes one.
  * Strangers that say nothing keep nobody out: when all places are taken, whoever comes gets the place of who has been
    silent for longest, or has not read its answer for longest. A probe needs its answer now, not in a minute.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address

import trio

from relay.admin.control import Control
from relay.admin.guard import Guard, Reach
from relay.admin.pages import Answer, Pages, of_fault
from relay.config.values import Address, Config
from relay.http.fault import Fault
from relay.http.heads import RequestHead, parse_request
from relay.http.serialise import response_bytes
from relay.observing.exposition import Totals
from relay.wires.descriptors import is_lack, reserved

logger = logging.getLogger("relay")

CONNECTIONS = 64  # at a time: a few scrapers, probes and pages; fewer where descriptors are few
FIRST_WITHIN = 10.0  # seconds from the connection to the first byte of a request
HEAD_WITHIN = 5.0  # seconds from the first byte of a head to its last
IDLE = 75.0  # seconds between requests; a scraper that comes every minute keeps its connection
READ_WITHIN = 1.0  # seconds an answer may take to be read when others wait for the place
WRITE_WITHIN = 30.0  # seconds for one response
HEAD_LIMIT = 16 * 1024  # bytes
READ_SIZE = 16 * 1024  # bytes
_FEWEST = 4  # places, whatever the limit of descriptors
_RETRY_ACCEPT = 0.1  # seconds


async def serve_admin(
    socks: socket.socket | Sequence[socket.socket],
    config: Config,
    control: Control,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; says `relay: admin on ADDR` once it does.

    Args:
        socks: that listen: several where the address is a name that has several.

    Resource handling: the sockets stay their opener's.
    """
    totals = Totals()
    places = Places(min(CONNECTIONS, max(_FEWEST, reserved() // 2)))
    async with trio.open_nursery() as nursery:
        for sock in [socks] if isinstance(socks, socket.socket) else socks:
            pages = Pages(control, Guard(config.server.admin_token, _reach(sock)), totals)
            name = _name(sock, config.server.admin)
            print(f"relay: admin on {name}", file=sys.stderr, flush=True)
            nursery.start_soon(_listen, sock, pages, places, nursery)
        task_status.started()


async def _listen(sock: socket.socket, pages: Pages, places: Places, nursery: trio.Nursery) -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    while True:
        connection = Connection(await _accept(listener), pages, places)
        try:
            await places.take(connection)
        except trio.Cancelled:
            await trio.aclose_forcefully(connection.stream)
            raise
        nursery.start_soon(serve_connection, connection, places)


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if not is_lack(error):
                raise
            await trio.sleep(_RETRY_ACCEPT)


class Places:
    """Who is connected. A place is taken before a connection is served, and left when it has ended."""

    __slots__ = ("_changed", "_most", "_resting", "taken")

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0
        # Who waits for a request, or for its answer to be read, since when; longest first. These can be put out.
        self._resting: dict[Connection, float] = {}
        self._changed = trio.Event()

    async def take(self, connection: Connection) -> None:
        """A place for `connection`: a free one, or somebody else's.

        Waits while everybody's answer is being worked out or sent, which takes moments.
        """
        while self.taken >= self._most and not self._put_out():
            self._changed = trio.Event()
            with trio.move_on_after(READ_WITHIN):
                await self._changed.wait()
        self.taken += 1
        self.rests(connection)

    def _put_out(self) -> bool:
        now = trio.current_time()
        for connection, since in self._resting.items():
            if not connection.sending or now >= since + READ_WITHIN:
                del self._resting[connection]
                self.taken -= 1
                connection.placed = False
                connection.scope.cancel()
                return True
        return False

    def rests(self, connection: Connection) -> None:
        """The connection waits for its client from now on, and may be put out for somebody else."""
        self._resting.pop(connection, None)
        if connection.placed:
            self._resting[connection] = trio.current_time()
            self._changed.set()

    def works(self, connection: Connection) -> None:
        """Its answer is being worked out."""
        self._resting.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        self._resting.pop(connection, None)
        if connection.placed:
            self.taken -= 1
        self._changed.set()


async def serve_connection(connection: Connection, places: Places) -> None:
    """One connection. A fault of relay's own costs this connection alone."""
    try:
        async with connection.stream:
            await connection.run()
    except trio.BrokenResourceError:
        pass  # the client is gone
    except Exception:
        logger.exception("a fault of relay's own in the admin listener")
    finally:
        places.leave(connection)


class Connection:
    """A client, with a place of its own until it is put out: `scope` ends it from outside."""

    def __init__(self, stream: trio.abc.Stream, pages: Pages, places: Places) -> None:
        self.stream = stream
        self._pages = pages
        self._places = places
        self._pending = b""  # bytes behind the last request
        self._idle = FIRST_WITHIN
        self.scope = trio.CancelScope()
        self.placed = True
        self.sending = False

    async def run(self) -> None:
        with self.scope:
            await self._talk()

    async def _talk(self) -> None:
        goes_on = True
        while goes_on:
            try:
                head = await self._head()
            except Fault as fault:
                await self._send(of_fault(fault), close=True)
                return
            if head is None:
                return
            self._places.works(self)
            self._idle = IDLE
            goes_on = head.keep_alive and head.framing == 0
            try:
                if head.framing != 0:
                    raise Fault("client", 413, "body_too_large", "no request here has a body")
                answer = await self._pages.answer(head)
            except Fault as fault:
                answer = of_fault(fault)
            await self._send(answer, close=not goes_on, head_only=head.method == b"HEAD")

    async def _head(self) -> RequestHead | None:
        """The next request head; None: the client is done, or too slow. Raises: Fault."""
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + (HEAD_WITHIN if self._pending else self._idle)
            while True:
                if self._pending:
                    parsed = parse_request(self._pending, HEAD_LIMIT)
                    if parsed is not None:
                        head, used = parsed
                        self._pending = self._pending[used:]
                        return head
                more = await self.stream.receive_some(READ_SIZE)
                if not more:
                    return None
                if not self._pending:
                    scope.deadline = trio.current_time() + HEAD_WITHIN
                self._pending += more
        return None

    async def _send(self, answer: Answer, *, close: bool, head_only: bool = False) -> None:
        fields = answer.all_fields()
        if close:
            fields.append((b"connection", b"close"))
        out = response_bytes(answer.status, b"", fields)
        self.sending = True
        self._places.rests(self)
        with trio.move_on_after(WRITE_WITHIN) as scope:
            await self.stream.send_all(out if head_only else out + answer.body)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client stopped reading")
        self.sending = False
        self._places.rests(self)


def _reach(sock: socket.socket) -> Reach:
    if sock.family == socket.AF_UNIX:
        return "unix"
    return "loopback" if ip_address(sock.getsockname()[0]).is_loopback else "outside"


def _name(sock: socket.socket, address: Address | None) -> str:
    """The address as it is announced: as that of any listener."""
    if sock.family == socket.AF_UNIX:
        if address is not None and address.written is not None:
            return address.written
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
