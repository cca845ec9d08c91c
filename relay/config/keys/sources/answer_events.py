"""What the events of `source = "answer"` hold: `[routes.answer.events]`.

An event is a table, written as the client is to get it, with placeholders in its texts (see routing.json_template). The
defaults are the words of the pattern: its own client reads `content`, `query`, `timestamp` and `success`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from relay.config.keys.translations import filled
from relay.config.reading.expressions import compile_expression
from relay.config.reading.mistakes import KeyPath, nearest
from relay.config.reading.schema import Key, Kind, Parts, Reader, Table
from relay.config.values import Expression
from relay.config.values.filled import Filled
from relay.routing.json_template import JsonTemplate


class Events(NamedTuple):
    """What the events of an answer hold (`[routes.answer.events]`); None: it is left out.

    Roots: of `start` body, query, path, now; then also answer, and chunk; of `error` error and now.
    """

    start: JsonTemplate | None
    chunk: JsonTemplate | None
    metadata: JsonTemplate | None
    complete: JsonTemplate | None
    error: JsonTemplate | None  # None: as the route's dialect says


_ASKED: Final = ("body", "query", "path", "now")
# What may stand in an event: what is known when it is written.
_ROOTS: Final = {
    "start": _ASKED,
    "chunk": (*_ASKED, "answer", "chunk"),
    "metadata": (*_ASKED, "answer"),
    "complete": (*_ASKED, "answer"),
    "error": ("error", "now"),
}
# The members of the roots that are relay's own.
_MEMBERS: Final = {
    "chunk": ("content", "index", "total"),
    "error": ("code", "message", "retryable"),
}
DEFAULTS: Final[dict[str, dict[str, object]]] = {
    "start": {"type": "start", "query": "{body.query}", "timestamp": "{now}"},
    "chunk": {
        "type": "chunk",
        "content": "{chunk.content}",
        "index": "{chunk.index}",
        "total": "{chunk.total}",
    },
    "metadata": {"type": "metadata"},
    "complete": {"type": "complete", "success": True},
}


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("")
    return value


def _written(event: dict[str, object]) -> str:
    """A default as it would be written in the file."""
    values = ("true" if value is True else f'"{value}"' for value in event.values())
    members = map("{} = {}".format, event, values)
    return f"{{ {', '.join(members)} }}"


# Read by hand: the texts inside are filled in, and are templates, at any depth.
_EVENT: Final = Kind("table with placeholders", "a table of members", _table)
EVENTS: Final = Table(
    (
        Key("start", _EVENT, _written(DEFAULTS["start"]), "Once the request was understood."),
        Key(
            "chunk",
            _EVENT,
            _written(DEFAULTS["chunk"]),
            "Each piece of the text: `{chunk.content}`, `{chunk.index}`, `{chunk.total}`.",
        ),
        Key(
            "metadata",
            _EVENT,
            _written(DEFAULTS["metadata"]),
            "Behind the last piece, with the members of `metadata`; left out where neither is set.",
        ),
        Key("complete", _EVENT, _written(DEFAULTS["complete"]), "The end of a whole answer."),
        Key(
            "error",
            _EVENT,
            "",
            "In place of what is still missing: `{error.code}`, `{error.message}`, "
            "`{error.retryable}`; not set: as `dialect` says.",
        ),
    ),
    parts=True,
)


def read_events(
    reader: Reader, values: Parts, path: KeyPath, parameters: Iterable[str], *, metadata: bool
) -> Events | None:
    """The events of one route; None after a mistake was noted.

    Args:
        values: what the table says.
        parameters: of the route's path.
        metadata: whether the route names metadata.
    """
    templates: dict[str, JsonTemplate | None] = {}
    right = not values.broken
    for name in _ROOTS:
        event: Any = values.get(name, DEFAULTS.get(name))
        if name == "metadata" and name not in values and not metadata:
            event = None
        if not event:  # an empty table: this event is left out
            templates[name] = None
            continue
        try:
            event = filled(reader, event, (*path, name)) if name in values else event
            templates[name] = JsonTemplate.parse(event, _compiler(name, tuple(parameters)))
        except ValueError as error:
            # The reason quotes the placeholder: not where a secret may have been put into it.
            reason = "a placeholder in it is wrong" if _from_outside(event) else str(error)
            reader.mistake((*path, name), reason)
            right = False
    if right and "error" in values and not values["error"]:
        reader.mistake(
            (*path, "error"), "cannot be left out: a failure would look like a whole answer"
        )
        right = False
    return Events(**templates) if right else None


def _from_outside(event: object) -> bool:
    """Whether something was put into a text of it."""
    if isinstance(event, dict | list):
        return any(map(_from_outside, event.values() if isinstance(event, dict) else event))
    return isinstance(event, Filled)


def _compiler(event: str, parameters: tuple[str, ...]) -> Any:
    roots = _ROOTS[event]

    def compiled(root: str, rest: str | None) -> Expression | None:
        """Raises: ValueError."""
        if root not in roots:
            raise ValueError(f"is not known here{nearest(root, roots)}")
        members = parameters if root == "path" else _MEMBERS.get(root)
        if members is not None:
            if rest not in members:
                raise ValueError(f"there is no {rest or 'member'}{nearest(rest or '', members)}")
            return _member(rest)
        if root == "now" and rest is not None:
            raise ValueError("has no members")
        if root == "query":
            if not rest:
                raise ValueError("needs the name of a parameter")
            return _member(rest)
        return None if rest is None else compile_expression(rest)

    return compiled


def _member(name: str) -> Expression:
    def member(value: object) -> object:
        return value.get(name) if isinstance(value, dict) else None

    return member
