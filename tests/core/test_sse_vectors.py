"""The vectors of sse_vectors.json, whole, byte by byte and in every two parts.

The same file is what `relay.js` is tested against.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from relay.sse import EventParser, parse, serialise
from tests.core.sse_oracle import Dispatched, Reading, interpret


class Vector(NamedTuple):
    stream: bytes
    expected: Reading


def load() -> dict[str, Vector]:
    table = json.loads(Path(__file__).with_name("sse_vectors.json").read_text("ascii"))
    return {
        case["name"]: Vector(
            case["input"].encode("latin-1"),
            Reading(
                [Dispatched(e["type"], e["data"], e["lastEventId"]) for e in case["events"]],
                case["lastEventId"],
                case["retry"],
            ),
        )
        for case in table["vectors"]
    }


VECTORS = load()
every_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS.keys())


def read(pieces: Iterable[bytes]) -> Reading:
    """What EventParser makes of a stream in pieces; ids are kept along as its user would."""
    parser = EventParser(silent=True)
    last_event_id = ""
    dispatched: list[Dispatched] = []
    for piece in pieces:
        for event in parser.feed(piece):
            last_event_id = last_event_id if event.id is None else event.id
            if event.data is not None:
                dispatched.append(Dispatched(event.event or "message", event.data, last_event_id))
        assert parser.last_event_id == last_event_id
    parser.eof()
    assert parser.held == 0
    return Reading(dispatched, parser.last_event_id, parser.retry)


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def test_there_are_enough() -> None:
    assert len(VECTORS) >= 40


@every_vector
def test_the_oracle_reads_it_so(vector: Vector) -> None:
    assert interpret(vector.stream) == vector.expected


@every_vector
def test_whole(vector: Vector) -> None:
    assert read([vector.stream]) == vector.expected


@every_vector
def test_byte_by_byte(vector: Vector) -> None:
    assert read(bytewise(vector.stream)) == vector.expected


@every_vector
def test_in_every_two_parts(vector: Vector) -> None:
    stream = vector.stream
    for at in range(len(stream) + 1):
        assert read([stream[:at], stream[at:]]) == vector.expected, at


@every_vector
def test_with_empty_reads_and_bytes_behind(vector: Vector) -> None:
    stream = vector.stream + b"\n\ndata: behind\n\n"
    assert read([b"", stream, b""]) == interpret(stream)


@every_vector
def test_what_is_dispatched_alone(vector: Vector) -> None:
    """Without `silent` the parser gives exactly what an EventSource dispatches."""
    parser = EventParser()
    events = parser.feed(vector.stream)
    assert [(e.event or "message", e.data) for e in events] == [
        (e.type, e.data) for e in vector.expected.events
    ]


@every_vector
def test_written_again(vector: Vector) -> None:
    """What is serialised from the events reads as the same stream, and each block as the same
    event.
    """
    events = EventParser(silent=True).feed(vector.stream)
    again = b"".join(map(serialise, events))
    assert interpret(again).events == vector.expected.events
    assert [parse(serialise(event)) for event in events] == events
