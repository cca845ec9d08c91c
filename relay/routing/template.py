"""The upstream's target, written with placeholders: `/v1/{id}/stream?user={body.user_id}`.

Rules
* `{x}` and `{path.x}` are route parameters, `{query.x}` the client's query, `{body.x.y}` and
  `{reply.x.y}` members of a JSON object.
* In the path, a route parameter keeps the bytes the client sent (`%2F` stays `%2F`, `{name...}`
  its slashes); every other value is percent-encoded but for the unreserved characters, so it
  never leaves its segment.
* After the `?`, every value is decoded from where it came and encoded again: it never ends its
  parameter.
* A value is a string, a number or a boolean. Missing, null, an array or an object is a
  `TemplateError`, and so is an empty value in the path (it would name another resource) and a dot
  segment, encoded or not.
* A `TemplateError` names the placeholder and never the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from relay.routing.pattern import decode

_UNTOLD: Final = "…"  # for a name that does not stand in the text as it prints
SOURCES: Final = ("path", "query", "body", "reply")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED: Final = re.compile(r"(path|query|body|reply)\.([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)")
_NOT_IN_TARGET: Final = re.compile(r"[\x00-\x20\x7f#\\]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TAIL: Final = re.compile(r".*/\{(?:path\.)?([A-Za-z_][A-Za-z0-9_]*)\}", re.DOTALL)
_BREAKS_PATH: Final = re.compile(rb"[\x00-\x20\x7f?#]")
_RESERVED: Final = re.compile(rb"[^A-Za-z0-9._~-]")
_SEPARATORS: Final = re.compile(rb"[/\\]")


class TemplateError(Exception):
    """A placeholder has no value that could be put in its place.

    Attributes:
        name: the placeholder, such as `body.user_id`; empty for a dot segment.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{{{name}}} {problem}" if name else problem)
        self.name = name


class _Placeholder(NamedTuple):
    source: str
    keys: tuple[str, ...]
    in_query: bool
    told: str  # its name in messages

    @property
    def name(self) -> str:
        return ".".join((self.source, *self.keys))


@dataclass(frozen=True, slots=True, repr=False)
class Template:
    """A request target to be filled in.

    Attributes:
        text: for use; printed it may be another one.
        has_query: the template has a query of its own, which then replaces the client's.
        names: every placeholder in full (`path.id`, `body.user_id`), for checking at load time.
        tail: the route parameter that is the end of the path, alone behind a slash; "" if none is.
    """

    text: str
    has_query: bool
    names: frozenset[str]
    tail: str
    _parts: tuple[bytes | _Placeholder, ...] = field(repr=False)  # a secret may be in the query

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises: ValueError saying what is wrong, fit to be shown beside the text."""
        if not text.startswith("/"):
            raise ValueError('it starts with "/"')
        parts: list[bytes | _Placeholder] = []
        end = 0
        in_query = False
        for match in _PLACEHOLDER.finditer(text):
            literal = text[end : match.start()]
            in_query = in_query or "?" in literal
            written = match.group() in str(text)
            parts += [_literal(literal), _placeholder(match.group(1), in_query, written=written)]
            end = match.end()
        parts.append(_literal(text[end:]))
        in_query = in_query or "?" in text[end:]
        placeholders = [part for part in parts if isinstance(part, _Placeholder)]
        names = frozenset(placeholder.name for placeholder in placeholders)
        tail = _TAIL.fullmatch(text.partition("?")[0])
        template = cls(
            text, in_query, names, tail[1] if tail else "", tuple(part for part in parts if part)
        )
        if _has_dots(_PLACEHOLDER.sub("x", text).partition("?")[0].encode()):
            raise ValueError("a dot segment is refused")
        return template

    def render(
        self,
        *,
        path: Mapping[str, bytes] | None = None,
        query: bytes = b"",
        body: object = None,
        reply: object = None,
    ) -> bytes:
        """The target, in origin form.

        Args:
            path: the route's parameters, raw.
            query: the client's query as it came, without the `?`.
            body: the client's JSON, decoded.
            reply: the JSON that the first request was answered with, decoded.

        Raises: TemplateError.
        """
        roots = {"path": path, "query": query, "body": body, "reply": reply}
        target = b"".join(
            part if isinstance(part, bytes) else _fill(part, roots[part.source])
            for part in self._parts
        )
        before = target.partition(b"?")[0] if self.has_query else target
        if _has_dots(before):
            raise TemplateError("", "the path would have a dot segment")
        return target

    def shown(self, name: str) -> str:
        """A placeholder for a message: one that does not stand in the text as it prints is not told."""
        for part in self._parts:
            if isinstance(part, _Placeholder) and part.name == name:
                return part.told
        return _UNTOLD

    def __str__(self) -> str:
        return str(self.text)

    def __repr__(self) -> str:
        return f"Template({str(self)!r})"


def escape(value: bytes) -> bytes:
    """Percent-encode everything but RFC 3986 unreserved characters."""
    return _RESERVED.sub(_percent, value)


def query_value(query: bytes, name: str) -> bytes | None:
    """The first value of a parameter in a query, decoded as a form's (`+` is a space)."""
    wanted = name.encode()
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if decode(key.replace(b"+", b" ")) == wanted:
            return decode(value.replace(b"+", b" "))
    return None


