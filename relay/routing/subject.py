"""What tells one stream, or one person, from another: `{body.id}`, `{auth.x-user-id}`, `{header.x-tenant}/{id}`.

Rules
* `{x}` is a route parameter, decoded; `{query.x}` of the client's query; `{body.x.y}` a member of the client's JSON body;
  `{body}` a hash of all of it; `{header.NAME}` and `{cookie.NAME}` what the client sent; `{auth.NAME}` a field of the
  answer of `[routes.auth]`. The case of field names does not matter, that of cookies does. Where the reader of the text
  allows it, `{client}` is the client's address; a route parameter of that name is `{path.client}` there.
* A value that is missing, empty, or no string, number or boolean is missing: nothing becomes "somebody" by having no name.
  One that is not UTF-8 (in JSON: a lone surrogate) has a surrogate in it, for whoever uses it to refuse.
* The values stay apart (`parts`), so that `a` + `bc` and `ab` + `c` are two.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from relay.routing.pattern import decode
from relay.routing.template import query_value

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED: Final = re.compile(r"(path|query|body|header|cookie|auth)\.(.+)")
_MEMBERS: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_TEXT: Final = re.compile(r"[\x00-\x1f\x7f{}]")

Fields = Sequence[tuple[bytes, bytes]]


class _Part(NamedTuple):
    source: str
    name: str  # of a field in lower case; of `body` its members with dots, "" for all of it


@dataclass(frozen=True, slots=True)
class Values:
    """Where the placeholders find what they name.

    Attributes:
        params: the route's parameters, raw.
        query: the client's query as it came, without the `?`.
        payload: the request body, decoded of its codings; None where there is none or it is not to be looked at.
        body: the JSON value in it; None where it is none.
        fields, auth: of the request, and of the answer of `[routes.auth]`; names in lower case.
        client: what its address counts as; "" where it has none.
    """

    params: Mapping[str, bytes] = field(default_factory=dict)
    query: bytes = b""
    payload: bytes | None = None
    body: object = None
    fields: Fields = ()
    auth: Fields = ()
    client: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Subject:
    """A text with placeholders for what a request, and who sent it, says.

    Attributes:
        text: for use; printed it may be another one.
        names: every placeholder in full (`path.id`, `auth.x-user-id`), for checking at load time.
    """

    text: str
    names: frozenset[str]
    _parts: tuple[str | _Part, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, client: bool = False) -> Subject:
        """`client`: `{client}` is the client's address.

        Raises: ValueError saying what is wrong, fit to be shown beside the text.
        """
        parts: list[str | _Part] = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            parts += [_literal(text[end : match.start()]), _placeholder(match.group(1), client)]
            end = match.end()
        parts.append(_literal(text[end:]))
        found = [part for part in parts if isinstance(part, _Part)]
        if not found:
            raise ValueError("it has no placeholder: everything would be the same one")
        names = frozenset(".".join(part).rstrip(".") for part in found)
        return cls(text, names, tuple(part for part in parts if part))

    @property
    def reads_body(self) -> bool:
        """Whether the request body has to be there for it."""
        return any(name.partition(".")[0] == "body" for name in self.names)

    @property
    def reads_json(self) -> bool:
        """Whether it has to be looked into."""
        return any(name.startswith("body.") for name in self.names)

    @property
    def reads_auth(self) -> bool:
        """Whether `[routes.auth]` has to have answered for it."""
        return any(name.startswith("auth.") for name in self.names)

    def parts(self, values: Values) -> tuple[str, ...] | None:
        """Literals and values in order; None where a value is missing."""
        out: list[str] = []
        for part in self._parts:
            value = part if isinstance(part, str) else _value(part, values)
            if not value:
                return None
            out.append(value)
        return tuple(out)

    def shown(self, name: str) -> str:
        """A placeholder for a message: one that does not stand in the text as it prints is not told."""
        return name if f"{{{name.removeprefix('path.')}}}" in str(self) else "…"

    def __str__(self) -> str:
        return str(self.text)

    def __repr__(self) -> str:
        return f"Subject({str(self)!r})"


def _literal(text: str) -> str:
    if found := _NOT_IN_TEXT.search(text):
        raise ValueError(f"{found.group()!r} cannot stand in it")
    return text


def _placeholder(inner: str, client: bool) -> _Part:
    if inner == "body":
        return _Part("body", "")
    if inner == "client" and client:
        return _Part("client", "")
    if _NAME.fullmatch(inner):
        return _Part("path", inner)
    match = _DOTTED.fullmatch(inner)
    if match is not None:
        source, name = match.groups()
        if source in ("header", "auth") and _TOKEN.fullmatch(name):
            return _Part(source, name.lower())
        if source == "cookie" and _TOKEN.fullmatch(name):
            return _Part(source, name)
        if source == "body" and _MEMBERS.fullmatch(name):
            return _Part(source, name)
        if source in ("path", "query") and _MEMBERS.fullmatch(name) and "." not in name:
            return _Part(source, name)
    own = "client, " if client else ""
    raise ValueError(
        f"{{{inner}}} is no placeholder: {own}a route parameter, query.x, body, body.x, header.NAME, cookie.NAME or "
        "auth.NAME"
    )


def _value(part: _Part, values: Values) -> str | None:
    if part.source == "body":
        if not part.name:
            return hashlib.sha256(values.payload).hexdigest() if values.payload else None
        return _member(values.body, part.name)
    if part.source == "client":
        return values.client
    if part.source == "path":
        raw = values.params.get(part.name)
        return None if raw is None else _text(decode(raw))
    if part.source == "query":
        found = query_value(values.query, part.name)
        return None if found is None else _text(found)
    if part.source == "cookie":
        return _cookie(values.fields, part.name.encode())
    return _field(values.auth if part.source == "auth" else values.fields, part.name.encode())


def _text(raw: bytes) -> str:
    """What is not UTF-8 stays visible as a surrogate, so that it is refused and does not count as missing."""
    return raw.decode("utf-8", "surrogateescape")


def _field(fields: Fields, name: bytes) -> str | None:
    """The field's value; missing where it stands twice, because nobody knows which of the two counts."""
    found = [value for each, value in fields if each == name]
    return found[0].strip(b" \t").decode("latin-1") if len(found) == 1 else None


def _cookie(fields: Fields, name: bytes) -> str | None:
    """The value of one cookie (RFC 6265 §4.2.1); missing where it stands twice: a sibling domain may have set the other."""
    found = []
    for field_name, value in fields:
        if field_name == b"cookie":
            pairs = (pair.strip(b" \t").partition(b"=") for pair in value.split(b";"))
            found += [text for key, _, text in pairs if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _member(body: object, name: str) -> str | None:
    value = body
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None
