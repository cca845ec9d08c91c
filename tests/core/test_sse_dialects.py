"""What relay says itself: one event each, whatever the message, in the shape its readers expect."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sse import HEARTBEAT, BoundaryScanner, Dialect, farewell, parse, terminal_event
from tests.core.sse_oracle import Dispatched, interpret

SPEAKING = [dialect for dialect in get_args(Dialect) if dialect != "off"]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("plain", b'data: {"type":"error","code":"c","message":"m","retryable":true}\n\n'),
        (
            "named",
            b'event: error\ndata: {"type":"error","code":"c","message":"m","retryable":true}\n\n',
        ),
        (
            "openai",
            b'data: {"error":{"type":"server_error","code":"c","message":"m","retryable":true,'
            b'"param":null}}\n\n',
        ),
        (
            "anthropic",
            b'event: error\ndata: {"type":"error","error":{"type":"api_error","code":"c",'
            b'"message":"m","retryable":true}}\n\n',
        ),
        ("ai-sdk", b'data: {"type":"error","errorText":"m"}\n\n'),
        ("off", b""),
    ],
)
def test_terminal_event(dialect: Dialect, expected: bytes) -> None:
    assert terminal_event(dialect, "c", "m", True) == expected


@settings(deadline=None)
@given(st.sampled_from(SPEAKING), st.text(), st.text(), st.booleans())
def test_any_message_is_one_event_of_one_line(
    dialect: Dialect, code: str, message: str, retryable: bool
) -> None:
    event = terminal_event(dialect, code, message, retryable)
    scanner = BoundaryScanner()
    assert scanner.feed(event) == len(event)
    assert (scanner.events, scanner.blocks) == (1, 1)
    assert event.isascii()
    data = parse(event).data
    assert data is not None
    assert data.splitlines() == [data]
    value = json.loads(data)
    if dialect == "ai-sdk":  # version 5 of the SDK rejects a chunk with any other member
        stopped = {"type": "abort"}
        assert value == (stopped if code == "stopped" else {"type": "error", "errorText": message})
        return
    error = value.get("error", value)
    assert (error["code"], error["message"], error["retryable"]) == (code, message, retryable)


def test_a_stop_is_no_error_in_a_ui_message_stream() -> None:
    assert terminal_event("ai-sdk", "stopped", "m", True) == b'data: {"type":"abort"}\n\n'


def test_a_reader_by_hand_understands_the_plain_dialect() -> None:
    stream = b"data: 1\n\n" + HEARTBEAT + terminal_event("plain", "c", "m", False)
    found = [
        json.loads(block.removeprefix("data: "))
        for block in stream.decode().split("\n\n")
        if block.startswith("data: ")
    ]
    assert found == [1, {"type": "error", "code": "c", "message": "m", "retryable": False}]


def test_heartbeat_and_farewell_dispatch_nothing() -> None:
    assert interpret(HEARTBEAT + farewell(2500) + b"data: a\n\n") == (
        [Dispatched("message", "a", "")],
        "",
        2500,
    )


def test_farewell() -> None:
    assert farewell(0) == b"retry: 0\n\n"
    assert farewell(10, "anthropic") == b"retry: 10\n\n"
    assert farewell(10, "openai") == b""
    with pytest.raises(ValueError, match="negative"):
        farewell(-1)
