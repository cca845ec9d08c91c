"""The kinds of single values: numbers with units, choices, addresses, field names, paths,
expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Final

from relay.config.reading import addresses, units
from relay.config.reading.schema import Kind, ListOf, MapOf
from relay.config.values import UNLIMITED, FieldEdits
from relay.config.values.filled import value_of
from relay.http.names import barred
from relay.routing.pattern import Pattern
from relay.routing.template import Template

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE: Final = re.compile(f"{_TOKEN.pattern}/{_TOKEN.pattern}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ORIGIN: Final = re.compile(
    r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?"
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# Framing and hop-by-hop fields are relay's own affair (RFC 9110 §7.6.1): an edit would break
# the message. Folded, as a server behind relay may compare them.
_NOT_EDITED: Final = barred(
    (
        b"connection", b"content-length", b"expect", b"keep-alive", b"proxy-authenticate",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip


# What a message says with these, or relay writes into them, a request id must not replace.
_TAKEN: Final = frozenset(
    (
        "accept", "accept-encoding", "authorization", "cache-control", "content-encoding",
        "content-type", "cookie", "date", "forwarded", "location", "set-cookie", "vary", "via",
        "x-accel-buffering", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
    )
)  # fmt: skip


def choice(*names: str) -> Kind:
    """One of some texts."""
    quoted = ", ".join(f'"{name}"' for name in names)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError("")
        return value

    return Kind(" \\| ".join(f"`{n}`" for n in names), f"one of {quoted}", read, choices=names)


def whole(least: int, most: int) -> Kind:
    """An integer in a range; also digits in a text, so that a variable can give it."""

    def read(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value, re.ASCII):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError("")
        return value

    return Kind(f"integer {least}–{most}", f"a whole number from {least} to {most}", read)


def _read_count(value: object) -> int:
    if value == "off":
        return UNLIMITED
    return int(whole(1, 10_000_000).read(value))


def _read_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("")


def _read_switch(value: object) -> bool:
    if value in ("on", "off"):
        return value == "on"
    raise ValueError('it is written "on" or "off"' if isinstance(value, bool) else "")


def _some_time(value: object) -> float:
    seconds = units.parse_duration(value)
    if seconds <= 0:
        raise ValueError("it must be longer than 0")
    return seconds


def _finite_time(value: object) -> float:
    seconds = units.parse_duration(value)
    if value == "off":
        raise ValueError('it cannot be "off"')
    return seconds


def _some_size(value: object) -> int:
    size = units.parse_size(value)
    if size < 1:
        raise ValueError("it must be more than 0")
    return size


def _finite_size(value: object) -> int:
    size = _some_size(value)
    if size > 1 << 30:
        raise ValueError("it is held in memory: at most 1 GiB")
    return size


def _byte_rate(value: object) -> int:
    if value == "off":
        return 0
    return units.parse_size(value.removesuffix("/s") if isinstance(value, str) else value)


def text(expected: str, check: Callable[[str], Any], label: str, *, secret: bool = False) -> Kind:
    """A string that `check` turns into the value."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError("it is written in quotes")
        return check(value)

    return Kind(label, expected, read, secret=secret)


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError("")
        return value

    return check


def _method(value: str) -> bytes:
    token = _matching(_TOKEN)(value)
    if token != token.upper():
        raise ValueError("methods are case-sensitive and written in capitals")
    if token == "CONNECT":
        raise ValueError("relay is no forward proxy")
    return token.encode()


def _origin(value: str) -> bytes:
    if value == "*":
        return b"*"
    if value.endswith("/"):
        raise ValueError("an origin has no path, not even a slash")
    return _matching(_ORIGIN)(value.lower()).encode()


def _filled(value: str) -> str:
    if not value or _CONTROL.search(value):
        raise ValueError("it is empty" if not value else "it has a control character")
    return value


def _field_value(value: str) -> bytes:
    if _CONTROL.search(value):
        raise ValueError("a line break or control character cannot stand in a field")
    return value.strip(" \t").encode()


def _media_type(value: str) -> bytes:
    kind, _, _ = value.partition(";")
    if not _MEDIA_TYPE.fullmatch(kind.strip(" \t")):
        raise ValueError("it begins with type/subtype")
    return _field_value(value)


def _id_field(value: str) -> bytes:
    name = field_name(value)
    if name in _TAKEN:
        raise ValueError("it says something else")
    return name.encode()


def _label(value: str) -> str:
    """What stands in logs and metrics and nowhere else: as it was written."""
    return str(_filled(value))


def _line(value: str) -> str:
    """What is sent and not printed: the text itself."""
    return value_of(_filled(value))


