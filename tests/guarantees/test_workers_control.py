"""The promise: whoever asks the workers gets what the living ones say, and never waits for a dead
one. Here the workers are tasks, and the slots real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from relay.admin import control
from relay.admin.control import LocalControl, RemoteControl, WorkerState, answer, open_slot


@dataclass
class Worker:
    """What of a server `control` looks at."""

    figures: Mapping[str, Any]
    live: set[str] = field(default_factory=set)
    draining: bool = False

    def snapshot(self) -> dict[str, Any]:
        return dict(self.figures)

    def streams(self) -> list[list[Any]]:
        return [[each] for each in sorted(self.live)]

    def stop_stream(self, exchange_id: str) -> bool:
        if exchange_id not in self.live:
            return False
        self.live.remove(exchange_id)
        return True


Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def slot() -> Iterator[Callable[[], Ends]]:
    opened: list[socket.socket] = []

    def open_one() -> Ends:
        ends = open_slot()
        opened.extend(ends)
        return ends

    yield open_one
    for end in opened:
        end.close()


async def test_one_worker_and_many_look_alike(slot: Callable[[], Ends]) -> None:
    workers = [Worker({"events": 1}, {"a"}), Worker({"events": 2}, {"b"}, draining=True)]
    slots = [slot() for _ in workers]
    async with trio.open_nursery() as nursery:
        for number, worker in enumerate(workers):
            nursery.start_soon(answer, slots[number][1], control.handlers(worker, 5.0))
        many = RemoteControl([asker for asker, _ in slots])
        assert await many.snapshot() == {0: {"events": 1}, 1: {"events": 2}}
        assert [state[2:] for state in await many.states()] == [("serving", 5.0), ("draining", 5.0)]
        assert await many.stop("b")
        assert not await many.stop("b")
        one = LocalControl(workers[0], 5.0)
        assert await one.snapshot() == {0: {"events": 1}}
        assert (await one.states())[0] == (await many.states())[0]
        assert await one.stop("a")
        assert not await one.stop("a")
        nursery.cancel_scope.cancel()


async def test_an_answer_of_many_megabytes_comes_whole(slot: Callable[[], Ends]) -> None:
    worker = Worker({"streams": ["x" * 100] * 50_000})
    asker, end = slot()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, end, control.handlers(worker, 0.0))
        assert await RemoteControl([asker]).snapshot() == {0: worker.figures}
        nursery.cancel_scope.cancel()


async def test_a_worker_that_is_stuck_is_left_out(
    slot: Callable[[], Ends], autojump_clock: trio.testing.MockClock
) -> None:
    """Nobody takes the request: after PATIENCE the others' answers count without it."""
    asker, _end = slot()
    assert await RemoteControl([asker]).snapshot() == {}
    assert await RemoteControl([asker]).states() == [WorkerState(0, 0, "absent")]


async def test_a_successor_answers_what_the_dead_one_did_not_take(slot: Callable[[], Ends]) -> None:
    asker, end = slot()
    answers: list[dict[int, dict[str, Any]]] = []

    async def ask() -> None:
        answers.append(await RemoteControl([asker]).snapshot())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(answer, end, control.handlers(Worker({"pid": 2}), 0.0))
    assert answers == [{0: {"pid": 2}}]


async def test_a_fault_in_an_answer_costs_neither_the_worker_nor_patience(
    slot: Callable[[], Ends], caplog: pytest.LogCaptureFixture
) -> None:
    asker, end = slot()

    def fail(request: Mapping[str, Any], fds: object) -> object:
        raise KeyError("a bug in what is shown")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, end, {"snapshot": fail, "state": lambda *_: (7, "serving", 0.0)})
        assert await RemoteControl([asker]).snapshot() == {}
        assert await RemoteControl([asker]).states() == [WorkerState(0, 7, "serving")]
        nursery.cancel_scope.cancel()
    assert "a bug in what is shown" in caplog.text


async def test_a_message_can_be_told_without_an_answer(slot: Callable[[], Ends]) -> None:
    asker, end = slot()
    told = trio.Event()

    def hear(request: Mapping[str, Any], fds: object) -> None:
        assert request["text"] == "x"
        told.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, end, {"configure": hear})
        control.tell(asker, {"do": "configure", "text": "x"})
        await told.wait()
        nursery.cancel_scope.cancel()
