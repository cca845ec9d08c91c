"""How the admin listener reaches the workers: their figures, their state, and a stream to stop.

    workers = 1   admin task    ─► LocalControl  ─► the Worker of this process
    workers = N   admin process ─► RemoteControl ─► one slot per worker ─► `answer` in each of them

A slot is a pair of connected sockets that outlives the worker in it. A request is one message on
the slot with one end of a fresh socket pair in it; the worker writes its answer there and closes.

Rules
  * A worker that dies shows as an end without an answer; its successor finds the requests that it
    did not take. No answer can be taken for another's.
  * A worker that does not answer within PATIENCE is left out, never waited for.
  * A message says how many descriptors are in it. The kernel drops what the receiver has no room for (recvmsg(2),
    MSG_CTRUNC), so a message that lacks one is refused whole, and its asker sees an end without an answer.
  * Whoever asks for figures while the same figures are under way gets those: a flood of scrapes costs the workers, and
    this process in descriptors, no more than one.
  * Values are what JSON can carry, in both forms, so that one worker and many look alike.

For the admin listener (`relay.admin.listener`): `run` starts `serve_admin(sock, config, control)`
as a task (one worker) or as a process (many); it serves until it is cancelled. What a snapshot is
stands in `relay.observing.exposition.snapshot(worker)`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

if TYPE_CHECKING:  # loaded when a figure is asked for
    from relay.observing.exposition import Row, Snapshot

logger = logging.getLogger("relay")

PATIENCE = 2.0  # seconds a worker has for an answer
MAX_ANSWER = 64 * 1024 * 1024  # bytes; 10,000 streams of a worker are about 3 MB
_STOPS = 4  # at a time: each takes two descriptors for every worker
_MAX_REQUEST = 64 * 1024  # bytes; what is longer travels as a descriptor
_MAX_FDS = 250  # the kernel's SCM_MAX_FD is 253

Handler = Callable[[Mapping[str, Any], Sequence[int]], Any]


class WorkerState(NamedTuple):
    """One worker as it sees itself."""

    number: int  # of its slot, from 0
    pid: int  # 0: it does not answer
    state: str  # "serving" | "draining" | "absent"
    started: float = 0.0  # seconds since the epoch


class Control(Protocol):
    """What the admin listener may ask of the workers."""

    async def snapshot(self) -> dict[int, Snapshot]:
        """The figures of every worker that answers, by its number."""
        ...

    async def streams(self) -> dict[int, list[Row]]:
        """Every body under way, by its worker's number. Apart from the figures: it may be long."""
        ...

    async def stop(self, exchange_id: str) -> bool:
        """End one stream with its terminal event; False: no worker has it."""
        ...

    async def states(self) -> list[WorkerState]:
        """Every worker, those that do not answer too."""
        ...


class Served(Protocol):
    """The part of a Server that the admin listener reads."""

    @property
    def draining(self) -> bool: ...
    def snapshot(self) -> Snapshot: ...
    def streams(self) -> list[Row]: ...
    def stop_stream(self, exchange_id: str) -> bool: ...


