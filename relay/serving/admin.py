"""The admin listener: health, metrics, the live streams, and a page that shows them (design §9).

    accept ─► head (http.heads) ─► Pages.answer ─► response (http.serialise) ─► next head …

Rules
  * Its own socket, its own limits: nothing of it can be reached through a public listener, and a
    flood of clients there takes no slot here.
  * It knows nothing of workers but what Control brings, so it is a task of a lone worker and a
    process of its own beside many.
  * Every wait has a deadline. A request with a body is refused: no resource takes one.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from ipaddress import ip_address

import trio

from relay.config.values import Config
from relay.http.fault import Fault
from relay.http.heads import RequestHead, parse_request
from relay.http.serialise import response_bytes
from relay.serving.admin_guard import Guard, Reach
from relay.serving.admin_pages import Answer, Pages, of_fault
from relay.serving.control import Control

logger = logging.getLogger("relay")

CONNECTIONS = 64  # at a time: a few scrapers, probes and pages; what is more waits in the kernel
HEAD_WITHIN = 5.0  # seconds from the first byte of a head to its last
IDLE = 75.0  # seconds between requests; a scraper that comes every minute keeps its connection
WRITE_WITHIN = 30.0  # seconds for one response
HEAD_LIMIT = 16 * 1024  # bytes
READ_SIZE = 16 * 1024  # bytes
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_ACCEPT = 0.1  # seconds


async def serve_admin(
    sock: socket.socket,
    config: Config,
    control: Control,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; says `relay: admin on ADDR` once it does.

    Resource handling: `sock`, which listens, stays its opener's.
    """
    pages = Pages(control, Guard(config.server.admin_token, _reach(sock)))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    slots = trio.Semaphore(CONNECTIONS)
    async with trio.open_nursery() as nursery:
        print(f"relay: admin on {_name(sock)}", file=sys.stderr, flush=True)
        task_status.started()
        while True:
            await slots.acquire()
            stream = await _accept(listener)
            nursery.start_soon(_serve, stream, pages, slots)


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            await trio.sleep(_RETRY_ACCEPT)


async def _serve(stream: trio.abc.Stream, pages: Pages, slots: trio.Semaphore) -> None:
    """One connection. A fault of relay's own costs this connection alone."""
    try:
        async with stream:
            await _Connection(stream, pages).run()
    except trio.BrokenResourceError:
        pass  # the client is gone
    except Exception:
        logger.exception("a fault of relay's own in the admin listener")
    finally:
        slots.release()


class _Connection:
    def __init__(self, stream: trio.abc.Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages
        self._pending = b""  # bytes behind the last request

    async def run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                head = await self._head()
            except Fault as fault:
                await self._send(of_fault(fault), close=True)
                return
            if head is None:
                return
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
            scope.deadline = trio.current_time() + (HEAD_WITHIN if self._pending else IDLE)
            while True:
                if self._pending:
                    parsed = parse_request(self._pending, HEAD_LIMIT)
                    if parsed is not None:
                        head, used = parsed
                        self._pending = self._pending[used:]
                        return head
                more = await self._stream.receive_some(READ_SIZE)
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
        with trio.move_on_after(WRITE_WITHIN) as scope:
            await self._stream.send_all(out if head_only else out + answer.body)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client stopped reading")


def _reach(sock: socket.socket) -> Reach:
    if sock.family == socket.AF_UNIX:
        return "unix"
    return "loopback" if ip_address(sock.getsockname()[0]).is_loopback else "outside"


def _name(sock: socket.socket) -> str:
    """The address as it is announced: with the port that was really bound."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
