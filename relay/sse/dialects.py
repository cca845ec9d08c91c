"""What relay itself says in an event stream: heartbeats, the terminal error event, the farewell.

Rules
  * Each is whole blocks, so it may stand wherever one block has ended and the next has not begun,
    and nowhere else.
  * LF only, one line of ASCII JSON behind `data: `: readers written by hand understand it as well.
  * A heartbeat is a comment: `data:` would be dispatched and `id:` would move the reader's cursor.
  * `[DONE]` and its like are never written here: an end that the upstream did not say is not said.

The shapes of the openai and anthropic dialects are what their own Python packages take for an error
(read in openai 3.52 and anthropic 2.11, `_streaming.py`): for openai any data with a true `error`
member raises an APIError of that `message` and `code`; for anthropic an event of the type `error`
raises an APIStatusError with the data as its body. That of ai-sdk is a chunk of the UI message stream
of Vercel's AI SDK (read in ai 6.0, `ui-message-chunks.ts`): version 5 rejects a chunk with any other
member, and `useChat` ends with an Error of that `errorText`. A stream that was stopped on purpose is
no error there: the chunk `abort` ends it.
"""

from __future__ import annotations

import json
from typing import Final, Literal

Dialect = Literal["plain", "named", "openai", "anthropic", "ai-sdk", "off"]

HEARTBEAT: Final = b":\n\n"
# Where relay gives the events ids. The blank line would be an event without data: to fetch-event-source always, to
# httpx-sse and the decoder of the openai package once they have seen an id. The line alone says nothing to any of them. A
# reader that splits at blank lines and takes the first line for data is not among those: it would meet the `id:` as well.
HEARTBEAT_LINE: Final = b":\n"
# The dialects of protocols that have a failure of their own. There the terminal event says all, and a
# connection that breaks behind it would be a second failure, which hides the first one from
# `streamText` of the AI SDK. Their readers do not reconnect by themselves either, so a clean end
# without that event is a whole answer to them.
WITH_FAILURE: Final[frozenset[Dialect]] = frozenset(("openai", "anthropic", "ai-sdk"))


def terminal_event(dialect: Dialect, code: str, message: str, retryable: bool) -> bytes:
    """The event that tells a reader that its stream did not come to its end; b"" in the dialect
    `off`.

    Args:
        code: short and stable, for programs.
        message: for people; any text, it cannot break the event.
        retryable: whether asking again may help.
    """
    if dialect == "off":
        return b""
    plain: dict[str, object] = {
        "type": "error",
        "code": code,
        "message": message,
        "retryable": retryable,
    }
    if dialect == "openai":
        return _block({"error": {**plain, "type": "server_error", "param": None}})
    if dialect == "ai-sdk":
        stopped = code == "stopped"
        return _block({"type": "abort"} if stopped else {"type": "error", "errorText": message})
    if dialect == "anthropic":
        return _block({"type": "error", "error": {**plain, "type": "api_error"}}, "event: error\n")
    return _block(plain, "event: error\n" if dialect == "named" else "")


def gap_event(dialect: Dialect, requested: str, first: str) -> tuple[bytes, bool]:
    """What tells a reader that events between two ids are missing, and whether that is its end.

    The clients of the dialects that have a failure of their own put one answer together from all its
    events and cannot go on behind a hole: there it is their terminal error.

    Args:
        requested: the id that the reader named; any text, it cannot break the event.
        first: that of the event that comes next.
    """
    if dialect in WITH_FAILURE:
        return terminal_event(dialect, "gap", "a part of this stream is missing", True), True
    if dialect == "off":
        return b"", False
    head = "event: gap\n" if dialect == "named" else ""
    return _block({"type": "gap", "requested": requested, "first": first}, head), False


def farewell(retry_ms: int, dialect: Dialect = "plain") -> bytes:
    """The block that asks a reader to come back after `retry_ms` milliseconds, before relay ends
    its stream.

    It dispatches nothing. b"" in the dialect `openai`: that package's decoder takes a block with
    nothing but `retry` for an event and fails on its empty data, and its readers do not reconnect
    anyway.

    Raises: ValueError for a negative time.
    """
    if retry_ms < 0:
        raise ValueError("a reconnection time cannot be negative")
    return b"" if dialect == "openai" else b"retry: %d\n\n" % retry_ms


def _block(data: dict[str, object], head: str = "") -> bytes:
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")
