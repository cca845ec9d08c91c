"""What a key may hold, said once: the reader checks with it and the reference page is printed
from it.

A `Kind` reads one value. `ListOf`, `MapOf` and `Table` are made of kinds. A `Table` knows its
keys with default, unit and meaning. Nothing stops at the first mistake: a `Reader` collects them
all, and what it hands on is what was right.

Rule: a kind's ValueError says the reason and never the value, because the value may be a secret
that was put in; what is shown is the text as written, by the reader alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.config.reading.interpolation import Interpolation
from relay.config.reading.mistakes import KeyPath, nearest, shown, similar
from relay.config.values.filled import Filled, read_from

REQUIRED: Final = "required"


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How one value is read.

    Attributes:
        label: what the reference page calls it.
        expected: how the message "expected …" goes on.
        read: from the TOML value to ours. Raises: ValueError(reason or "").
        choices: every allowed text, where they can be counted.
        secret: the value as written may be a secret: never show it.
    """

    label: str
    expected: str
    read: Callable[[Any], Any]
    choices: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ListOf:
    """An array of one kind; with `single`, one value alone stands for an array of it."""

    each: Kind
    make: Callable[[list[Any]], object] = tuple
    single: bool = False
    least: int = 0

    @property
    def label(self) -> str:
        one = f"{self.each.label}, or an " if self.single else ""
        return f"{one}array of {self.each.label}"


@dataclass(frozen=True, slots=True, eq=False)
class MapOf:
    """A table whose names the user chooses.

    Attributes:
        name: checks a name. Raises: ValueError(reason).
        make: from {name: value} to the value handed on. Raises: ValueError(reason).
    """

    each: Kind | Table
    label: str
    name: Callable[[str], object]
    make: Callable[[dict[str, Any]], object] = dict


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One key of a table.

    Attributes:
        default: as it would be written in the file, REQUIRED, or "" for "not set".
        meaning: what it does, in a line.
        unless: when to leave it alone, or not to use it.
    """

    name: str
    kind: AnyKind
    default: str
    meaning: str
    unless: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table whose keys we choose. `make` gets what was read, by key; absent keys are absent.

    With `parts` what was right is handed on as Parts, so that checks across keys can go on.
    """

    keys: tuple[Key, ...]
    make: Callable[[dict[str, Any]], object] = dict
    label: str = "table"
    parts: bool = False


class Parts(dict[str, Any]):
    """The keys of a table that were right; `broken` names those that had a mistake."""

    broken: frozenset[str] = frozenset()


AnyKind = Kind | ListOf | MapOf | Table
_HOMES: Final = 2  # tables that a message names as the place of a misplaced key; more of them would tell nothing
INVALID: Final = object()  # what a reader returns for a value that had a mistake