class LocalControl:
    """The worker of this very process."""

    __slots__ = ("_served", "_started")

    def __init__(self, served: Served, started: float) -> None:
        self._served = served
        self._started = started

    async def snapshot(self) -> dict[int, Snapshot]:
        await trio.lowlevel.checkpoint()
        return {0: self._served.snapshot()}

    async def streams(self) -> dict[int, list[Row]]:
        await trio.lowlevel.checkpoint()
        return {0: self._served.streams()}

    async def stop(self, exchange_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        return self._served.stop_stream(exchange_id)

    async def states(self) -> list[WorkerState]:
        await trio.lowlevel.checkpoint()
        return [WorkerState(0, os.getpid(), _state(self._served), self._started)]


class RemoteControl:
    """The workers behind the slots, asked all at once."""

    __slots__ = ("_questions", "_slots", "_stops")

    def __init__(self, slots: Sequence[socket.socket]) -> None:
        self._slots = slots
        self._questions: dict[str, _Question] = {}
        self._stops = trio.CapacityLimiter(_STOPS)

    async def snapshot(self) -> dict[int, Snapshot]:
        return await self._shared("snapshot")

    async def streams(self) -> dict[int, list[Row]]:
        return await self._shared("streams")

    async def stop(self, exchange_id: str) -> bool:
        async with self._stops:
            answers = await self._ask_all({"do": "stop", "id": exchange_id})
        return any(answers.values())

    async def states(self) -> list[WorkerState]:
        answers = await self._shared("state")
        absent = (0, "absent", 0.0)
        return [WorkerState(n, *answers.get(n, absent)) for n in range(len(self._slots))]

    async def _shared(self, do: str) -> dict[int, Any]:
        """What every worker answers, by its number. The value is shared with whoever asks meanwhile: not to be changed.

        Cancellation: who waited for this one's answer asks anew.
        """
        while (asked := self._questions.get(do)) is not None:
            await asked.over.wait()
            if asked.answers is not None:
                return asked.answers
        question = self._questions[do] = _Question()
        try:
            question.answers = await self._ask_all({"do": do})
            return question.answers
        finally:
            del self._questions[do]
            question.over.set()

    async def _ask_all(self, request: Mapping[str, Any]) -> dict[int, Any]:
        answers: dict[int, Any] = {}

        async def ask_one(number: int, slot: socket.socket) -> None:
            with suppress(OSError, ValueError, trio.BrokenResourceError, trio.TooSlowError):
                answers[number] = await _ask(slot, request)

        async with trio.open_nursery() as nursery:
            for number, slot in enumerate(self._slots):
                nursery.start_soon(ask_one, number, slot)
        return dict(sorted(answers.items()))


class _Question:
    """A question to all workers that is under way; whoever comes meanwhile gets its answer too."""

    __slots__ = ("answers", "over")

    def __init__(self) -> None:
        # None when it is over: whoever asked was cancelled
        self.answers: dict[int, Any] | None = None
        self.over = trio.Event()


def open_slot() -> tuple[socket.socket, socket.socket]:
    """The asker's and the worker's end of a slot. Messages arrive whole or not at all."""
    asker, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker.setblocking(False)
    worker.setblocking(False)
    return asker, worker


def tell(slot: socket.socket, request: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one request without awaiting an answer. Raises: OSError (a slot that nobody empties)."""
    socket.send_fds(slot, [json.dumps({**request, "fds": len(fds)}).encode()], fds)


async def _ask(slot: socket.socket, request: Mapping[str, Any]) -> Any:
    """One request and its answer.

    Raises: OSError, trio.BrokenResourceError, ValueError (no answer), trio.TooSlowError.
    """
    ours, theirs = socket.socketpair()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        with theirs:
            tell(slot, request, [theirs.fileno()])
        answer = bytearray()
        with trio.fail_after(PATIENCE):
            async for part in stream:
                answer += part
                if len(answer) > MAX_ANSWER:
                    raise ValueError("the answer is too long")
    return json.loads(answer)


async def answer(slot: socket.socket, handlers: Mapping[str, Handler]) -> None:
    """Answer requests on a worker's end of a slot, for ever.

    A handler gets the request and its descriptors, its own to keep or close; what it returns is the
    answer, if one was asked for. It is called for one request after the other and must not wait.
    """
    lacking: set[str] = set()  # what was refused since a message came whole: each is said once
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(slot)
            try:
                message, fds, _, _ = socket.recv_fds(
                    slot, _MAX_REQUEST, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                continue
            if not message:  # every asker is gone
                await trio.sleep_forever()
            request = json.loads(message)
            if len(fds) < request["fds"]:
                for fd in fds:
                    os.close(fd)
                if request["do"] not in lacking:
                    logger.error("out of descriptors: %r is refused", request["do"])
                    lacking.add(request["do"])
                continue
            lacking.clear()
            channel = socket.socket(fileno=fds.pop(0)) if request["do"] in _ANSWERED else None
            try:
                result = json.dumps(handlers[request["do"]](request, fds)).encode()
            except Exception:
                # A fault in what the operator looks at must not cost the streams of the worker.
                logger.exception("a fault of relay's own, in answer to %r", request["do"])
                result = b""
            if channel is not None:
                nursery.start_soon(_send, channel, result)


_ANSWERED = frozenset(("snapshot", "streams", "stop", "state"))


async def _send(channel: socket.socket, data: bytes) -> None:
    channel.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(channel)) as stream:
        with trio.move_on_after(PATIENCE), suppress(trio.BrokenResourceError):
            await stream.send_all(data)


def handlers(served: Served, started: float) -> dict[str, Handler]:
    """What a worker answers to the admin listener."""
    return {
        "snapshot": lambda request, fds: served.snapshot(),
        "streams": lambda request, fds: served.streams(),
        "stop": lambda request, fds: served.stop_stream(request["id"]),
        "state": lambda request, fds: (os.getpid(), _state(served), started),
    }


def _state(served: Served) -> str:
    return "draining" if served.draining else "serving"