def query_members(query: bytes) -> dict[str, object]:
    """The parameters of a query as text, by name; the first one of a name counts."""
    members: dict[str, object] = {}
    for pair in query.split(b"&") if query else ():
        key, _, value = (decode(part.replace(b"+", b" ")) for part in pair.partition(b"="))
        members.setdefault(key.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
    return members


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match.group()[0]


def _literal(text: str) -> bytes:
    if found := _NOT_IN_TARGET.search(text):
        raise ValueError(f"{found.group()!r} cannot stand in it")
    if "{" in text or "}" in text:
        raise ValueError('a "{" or "}" without its other half')
    if _BAD_ESCAPE.search(text):
        raise ValueError('"%" must be followed by two hex digits')
    return re.sub(rb"[\x80-\xff]", _percent, text.encode())


def _placeholder(inner: str, in_query: bool, *, written: bool) -> _Placeholder:
    if inner.endswith("..."):
        raise ValueError(f"here the rest is written {{{inner[:-3]}}}, without the dots")
    if _NAME.fullmatch(inner):
        return _Placeholder("path", (inner,), in_query, f"path.{inner}" if written else _UNTOLD)
    match = _DOTTED.fullmatch(inner)
    if match is None:
        raise ValueError(
            f"{{{inner}}} is no placeholder: a route parameter, query.x, body.x or reply.x"
        )
    source, keys = match.group(1), tuple(match.group(2).split("."))
    if source in ("path", "query") and len(keys) > 1:
        raise ValueError(f"{{{inner}}}: {source} has names without dots")
    return _Placeholder(source, keys, in_query, inner if written else _UNTOLD)


def _fill(placeholder: _Placeholder, root: object) -> bytes:
    source, in_query = placeholder.source, placeholder.in_query
    if source == "path":
        raw = root.get(placeholder.keys[0]) if isinstance(root, Mapping) else None
        if raw is None:
            raise TemplateError(placeholder.told, "has no value")
        return escape(decode(raw)) if in_query else _BREAKS_PATH.sub(_percent, raw)
    if source == "query":
        found = query_value(root, placeholder.keys[0]) if isinstance(root, bytes) else None
        if found is None:
            raise TemplateError(placeholder.told, "has no value")
        value = found
    else:
        value = _scalar(placeholder, root)
    if not value and not in_query:
        raise TemplateError(placeholder.told, "is empty")
    return escape(value)


def _scalar(placeholder: _Placeholder, root: object) -> bytes:
    """A member of a JSON value as text: a string as it is, the rest as JSON writes it."""
    value = root
    for key in placeholder.keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool | int | float):
        return json.dumps(value).encode()
    if not isinstance(value, str):
        problem = "has no value" if value is None else "is no string, number or boolean"
        raise TemplateError(placeholder.told, problem)
    try:
        return value.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON may carry one, UTF-8 may not
        raise TemplateError(placeholder.told, "is not valid Unicode") from None


def _has_dots(path: bytes) -> bool:
    """Whether any segment is `.` or `..`, also hidden behind escapes, a backslash or `;parameters`.

    Servers differ in what they decode before they resolve, so what any of them would resolve is
    refused."""
    if b"." not in path and b"%" not in path:
        return False
    pieces = _SEPARATORS.split(decode(path))
    return any(piece.partition(b";")[0] in (b".", b"..") for piece in pieces)
