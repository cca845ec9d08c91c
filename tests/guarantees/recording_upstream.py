"""An upstream that writes down every byte of every connection, and answers when it is told to: after so many bytes of
the request, whole or not. What came on a connection is read as strictly as can be: requests one after the other, and
nothing between them.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import trio
import trio.testing
import trustme

from relay.http.bodies import BodyReader, body_reader
from relay.http.heads import parse_request
from tests.harness import LIMIT, Relay, route_to, running

AUTHORITY = trustme.CA()
KINDS = ("tcp", "unix", "tls")
# Bytes that an upstream's kernel takes over TCP; what is not read soon stays in relay's
RECEIVED = 16 * 1024
EARLY = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n%b\r\nearly"


class Request:
    """One request as it came: its mark, and its payload."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.payload = bytearray()
        self.whole = False


class Tape:
    """Everything that came on one connection."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.size = 0
        self._head = b""  # an unfinished head
        self._body: BodyReader | None = None

    def feed(self, data: bytes) -> None:
        """Raises: Fault for what is not a request that follows a request."""
        self.size += len(data)
        while data:
            if self._body is None:
                self._head += data
                parsed = parse_request(self._head, 65536)
                if parsed is None:
                    return
                head, used = parsed
                data, self._head = self._head[used:], b""
                self._body = body_reader(head.framing, "client")
                self.requests.append(Request(dict(head.fields)[b"x-mark"]))
            request = self.requests[-1]
            if not self._body.done:
                request.payload += self._body.feed(data)
                data = self._body.surplus
            if self._body.done:
                request.whole = True
                self._body = None


class Plan(NamedTuple):
    """What the next new connection does with its first request."""

    at: int  # bytes of it that are read before the answer is given; less where it is whole before
    keeps: bool  # the answer lets the connection serve again
    reads_on: bool  # what follows is read at once; otherwise once `go_on` is set
    late: bool  # the answer is given when nobody can do anything any more, all buffers are full
    go_on: trio.Event

    def __repr__(self) -> str:
        words = (name for name in ("keeps", "reads_on", "late") if getattr(self, name))
        return f"at {self.at} {' '.join(words)}"


class Recorder:
    """The upstream. `plan` is for the next new connection; all other requests are answered whole, with their mark."""

    def __init__(self, listener: trio.SocketListener, tls: ssl.SSLContext | None) -> None:
        self.plan: Plan | None = None
        self.tapes: list[Tape] = []
        self.open = 0  # connections under way
        self.early = False  # the planned answer was given before its request was whole
        self._listener = listener
        self._tls = tls

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                stream: trio.abc.Stream = await self._listener.accept()
                if self._tls is not None:
                    stream = trio.SSLStream(
                        stream, self._tls, server_side=True, https_compatible=True
                    )
                self.open += 1
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        tape = Tape()
        self.tapes.append(tape)
        plan, self.plan = self.plan, None
        try:
            with suppress(trio.BrokenResourceError):
                await self._talk(stream, tape, plan)
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.abc.Stream, tape: Tape, plan: Plan | None) -> None:
        answered = 0
        if plan is not None:
            while tape.size < plan.at and not (tape.requests and tape.requests[0].whole):
                data = await stream.receive_some(min(65536, plan.at - tape.size))
                if not data:
                    return
                tape.feed(bytes(data))
            if plan.late:
                await trio.testing.wait_all_tasks_blocked(0.002)
            self.early = not (tape.requests and tape.requests[0].whole)
            await stream.send_all(EARLY % (b"" if plan.keeps else b"Connection: close\r\n"))
            answered = 1
            if not plan.reads_on:
                if not plan.keeps:
                    return  # closed with bytes unread: a reset follows the answer
                await plan.go_on.wait()
        while data := await stream.receive_some(65536):
            tape.feed(bytes(data))
            for request in tape.requests[answered:]:
                if request.whole:
                    answered += 1
                    await stream.send_all(
                        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
                        % (len(request.mark), request.mark)
                    )


class Ground(NamedTuple):
    """A relay in front of a recorder."""

    relay: Relay
    up: Recorder

    @property
    def pooled(self) -> int:
        """How many upstream connections wait to serve again."""
        origins = [origin for group in self.relay.worker.groups for origin in group.origins]
        return sum(len(origin.idle) for origin in origins)

    def close_pooled(self) -> None:
        for group in self.relay.worker.groups:
            for origin in group.origins:
                origin.close_idle()

    async def over(self) -> list[Tape]:
        """Every connection has ended: what came on them, the oldest first."""
        self.close_pooled()
        with trio.fail_after(LIMIT):
            while self.up.open:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.0005)
        tapes, self.up.tapes = self.up.tapes, []
        return tapes

    @classmethod
    @asynccontextmanager
    async def of(cls, kind: str, folder: Path, route: str = "") -> AsyncIterator[Self]:
        """An upstream of `kind` (see KINDS), its socket or certificate in `folder`."""
        tls, keys = None, ""
        if kind == "unix":
            path = folder / "up.sock"
            sock = trio.socket.socket(trio.socket.AF_UNIX)
            await sock.bind(str(path))
            sock.listen(64)
            listener, url = trio.SocketListener(sock), f"unix:{path}"
        else:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        if kind == "tls":
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            AUTHORITY.issue_cert("127.0.0.1").configure_cert(tls)
            AUTHORITY.cert_pem.write_to_path(str(folder / "ca.pem"))
            url = url.replace("http:", "https:")
            keys = f'tls_ca = "{folder / "ca.pem"}"'
        up = Recorder(listener, tls)
        config = route_to(url, route, upstream_keys=keys)
        async with listener, running(config) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(up.run)
            yield cls(relay, up)
            nursery.cancel_scope.cancel()
