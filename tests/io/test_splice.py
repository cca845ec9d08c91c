"""The pipe between two sockets: what is taken arrives or comes back, and nothing stays in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from relay.wires.splice import TAKE, Pipe
from relay.wires.wire import Gone
from tests.io.upstreams_setup import descriptors

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    before = descriptors()
    pipe = Pipe()
    yield pipe
    pipe.close()
    assert descriptors() == before


@pytest.fixture(params=["unix", "tcp"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Ends, Ends]]:
    """Two connections: what is written to the first of one comes in at its second."""
    pairs = [_pair(request.param) for _ in range(2)]
    yield pairs[0], pairs[1]
    for pair in pairs:
        for sock in pair:
            sock.close()


def _pair(kind: str) -> Ends:
    if kind == "unix":
        one, two = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            two, _ = server.accept()
    one.setblocking(False)
    two.setblocking(False)
    return one, two


def _fill(sock: socket.socket) -> int:
    sent = 0
    try:
        while True:
            sent += sock.send(b"#" * 65536)
    except BlockingIOError:
        return sent


def _empty(sock: socket.socket) -> bytes:
    got = b""
    try:
        while data := sock.recv(1 << 20):
            got += data
    except BlockingIOError:
        pass
    return got


def test_bytes_go_from_one_socket_to_the_other(pipe: Pipe, ends: tuple[Ends, Ends]) -> None:
    (sender, source), (target, receiver) = ends
    sender.send(b"abcdef")
    assert pipe.move(source, target, 4) == (4, b"")
    assert pipe.move(source, target, 4) == (2, b"")
    assert _empty(receiver) == b"abcdef"
    with pytest.raises(BlockingIOError):
        pipe.move(source, target, 4)


def test_the_end_of_the_source(pipe: Pipe, ends: tuple[Ends, Ends]) -> None:
    (sender, source), (target, _) = ends
    sender.send(b"abc")
    sender.close()
    assert pipe.move(source, target, 10) == (3, b"")
    assert pipe.move(source, target, 10) == (0, b"")


def test_what_the_target_does_not_take_comes_back(pipe: Pipe, ends: tuple[Ends, Ends]) -> None:
    (sender, source), (target, receiver) = ends
    filling = _fill(target)
    body = os.urandom(50_000)
    sender.send(body)
    taken, rest = pipe.move(source, target, TAKE)
    assert len(_empty(receiver)) == filling
    sent = b""
    while taken:
        sent += _empty(receiver) + rest
        try:
            taken, rest = pipe.move(source, target, TAKE)
        except BlockingIOError:
            break
    assert (sent + _empty(receiver)).lstrip(b"#") == body.lstrip(b"#")


def test_a_target_that_is_gone_leaves_the_pipe_empty(pipe: Pipe, ends: tuple[Ends, Ends]) -> None:
    (sender, source), (target, receiver) = ends
    sender.send(b"lost")
    target.close()
    with pytest.raises(Gone):
        pipe.move(source, target, 100)
    sender.send(b"next")
    fresh, far = _pair("unix")
    with fresh, far:
        assert pipe.move(source, fresh, 100) == (4, b"")
        assert _empty(far) == b"next"
    receiver.close()


@pytest.mark.parametrize("ended", [False, True])
def test_urgent_data_ends_nothing(pipe: Pipe, ended: bool) -> None:
    """splice(2) stops in front of it for ever, as if there were nothing more; recv leaves it out and goes on."""
    sender, source = _pair("tcp")
    target, receiver = _pair("unix")
    sender.send(b"one")
    sender.send(b"!", socket.MSG_OOB)
    sender.send(b"two")
    if ended:
        sender.close()
    moved = []
    for _ in range(5):
        try:
            moved.append(pipe.move(source, target, 100))
        except BlockingIOError:
            break
    assert _empty(receiver) == b"onetwo"
    assert (0, b"") not in moved[:2]
    assert ((0, b"") in moved) == ended
    for sock in (sender, source, target, receiver):
        sock.close()


def test_what_an_exception_leaves_in_the_pipe_goes_to_nobody(
    pipe: Pipe, ends: tuple[Ends, Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sender, source), (target, _) = ends
    _fill(target)
    sender.send(b"somebody's secret")
    with monkeypatch.context() as patch:
        patch.setattr("relay.wires.splice.os.read", _out_of_memory)
        with pytest.raises(MemoryError):
            pipe.move(source, target, 100)
    sender.send(b"next")
    fresh, far = _pair("unix")
    with fresh, far:
        assert pipe.move(source, fresh, 100) == (4, b"")
        assert _empty(far) == b"next"


def _out_of_memory(*_: object) -> bytes:
    raise MemoryError


def test_without_a_pipe_bytes_are_copied(ends: tuple[Ends, Ends]) -> None:
    (sender, source), (target, receiver) = ends
    pipe = Pipe()
    pipe.close()
    sender.send(b"abcdef")
    assert pipe.move(source, target, 4) == (4, b"")
    assert pipe.move(source, target, 4) == (2, b"")
    assert _empty(receiver) == b"abcdef"
    with pytest.raises(BlockingIOError):
        pipe.move(source, target, 4)
    _fill(target)
    sender.send(b"rest")
    assert pipe.move(source, target, 4) == (4, b"rest")
    sender.close()
    assert pipe.move(source, target, 4) == (0, b"")
    source.close()
    with pytest.raises(OSError, match="descriptor"):
        pipe.move(source, target, 4)
