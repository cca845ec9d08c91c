"""A JSON value with holes: what an event of relay's own holds, written in the route.

    { type = "chunk", content = "{chunk.content}", note = "{chunk.index} of {chunk.total}" }

Rules
  * A text that is one placeholder and nothing else becomes the value itself: a number stays a number, what is missing is
    null. In a longer text a placeholder becomes text: null is nothing, arrays and objects are JSON.
  * `{root}` is a value, `{root.x}` what the expression behind the dot finds in it. Which roots there are, the caller
    says. `{{` and `}}` stand for the braces themselves.
  * Holes are filled in steps, as their roots become known (`with_known`), so that nothing is worked out twice and
    nothing is kept that no hole is left for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ROOT: Final = re.compile(r"[a-z]+")

Expression = Callable[[object], object]
# From a root and what stands behind its dot (None: no dot) to what finds the value; None: the root itself is meant.
Compiler = Callable[[str, str | None], Expression | None]
Roots = Mapping[str, object]


class _Hole(NamedTuple):
    root: str
    find: Expression | None  # None: the root's value itself

    def fill(self, roots: Roots) -> object:
        value = roots[self.root]
        return value if self.find is None else self.find(value)


class _Text(NamedTuple):
    """A text with holes in it."""

    parts: tuple[str | _Hole, ...]


@dataclass(frozen=True, slots=True)
class JsonTemplate:
    """A JSON value with holes."""

    roots: frozenset[str]  # of the holes that are left
    _shape: Any  # of dict, list, _Hole, _Text, and `_Known` for what has no hole

    @classmethod
    def parse(cls, value: object, compiled: Compiler) -> JsonTemplate:
        """Read a template from what TOML gives.

        Args:
            compiled: knows the roots, and makes a function of what stands behind the dot. Raises: ValueError.

        Raises: ValueError, fit to be shown.
        """
        return _template(_shape_of(value, compiled))

    def with_known(self, roots: Roots) -> JsonTemplate:
        """The same with the holes of these roots filled."""
        if self.roots.isdisjoint(roots):
            return self
        return _template(_filled(self._shape, roots))

    def over(self, members: Mapping[str, object]) -> JsonTemplate:
        """The same object with further members, where it does not have them itself."""
        own = self._shape
        if isinstance(own, _Known) and isinstance(own.value, dict):
            own = {name: _Known(each) for name, each in own.value.items()}
        assert isinstance(own, dict), "an object"
        more = {name: _Known(each) for name, each in members.items() if name not in own}
        return _template(_joined({**own, **more}))

    def value(self, roots: Roots) -> object:
        """The value, when all its roots are known."""
        shape = self._shape if not self.roots else _filled(self._shape, roots)
        assert isinstance(shape, _Known), "every hole has its root"
        return shape.value


class _Known(NamedTuple):
    value: object


def _template(shape: Any) -> JsonTemplate:
    return JsonTemplate(frozenset(_roots_of(shape)), shape)


def _shape_of(value: object, compiled: Compiler) -> Any:
    if isinstance(value, dict):
        return _joined({name: _shape_of(each, compiled) for name, each in value.items()})
    if isinstance(value, list):
        return _joined([_shape_of(each, compiled) for each in value])
    return _text_of(value, compiled) if isinstance(value, str) else _Known(value)


def _text_of(text: str, compiled: Compiler) -> Any:
    parts: list[str | _Hole] = []
    literal = ""
    end = 0
    for found in _PIECE.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        inner = found.group(1)
        if inner is None:
            if len(found.group()) == 1:
                raise ValueError(
                    'a "{" or "}" without its other half: written twice it stands for itself'
                )
            literal += found.group()[0]
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(_hole_of(inner, compiled))
    literal += text[end:]
    if not parts:
        return _Known(literal)
    if literal:
        parts.append(literal)
    return parts[0] if len(parts) == 1 else _Text(tuple(parts))


def _hole_of(inner: str, compiled: Compiler) -> _Hole:
    root, dot, rest = inner.partition(".")
    if not _ROOT.fullmatch(root):
        raise ValueError(f"{{{inner}}} is no placeholder")
    try:
        return _Hole(root, compiled(root, rest if dot else None))
    except ValueError as error:
        raise ValueError(f"{{{inner}}} {error}") from None


def _filled(shape: Any, roots: Roots) -> Any:
    """A shape with the holes of `roots` filled; what has no hole left is one `_Known`."""
    if isinstance(shape, dict):
        return _joined({name: _filled(each, roots) for name, each in shape.items()})
    if isinstance(shape, list):
        return _joined([_filled(each, roots) for each in shape])
    if isinstance(shape, _Hole):
        return _Known(shape.fill(roots)) if shape.root in roots else shape
    if isinstance(shape, _Text):
        return _filled_text(shape, roots)
    return shape


def _filled_text(text: _Text, roots: Roots) -> Any:
    parts: list[str | _Hole] = []
    for part in text.parts:
        if isinstance(part, _Hole) and part.root not in roots:
            parts.append(part)
            continue
        known = part if isinstance(part, str) else _as_text(part.fill(roots))
        if parts and isinstance(parts[-1], str):
            parts[-1] += known
        else:
            parts.append(known)
    if all(isinstance(part, str) for part in parts):
        return _Known("".join(map(str, parts)))
    return _Text(tuple(parts))


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _joined(shape: Any) -> Any:
    """One `_Known` for an object or array in which all is known."""
    members = shape.values() if isinstance(shape, dict) else shape
    if not all(isinstance(each, _Known) for each in members):
        return shape
    if isinstance(shape, dict):
        return _Known({name: each.value for name, each in shape.items()})
    return _Known([each.value for each in shape])


def _roots_of(shape: Any) -> set[str]:
    if isinstance(shape, dict | list):
        members = shape.values() if isinstance(shape, dict) else shape
        return {root for each in members for root in _roots_of(each)}
    if isinstance(shape, _Text):
        return {part.root for part in shape.parts if isinstance(part, _Hole)}
    return {shape.root} if isinstance(shape, _Hole) else set()
