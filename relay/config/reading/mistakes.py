"""Mistakes in a configuration: each with its key, its line, what was found and what is allowed.

No message ever has a resolved `${NAME}` or `{file:…}` in it: what is shown is the text as written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from relay.config.values.filled import Filled

KeyPath = tuple[str | int, ...]
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN: Final = 60  # characters of a found text; enough to recognise it in the file


class Mistake(NamedTuple):
    """One thing that is wrong. `key` is written as TOML would: `routes[2].heartbeat`."""

    key: str
    message: str
    line: int | None = None  # counted from 1; None where there is no file or no such line
    option: str = ""  # of the command line, which gave the key: `--set`

    def __str__(self) -> str:
        where = f"{self.key} (line {self.line})" if self.line else self.key
        where = f"{self.key} (from {self.option})" if self.option else where
        return f"{where}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used; `mistakes` has every one, in the order of the file."""

    def __init__(self, mistakes: Iterable[Mistake], path: str | None = None) -> None:
        self.mistakes = tuple(mistakes)
        self.path = path
        where = f"{path}: " if path is not None else ""
        super().__init__("\n".join(f"{where}{mistake}" for mistake in self.mistakes))


def written(path: KeyPath) -> str:
    """A key path as text: `routes[0].request_headers."X-A b"`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        text += f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """A value as it was written, short: never what was put in."""
    if isinstance(value, Filled):
        value = value.written
    if isinstance(value, str):
        cut = value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…"
        return json.dumps(cut, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or the list of what there is, where nothing is similar enough or nothing may be suggested."""
    names = list(known)
    if isinstance(name, Filled) or not names:
        return ""
    return similar(name, names) or f"; there is {', '.join(names)}"


def similar(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, where something is similar enough and may be suggested."""
    if isinstance(name, Filled):
        return ""
    from difflib import get_close_matches  # 5 ms that only a mistake pays for

    lowered = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f'; did you mean "{lowered[close[0]]}"?' if close else ""
