"""What a stream said, for the log: the last value that each expression found in its events.

    whole events ─► has a word of an expression? ─► kept for a moment ─► newest first: data ─► JSON ─► expression ─► value

Rules
  * Only the last value that is not null counts, so events are kept as they came and read newest first, a few at a time:
    a member that stands in every event (`model`) costs a parse in sixteen events and not in each.
  * An event without a word of any expression is not looked at. A word is a name that has to stand in the event for the
    expression to find anything; config.reading.expressions finds it.
  * What cannot be read is skipped without an error: the client has received it already.
  * Every bound is small, because all of this is only for the log: see the constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from relay.sse import json_bounds, json_line
from relay.sse.blocks import blocks
from relay.sse.completion import Completion
from relay.sse.event import parse
from relay.sse.translate import Expression

# Characters of a text; the rest is cut off (arbitrary: a model's name has 30)
LONGEST_VALUE: Final = 256
# Bytes; a larger one is not read (OpenAI's last one has the whole answer in it)
LARGEST_EVENT: Final = 256 * 1024
# Values in an event's JSON; one with more is not read: 3 ms at worst for one that is
MOST_VALUES: Final = 5_000
_LINES: Final = 1000  # of an event; one with more is not read (JSON is one line, or some dozens)
_HELD: Final = 64 * 1024  # bytes kept for later, of one stream
_PIECES: Final = 16  # of them; each is what one read brought
# Expressions on events, in one go: 5 ms; older events are passed over then
_ASKED_AT_ONCE: Final = 256
_LARGEST_NUMBER: Final = 2**63  # a larger number is not kept

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """One value that is looked for.

    Attributes:
        words: one of them has to stand in an event with the value; empty: any event may have it.
    """

    name: str
    expression: Expression = field(repr=False)
    words: tuple[bytes, ...]

    def may_be_in(self, whole: bytes) -> bool:
        words = self.words
        return not words or any(word in whole for word in words)


@dataclass(frozen=True, slots=True)
class Plan:
    """All values that a route captures."""

    wanted: tuple[Wanted, ...]
    words: tuple[bytes, ...]  # of all of them; empty: every event is read

    @classmethod
    def of(cls, wanted: Iterable[Wanted]) -> Plan:
        every = tuple(wanted)
        words = {word for each in every for word in each.words}
        # A word within another one is found with it.
        least = {word for word in words if not any(o != word and o in word for o in words)}
        anywhere = any(not each.words for each in every)
        return cls(every, () if anywhere else tuple(sorted(least)))


class Capture:
    """What one stream has said so far."""

    __slots__ = ("_pieces", "_plan", "_values", "held")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pieces: list[bytes] = []  # whole events, still to be read
        self.held = 0
        self._values: dict[str, Value] = {}

    def see(self, whole: bytes) -> None:
        """Look at whole events."""
        words = self._plan.words
        for word in words:
            if word in whole:
                break
        else:
            if words:
                return
        self._pieces.append(whole)
        self.held += len(whole)
        if self.held > _HELD or len(self._pieces) >= _PIECES:
            self._read()

    def take(self, value: object) -> None:
        """A JSON value that is not an event: an answer in one piece."""
        self._values |= found_in(self._plan, value)

    def put(self, values: Mapping[str, Value]) -> None:
        """Values that were found elsewhere."""
        self._values |= values

    @property
    def values(self) -> Mapping[str, Value]:
        """The last value of each, of those that have one."""
        if self._pieces:
            self._read()
        return self._values

    def _read(self) -> None:
        """Read what is kept, newest first, until every expression has its value."""
        pieces, self._pieces, self.held = self._pieces, [], 0
        missing = list(self._plan.wanted)
        left = _ASKED_AT_ONCE
        for piece in reversed(pieces):
            if not any(each.may_be_in(piece) for each in missing):
                continue
            for block in reversed(blocks(piece)):
                asked = [each for each in missing if each.may_be_in(block)]
                if not asked or _is_large(block):
                    continue
                if left <= 0:
                    return
                left -= len(asked)
                found = _found(asked, json_of(block))
                self._values |= found
                missing = [each for each in missing if each.name not in found]


def found_in(plan: Plan, value: object) -> dict[str, Value]:
    """The values that the expressions find in a JSON value."""
    return _found(plan.wanted, value)


def _found(wanted: Iterable[Wanted], value: object) -> dict[str, Value]:
    if value is None:
        return {}
    found = ((each.name, _kept(each.expression(value))) for each in wanted)
    return {name: kept for name, kept in found if kept is not None}


def _kept(value: object) -> Value | None:
    """A value as it is kept: a short text, a number, true or false; anything else is none."""
    if isinstance(value, str):
        cut = value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…"
        return cut.encode("utf-8", "replace").decode()  # JSON may carry half of a surrogate pair
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
        return value
    return None


def _is_large(block: bytes) -> bool:
    return len(block) > LARGEST_EVENT or block.count(b"\n") + block.count(b"\r") > _LINES


def json_of(block: bytes) -> object:
    """The JSON in an event's data; None where there is none."""
    try:
        data = parse(block).data
        if not data:
            return None
        json_bounds.check(data.encode(), MOST_VALUES)
        return json_line.read(data)
    except (json_line.NotJSON, ValueError):
        return None


class Watch(Completion):
    """A completion that captures as well: it sees the same events."""

    __slots__ = ("_capture",)

    def __init__(self, when: bytes, capture: Capture) -> None:
        super().__init__(when)
        self._capture = capture

    def see(self, whole_events: bytes) -> None:
        self._capture.see(whole_events)
        if not self.seen:
            super().see(whole_events)