class Reader:
    """Reads TOML values by kind and collects what is wrong with them.

    Args:
        headings: the tables of the file by their headings, to tell where a key that stands in the
            wrong one belongs. In TOML a key is of the last heading above it, so that is easily done.
    """

    def __init__(
        self, interpolation: Interpolation, headings: Mapping[str, AnyKind] | None = None
    ) -> None:
        self._interpolation = interpolation
        self._headings = headings or {}
        self.mistakes: list[tuple[KeyPath, str]] = []

    def mistake(self, path: KeyPath, message: str) -> None:
        self.mistakes.append((path, message))

    def unknown(self, path: KeyPath, known: Iterable[str]) -> None:
        """A key that is not known where it stands: it is misspelt, or it is known elsewhere."""
        name = str(path[-1])
        known = list(known)
        hint = nearest(name, known)
        homes = [
            heading
            for heading, kind in self._headings.items()
            for heading, table in _tables(heading, kind)
            if any(key.name == name for key in table.keys)
        ]
        if 0 < len(homes) <= _HOMES:
            hint = f'{similar(name, known)}; "{name}" is a key of {" and ".join(homes)}'
            if len(path) > 1:
                hint += ", and a key belongs to the last heading above it"
        self.mistake(path, f"unknown key{hint}")

    def read(self, kind: AnyKind, raw: object, path: KeyPath) -> Any:
        """The value, or INVALID after at least one mistake was noted."""
        if isinstance(kind, Kind):
            return self._value(kind, raw, path)
        if isinstance(kind, ListOf):
            return self._list(kind, raw, path)
        if not isinstance(raw, dict):
            self.mistake(path, f"found {shown(raw)}, expected a table: {heading_of(path)}")
            return INVALID
        if isinstance(kind, MapOf):
            return self._map(kind, raw, path)
        return self._table(kind, raw, path)

    def fill(self, raw: str, path: KeyPath) -> str:
        """A text with its places filled in; as it was after a mistake was noted."""
        try:
            return self._interpolation.resolve(raw)
        except ValueError as error:
            self.mistake(path, str(error))
            return raw

    def _value(self, kind: Kind, raw: object, path: KeyPath) -> Any:
        value = raw
        if isinstance(raw, str):
            try:
                value = self._interpolation.resolve(raw)
            except ValueError as error:
                self.mistake(path, str(error))
                return INVALID
        try:
            return read_from(kind.read(value), value)
        except ValueError as error:
            # A reason may quote the text it is about, so it is only given for what was written so.
            filled = isinstance(value, Filled)
            reason = "" if filled or not str(error) else f": {error}"
            found = "" if kind.secret else f"found {_masked(raw)}, "
            near = "" if filled else _alike(raw, kind.choices)
            self.mistake(path, f"{found}expected {kind.expected}{reason}{near}")
            return INVALID

    def _list(self, kind: ListOf, raw: object, path: KeyPath) -> Any:
        if kind.single and isinstance(raw, str):
            one = self.read(kind.each, raw, path)
            return INVALID if one is INVALID else self._made(kind, [one], path)
        if not isinstance(raw, list):
            one = f": write [{shown(raw)}]" if isinstance(raw, str) else ""
            wanted = (
                f"{kind.each.expected}, or an array of them" if kind.single else f"an {kind.label}"
            )
            self.mistake(path, f"found {shown(raw)}, expected {wanted}{one}")
            return INVALID
        if len(raw) < kind.least:
            self.mistake(path, f"an empty array, expected at least {kind.least} {kind.each.label}")
            return INVALID
        values = [self.read(kind.each, each, (*path, index)) for index, each in enumerate(raw)]
        return self._made(kind, values, path)

    def _map(self, kind: MapOf, raw: dict[str, object], path: KeyPath) -> Any:
        values = {}
        for name, each in raw.items():
            try:
                kind.name(name)
            except ValueError as error:
                self.mistake((*path, name), str(error))
                continue
            values[name] = self.read(kind.each, each, (*path, name))
        return self._made(kind, values, path)

    def _table(self, table: Table, raw: dict[str, object], path: KeyPath) -> Any:
        known = {key.name: key for key in table.keys}
        values = Parts()
        broken = set()
        for name, each in raw.items():
            if name not in known:
                self.unknown((*path, name), known)
                continue
            value = self.read(known[name].kind, each, (*path, name))
            if value is INVALID:
                broken.add(name)
            else:
                values[name] = value
        for key in table.keys:
            if key.default == REQUIRED and key.name not in raw:
                self.mistake((*path, key.name), f"is missing: {key.meaning}")
                broken.add(key.name)
        if table.parts:
            values.broken = frozenset(broken)
            return values
        return INVALID if broken else self._made(table, values, path)

    def _made(self, kind: ListOf | MapOf | Table, values: Any, path: KeyPath) -> Any:
        parts = values.values() if isinstance(values, dict) else values
        if any(part is INVALID for part in parts):
            return INVALID
        try:
            return kind.make(values)
        except ValueError as error:
            self.mistake(path, str(error))
            return INVALID


def _tables(heading: str, kind: AnyKind) -> Iterator[tuple[str, Table]]:
    """A table and those in it, each with its heading: `[routes.auth]` of `[[routes]]`."""
    if isinstance(kind, MapOf):
        yield from _tables(f"[{heading.strip('[]')}.NAME]", kind.each)
    elif isinstance(kind, Table):
        yield heading, kind
        for key in kind.keys:
            yield from _tables(f"[{heading.strip('[]')}.{key.name}]", key.kind)


def heading_of(path: KeyPath) -> str:
    """How a table is written: `write [routes.auth]`."""
    return f"write [{'.'.join(part for part in path if isinstance(part, str))}]"


def _alike(raw: object, choices: tuple[str, ...]) -> str:
    """The choice that was probably meant. A status that is near another one is not alike it."""
    if not choices or not isinstance(raw, str) or raw.isdigit():
        return ""
    hint = nearest(raw, choices)
    return hint if "did you mean" in hint else ""


def _masked(raw: object) -> str:
    """A value as written, without what stands before an `@` in a url."""
    if isinstance(raw, str) and "@" in raw and "://" in raw:
        scheme, _, rest = raw.partition("://")
        raw = f"{scheme}://…@{rest.rpartition('@')[2]}"
    return shown(raw)
