"""What the guarantees of event streams stand on: streams with every line end, and a plain
reader."""

from __future__ import annotations

from tests.core.sse_oracle import Dispatched, interpret

_BLOCKS = [
    ["data: one"],
    ["event: named", "id: 7", "data: two", "data: lines"],
    [": a comment"],
    ["id: 8"],
    ["retry: 10", "data:three"],
    ["data"],
    ["data: öäü \u2028 end"],
]


def stream(*ends: str) -> bytes:
    """A stream of assorted blocks; its line ends are `ends`, in turn."""
    out = ""
    turn = 0
    for block in _BLOCKS:
        for line in [*block, ""]:
            out += line + ends[turn % len(ends)]
            turn += 1
    return out.encode()


STREAMS = {
    "LF": stream("\n"),
    "CRLF": stream("\r\n"),
    "CR": stream("\r"),
    "mixed": stream("\n", "\r\n", "\r"),
    "mixed otherwise": stream("\r", "\r", "\r\n", "\n", "\n"),
}


def read(data: bytes) -> list[Dispatched]:
    """The events that an EventSource dispatches."""
    return interpret(data).events


def dechunked(data: bytes) -> bytes:
    """The payload of chunks, whether or not the last one is there."""
    out = b""
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        assert data[size : size + 2] == b"\r\n", data
        out, data = out + data[:size], data[size + 2 :]
    return out
