"""The fields of W3C Trace Context: what a traceparent says, and a new one."""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from relay.http.bodies import Fields
from relay.http.heads import RequestHead

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
_VALUE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


class TraceParent(NamedTuple):
    """A valid traceparent."""

    trace_id: str  # 32 hexadecimal digits
    parent_id: str  # 16
    flags: int

    def value(self) -> bytes:
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags:02x}".encode()


def parse(value: bytes) -> TraceParent | None:
    """What a field says; None where it breaks the rules (§3.2.2).

    A version we do not know is read as far as version 00 goes (§4.3).
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), parent_id.decode(), int(flags, 16))


def new() -> TraceParent:
    """The start of a trace."""
    return TraceParent(os.urandom(16).hex(), os.urandom(8).hex(), _SAMPLED)


def carried(head: RequestHead) -> Fields:
    """The client's trace fields, for a request of relay's own on its behalf."""
    if not head.traceparent:
        return []
    return [field for field in head.fields if field[0] in (TRACEPARENT, TRACESTATE)]
