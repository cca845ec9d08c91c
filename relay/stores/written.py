"""Cards, heads and ends as they are written down, for whoever reads them later: JSON, bytes as Latin-1 or hex.

Rules
  * What is read may be anybody's: torn, of another version, or made to hurt. It is ours in every member, or NotOurs.
  * A name that becomes a part of a path, and a field that becomes a part of a head, is looked at letter by letter.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.stores.store import Answer, Card, Sealed


class NotOurs(OSError):
    """What stands where relay writes is not what relay wrote."""

    def __init__(self) -> None:
        super().__init__(errno.EBADMSG, "something stands there that is not relay's")


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def as_texts(fields: Fields) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _as_fields(texts: object) -> Fields:
    fields: Fields = []
    for name, value in _is(texts, list):
        _like(_FIELD_NAME, name)
        _like(_FIELD_VALUE, value)
        fields.append((name.encode("ascii"), value.encode("latin-1")))
    return fields


def written_card(card: Card, process: str) -> bytes:
    return as_json(
        {
            "identity": card.identity.hex(),
            "id": card.id,
            "key": card.key,
            "owner": card.owner.hex(),
            "route": card.route,
            "request": card.request.hex(),
            "get": card.begun_by_get,
            "number": card.number,
            "limit": card.limit,
            "keep": card.keep,
            "keyed": card.keyed,
            "process": process,
        }
    )


def read_card(written: bytes) -> tuple[Card, str]:
    """A card, and its owner's process. Raises: NotOurs."""
    return _read(written, _card)


def _card(value: Any) -> tuple[Card, str]:
    card = Card(
        identity=bytes.fromhex(_like(_IDENTITY, value["identity"])),
        id=_like(_NAME, value["id"]),
        key=_like(_NAME, value["key"]),
        owner=bytes.fromhex(value["owner"]),
        route=_is(value["route"], str),
        request=bytes.fromhex(value["request"]),
        begun_by_get=_is(value["get"], bool),
        number=_number(value["number"]),
        limit=_number(value["limit"]),
        keep=_seconds(value["keep"]),
        keyed=_is(value["keyed"], bool),
    )
    return card, _like(_NAME, value["process"])


def written_end(sealed: Sealed) -> dict[str, Any]:
    """An end, for JSON."""
    end, ending, answer = sealed.end, sealed.ending, sealed.answer
    value: dict[str, Any] = {
        "clean": end.clean,
        "over": end.over,
        "words": end.last_words.decode("latin-1"),
        "abort": end.abort,
        "ending": list(ending),
        "last": sealed.last,
        "until": sealed.until,
    }
    if answer is not None:
        body = answer.body.decode("latin-1")
        value["answer"] = [answer.status, as_texts(answer.fields), body]
    return value


def read_end(written: bytes) -> Sealed:
    """An end. Raises: NotOurs."""
    return _read(written, _end)


def _end(value: Any) -> Sealed:
    side, phase, cause, detail = value["ending"]
    answer = None
    if "answer" in value:
        status, texts, body = value["answer"]
        if not 200 <= _is(status, int) <= 599:
            raise ValueError
        answer = Answer(status, _as_fields(texts), body.encode("latin-1"))
    clean, over, abort = (_is(value[name], bool) for name in ("clean", "over", "abort"))
    return Sealed(
        End(clean, over, value["words"].encode("latin-1"), abort),
        Ending(Side(side), Phase(phase), Cause(cause), _is(detail, str)),
        _number(value["last"]),
        _seconds(value["until"]),
        answer,
    )


def sealed_in(reply: Sequence[object]) -> Sealed:
    """An end as Redis keeps it: the record, and beside it the last event's number and the time in ms. Raises: NotOurs."""
    try:
        record, last, until = reply
        return read_end(record)._replace(last=int(last), until=int(until) / 1000)  # type: ignore[arg-type, call-overload]
    except (ValueError, TypeError, OverflowError):
        raise NotOurs from None


def written_fields(fields: Fields) -> bytes:
    """The fields of a head."""
    return as_json(as_texts(fields))


def read_fields(written: bytes) -> Fields:
    """Those of a head. Raises: NotOurs."""
    return _read(written, _as_fields)


def chunks(data: bytes) -> tuple[list[bytes], int, int]:
    """The chunks (RFC 9112 §7.1) with which `data` begins, each an event as relay writes it: readers get it as it stands.

    Returns: them, their size, and the size up to the end of the one that is not whole; -1: what follows is none of ours.
    """
    events: list[bytes] = []
    at, size = 0, len(data)
    find, take = data.find, events.append
    while at < size:
        line = find(b"\r\n", at, at + _SIZE_LINE)
        if line < 0:
            return events, at, at if size - at < _SIZE_LINE else -1
        text = data[at:line]
        try:
            length = int(text, 16)
        except ValueError:
            return events, at, -1
        if not 0 < length <= LARGEST_EVENT or b"%x" % length != text:
            return events, at, -1
        end = line + length + 4
        if end > size:
            return events, at, end
        if data[end - 2 : end] != b"\r\n":
            return events, at, -1
        take(data[at:end])
        at = end
    return events, at, at


# -- what it must be like ------------------------------------------------------------------------------------------

_SIZE_LINE: Final = 18  # bytes of the longest line of a chunk's size
LARGEST_EVENT: Final = 1 << 30  # bytes; above every `max_event` of use (arbitrary)
_IDENTITY: Final = re.compile("[0-9a-f]{32}")
_NAME: Final = re.compile("[A-Za-z0-9_-]{1,128}")
_FIELD_NAME: Final = re.compile("[!#$%&'*+.^_`|~0-9a-z-]+")
_FIELD_VALUE: Final = re.compile("[\t -~\x80-\xff]*")
_MOST: Final = 1 << 62  # of a number: what every part of relay can count on with

T = TypeVar("T")


def _read(written: bytes, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(written))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NotOurs from None


def _is(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


def _like(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ValueError
    return value


def _number(value: object) -> int:
    number = _is(value, int)
    if not 0 <= number < _MOST:
        raise ValueError
    return number


def _seconds(value: object) -> float:
    if not (type(value) is float or type(value) is int) or not 0 <= value < _MOST:
        raise ValueError
    return value
