"""What the chaos test throws at a relay: four kinds of upstream, and clients that end in every way. All of it from one seed.

Every request carries a mark. An upstream notes the marks it was asked with, and answers with the one that it read: a mark
that stands in another request's answer, or that was seen twice, is a request that was merged or doubled.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import trio

from tests.harness import chunked

MARK = re.compile(rb"mark-(\d+)-")
EVENTS = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Marks:
    """The marks that upstreams were asked with."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()


class Upstream:
    """One listener; `mood` decides how each request ends."""

    def __init__(self, mood: str, marks: Marks, dice: random.Random) -> None:
        self.mood = mood
        self.marks = marks
        self.dice = dice
        self.port = 0
        self.open = 0

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.open += 1
        try:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = await stream.receive_some(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", head.lower())
                length = int(size[1]) if size else 0
                early = self.mood == "hasty" and length and self.dice.random() < 0.5
                while len(data) < length and not early:
                    more = await stream.receive_some(65536)
                    if not more:
                        return
                    data += more
                body, data = data[:length], data[length:]
                marks = MARK.findall(head.partition(b"\r\n")[0] + body)
                assert len(set(marks)) <= 1, "two requests in one"
                mark = marks[0] if marks else b"0"
                if b"/jobs/cancel" not in head:
                    self.marks.seen[head.split(b" ", 2)[1].partition(b"?")[0] + b" " + mark] += 1
                if not await self._answer(stream, head, mark) or early:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, head: bytes, mark: bytes) -> bool:
        """Answer; False: the connection ends."""
        dice, send = self.dice, stream.send_all
        if b" /jobs " in head or b" /ask " in head or b"/jobs/cancel" in head:
            body = b'{"id":"mark-%b-","text":"an answer of several words mark-%b-"}' % (mark, mark)
            if dice.random() < 0.1:
                return False
            await send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return True
        if dice.random() < 0.2:
            body = b"mark-%b-" % mark * dice.choice([1, 2000])
            status = dice.choice([b"200 OK", b"401 No", b"503 No"])
            await send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            return True
        if self.mood == "rude" and dice.random() < 0.3:
            await send(
                dice.choice([b"", b"HTTP/1.1 2", b"hello\r\n\r\n", b"HTTP/1.1 101 X\r\n\r\n"])
            )
            return False
        await send(b"HTTP/1.1 200 OK\r\n" + EVENTS)
        for number in range(dice.randrange(12)):
            await send(chunked(b"data: mark-%b- %d\n\n" % (mark, number)))
            await self._pace()
        ending = dice.choice(["clean", "clean", "cut", "half"])
        if ending == "half":
            await send(b"20\r\ndata: half an")
        elif ending == "clean":
            await send(b"0\r\n\r\n")
        return ending == "clean"

    async def _pace(self) -> None:
        if self.mood == "slow" or self.dice.random() < 0.1:
            await trio.sleep(self.dice.random() * 0.05)
        else:
            await trio.lowlevel.checkpoint()


def request(number: int, dice: random.Random) -> bytes:
    """One of the routes, marked."""
    mark = b"mark-%d-" % number
    kind = dice.choice(["get", "post", "post", "job", "ask", "local", "file", "chat", "chat"])
    host = b" HTTP/1.1\r\nHost: relay.test\r\n"
    if kind == "get":
        return b"GET /any/%b%b\r\n" % (mark, host)
    if kind in ("local", "file"):
        path = b"here" if kind == "local" else b"files/page.txt"
        return b"GET /%b%b\r\n" % (path, host)
    body = b'{"id":"%b","query":"%b","text":"%b"}' % (mark, mark, mark * dice.choice([1, 1, 5000]))
    path = {"post": b"/any/body", "job": b"/job", "ask": b"/question", "chat": b"/chat"}[kind]
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"POST %b%b%b\r\n%b" % (path, host, length, body)


async def client(port: int, number: int, dice: random.Random, got: dict[int, set[bytes]]) -> None:
    """Ask, read, and leave in one way or another. Notes the marks that stand in the answer."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    marks = got.setdefault(number, set())
    try:
        message = request(number, dice)
        step = (
            dice.choice([len(message), len(message), 1 << 14, 100])
            if len(message) < 20_000
            else 1 << 14
        )
        stop = len(message) if dice.random() < 0.9 else dice.randrange(len(message))
        for at in range(0, stop, step):
            await stream.send_all(message[at : min(stop, at + step)])
        way = dice.choice(["read", "read", "read", "leave", "reset", "stuck", "slow"])
        if way == "leave":
            return
        if way == "reset":
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        seen = b""
        with trio.move_on_after(0.4 if way == "stuck" else 3):
            while way != "stuck":
                data = await stream.receive_some(512 if way == "slow" else 65536)
                if not data:
                    break
                seen = seen[-32:] + data
                marks.update(MARK.findall(seen))
                if seen.endswith(b"0\r\n\r\n"):
                    break
            else:
                await trio.sleep_forever()
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)
