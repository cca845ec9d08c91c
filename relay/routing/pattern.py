"""What a route's path looks like: literal segments, `{name}` and `{name...}`.

Rules
* A path is its segments between slashes; `/api/` has two, the last one empty. Nothing is merged
  or resolved.
* `{name}` is one segment that is not empty. `{name...}` is the rest, stands last, and may be empty:
  `/api/{rest...}` takes `/api/x/y` and `/api/`, not `/api`.
* Literals are compared after both sides were percent-decoded *within* a segment, once (as Go's
  ServeMux does). So `/%61dmin` and `/v1/models%3Arun` meet the routes written `/admin` and
  `/v1/models:run`, and cannot slip past them into a catch-all. `%2F` never becomes a separator:
  `/a%2Fb` is one segment.
* What `{name}` caught is handed on as it came, undecoded.
* What means a parameter elsewhere (`/b/*`, `/c/:id`, `{rest:path}`) is a mistake here and said to be one: taken as it
  stands it would match nothing that anybody asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_PATH: Final = re.compile(r"[\x00-\x20\x7f?#\\]")


# Parameters as others write them: Express and Rails, nginx and Caddy, Flask, Next.js, Starlette and Spring.
_ELSEWHERE: Final = (
    re.compile(r"(?P<rest>\*\*?)(?P<name>\w*)"),
    re.compile(r":(?P<name>[A-Za-z_]\w*)(?P<rest>\*|\+)?(?:\(.*\))?\??"),
    re.compile(r"<(?:(?P<rest>path:)|\w+:)?(?P<name>[A-Za-z_]\w*)>"),
    re.compile(r"\[(?P<rest>\.\.\.)?(?P<name>[A-Za-z_]\w*)\]"),
    re.compile(r"\{(?P<rest>\*\*?)(?P<name>\w*)\}"),
    re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?:(?P<rest>:path|:\.[*+])|:[^{}]*|\?)\}"),
)


class Kind(IntEnum):
    """The kinds of a segment; the lower one is the more specific one."""

    LITERAL = 0
    NAME = 1
    REST = 2


class Segment(NamedTuple):
    """`text` is the decoded literal, or empty: segments that catch the same are equal."""

    kind: Kind
    text: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Pattern:
    """A route's path, parsed.

    Attributes:
        text: for use. Printed it may be another one: see `hidden`.
        segments: also the sort key: the least of two patterns that match is the most specific one,
            and equal segments mean that both match the same paths.
        names: for each segment its parameter, or "" for a literal.
    """

    text: str
    segments: tuple[Segment, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises: ValueError saying what is wrong, fit to be shown beside the text."""
        if not text.startswith("/"):
            raise ValueError('a path starts with "/"')
        if found := _NOT_IN_PATH.search(text):
            raise ValueError(f"{found.group()!r} cannot stand in a path")
        if _BAD_ESCAPE.search(text):
            raise ValueError('"%" must be followed by two hex digits')
        written = text[1:].split("/")
        parsed = [_segment(segment, last=n == len(written)) for n, segment in enumerate(written, 1)]
        names = tuple(name for _, name in parsed)
        for index, (segment, name) in enumerate(parsed):
            if segment.kind is Kind.REST and index + 1 != len(parsed):
                raise ValueError(f"{{{name}...}} must be the last segment")
            if name and name in names[:index]:
                raise ValueError(f"{{{name}}} stands twice")
        return cls(text, tuple(segment for segment, _ in parsed), names)

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(name for name in self.names if name)

    @property
    def has_rest(self) -> bool:
        return self.segments[-1].kind is Kind.REST

    @property
    def hidden(self) -> frozenset[bytes]:
        """The literals that are not to be printed: those of a text that prints as another one."""
        written = str(self.text)
        if written == self.text:
            return frozenset()
        shown = {decode(segment.encode()) for segment in written.split("/")}
        return frozenset(each.text for each in self.segments if each.text) - shown

    def shows(self, name: str) -> bool:
        """Whether a parameter of this name may be printed."""
        return f"{{{name}}}" in str(self) or f"{{{name}...}}" in str(self)

    def __str__(self) -> str:
        return str(self.text)

    def __repr__(self) -> str:
        return f"Pattern({str(self)!r})"


def decode(segment: bytes) -> bytes:
    """Percent-decode once; an escape that is none (`%zz`) stays as it is."""
    return unquote_to_bytes(segment) if b"%" in segment else segment


def _segment(text: str, *, last: bool) -> tuple[Segment, str]:
    if "{" not in text and "}" not in text:
        if meant := _meant(text, last):
            raise ValueError(
                f'did you mean "{meant}"? For the characters themselves write {_escaped(text)}'
            )
        literal = decode(text.encode())
        if literal in (b".", b".."):
            raise ValueError(f'"{text}" as a segment never matches: relay refuses dot segments')
        return Segment(Kind.LITERAL, literal), ""
    if meant := _meant(text, last):
        raise ValueError(f'"{text}" is no parameter; did you mean "{meant}"?')
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(f'a parameter is a whole segment: "{text}" is not')
    name = text[1:-1]
    kind = Kind.REST if name.endswith("...") else Kind.NAME
    name = name.removesuffix("...")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f'"{text}" is no parameter: a name is letters, digits and "_", no digit first'
        )
    return Segment(kind, b""), name


def _meant(text: str, last: bool) -> str | None:
    """The parameter that a segment would be elsewhere, as it is written here; None: none."""
    for form in _ELSEWHERE:
        if found := form.fullmatch(text):
            whole = found["rest"] is not None and last
            name = found["name"] or ("rest" if whole else "name")
            return f"{{{name}...}}" if whole else f"{{{name}}}"
    return None


def _escaped(text: str) -> str:
    """The first character of a segment, escaped."""
    return f'"%{ord(text[0]):02X}"'