def _target(value: str) -> str:
    """A fixed request target. A template without placeholders is exactly that."""
    if Template.parse(value).names:
        raise ValueError("it has no placeholders")
    return value


def _token_value(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("")
    return value


def field_name(name: str) -> str:
    """A field that may be edited, in lower case. Raises: ValueError."""
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        raise ValueError("is no field name")
    if lower == "host":
        raise ValueError("cannot be edited: see `host_header` of the upstream")
    if _NOT_EDITED.bars(lower.encode()):
        raise ValueError("cannot be edited: framing and hop-by-hop fields are relay's own affair")
    return lower


def _edits(values: dict[str, bytes]) -> FieldEdits:
    lower = [name.lower() for name in values]
    for name in lower:
        if lower.count(name) > 1:
            raise ValueError(f'"{name}" stands twice: the case of field names does not matter')
    pairs = tuple((name.lower().encode(), value) for name, value in values.items())
    return FieldEdits(
        tuple(pair for pair in pairs if pair[1]),
        frozenset(name for name, value in pairs if not value),
    )


def plain_name(name: str) -> str:
    """A name for an upstream or a translation. Raises: ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name is letters, digits, `_`, `.` and `-`")
    return name


_DURATION = 'a duration such as "250ms", "15s", "2m", "1h"'
_SIZE = 'a size such as "512B", "64KiB", "1MiB"'
DURATION = Kind("duration", f'{_DURATION} or "off"', _some_time)
DURATION_OR_NONE = Kind("duration, `0s` too", f'{_DURATION}, "0s" or "off"', units.parse_duration)
TIME = Kind("duration, not `off`", _DURATION, _finite_time)
SIZE = Kind("size", f'{_SIZE} or "off"', _some_size)
HELD_SIZE = Kind("size, not `off`", _SIZE, _finite_size)
BYTE_RATE = Kind("size per second", 'a rate such as "1KiB/s" or "off"', _byte_rate)
RATE = Kind("rate", 'a rate such as "20/s", "600/m" or "off"', units.parse_rate)
COUNT = Kind("integer", 'a whole number above 0, or "off"', _read_count)
FLAG = Kind("boolean", "true or false", _read_flag)
SWITCH = Kind("`on` \\| `off`", '"on" or "off"', _read_switch)
STATUS = whole(200, 599)  # of a final response: a 1xx promises that another one follows
STRING = text("a text", _filled, "string")
LABEL = text("a text", _label, "string")
LINE = text("a text without line breaks", _line, "string")
NAME = text("a name", plain_name, "name")
BODY = text("a text", str.encode, "string")
TOKEN = text(
    "a token (letters, digits, -)", lambda value: value_of(_matching(_TOKEN)(value)), "token"
)
OWN_FIELD = text("a field name", _id_field, "field name")
EDITED_FIELD = text("a field name", lambda value: field_name(value).encode(), "field name")
FIELD_NAME = text(
    "a field name", lambda value: _matching(_TOKEN)(value).lower().encode(), "field name"
)
METHOD = text('a method such as "GET"', _method, "method")
ORIGIN = text('an origin such as "https://app.example", or "*"', _origin, "origin")
SECRET = text("a secret without spaces", _token_value, "string, secret", secret=True)
CONTENT_TYPE = text("a media type", _media_type, "media type")
ADDRESS = text(
    'an address such as "127.0.0.1:8000", "[::1]:8000", "unix:/path" or "fd:3"',
    addresses.parse_address,
    "address",
)
ADMIN = text(
    'an address such as "127.0.0.1:9900" or "off"',
    lambda value: None if value == "off" else addresses.parse_address(value),
    "address or `off`",
)
URL = text('a url such as "http://127.0.0.1:8080" or "unix:/path"', addresses.parse_url, "url")
URL_OR_OFF = text(
    'a url such as "http://127.0.0.1:8080" or "unix:/path"',
    lambda value: None if value == "off" else addresses.parse_url(value),
    "url or `off`",
)
TARGET = text('a path such as "/health"', _target, "path")
NETWORK = text(
    'an address or network such as "10.0.0.0/8", or "unix"',
    lambda value: None if value == "unix" else ip_network(value_of(value)),
    "network or `unix`",
)
PATTERN = text("a path pattern", Pattern.parse, "path pattern")
TEMPLATE = text("a target template", Template.parse, "target template")
FIELD_EDITS = MapOf(
    text('a field value ("" removes the field)', _field_value, "string", secret=True),
    "fields",
    field_name,
    _edits,
)
METHODS = ListOf(METHOD, frozenset, least=1)
