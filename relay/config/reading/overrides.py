"""Keys that the command line gives, over those of the file: `--set KEY=VALUE`, `--listen`, `--admin`.

    server.workers=2 · upstreams.backend.url=http://127.0.0.1:9000 · routes[0].heartbeat=5s · server.listen=["[::1]:80"]

Rules
  * A key is written as messages write it: `routes[0].request_headers."X-A b"`. Routes are counted from 0, in the order of
    the file.
  * A value is TOML where it reads as that (`2`, `true`, `["a"]`, `"2"`), else it is the text itself; places such as
    `${NAME}` are filled as in the file.
  * It takes the place of what the file has, and is checked as if it stood there. It stays through every reload.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date, time
from typing import Any, Final

from relay.config.reading.mistakes import ConfigError, KeyPath, Mistake, shown, written
from relay.config.values import Override

_PART: Final = re.compile(
    r"(?:(?<!\A)\.)?(?:(?P<bare>[A-Za-z0-9_-]+)|(?P<quoted>\"(?:\\.|[^\"\\])*\")|'(?P<literal>[^']*)')"
    r"(?P<indexes>(?:\[[0-9]{1,6}\])*)"
)


def parse_override(text: str) -> Override:
    """Of `KEY=VALUE`. Raises: ValueError that does not show the value."""
    key, equals, value = text.partition("=")
    while equals and key.count('"') % 2:  # within a quoted part
        more, equals, value = value.partition("=")
        key += "=" + more
    if not equals:
        raise ValueError(f"found {shown(key)}, expected KEY=VALUE")
    return Override(_path(key.strip()), _value(value), "--set")


def overrides_of(
    settings: Iterable[str], listen: Sequence[str], admin: str | None
) -> tuple[Override, ...]:
    """What `--set`, `--listen` and `--admin` say. Raises: ConfigError with every mistake."""
    found: list[Override] = []
    mistakes = []
    for text in settings:
        try:
            found.append(parse_override(text))
        except ValueError as error:
            mistakes.append(Mistake("--set", str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    if listen:
        found.append(Override(("server", "listen"), list(listen), "--listen"))
    if admin is not None:
        found.append(Override(("server", "admin"), admin, "--admin"))
    return tuple(found)


def _path(key: str) -> KeyPath:
    parts: list[str | int] = []
    at = 0
    while at < len(key) or not parts:
        found = _PART.match(key, at)
        if found is None or (at and key[at] != "."):
            raise ValueError(
                f"{shown(key)} is no key, such as server.workers or routes[0].heartbeat"
            )
        parts.append(_name(found))
        parts += [int(each) for each in re.findall(r"[0-9]+", found["indexes"])]
        at = found.end()
    return tuple(parts)


def _name(found: re.Match[str]) -> str:
    if found["quoted"] is not None:
        try:
            return str(json.loads(found["quoted"]))
        except ValueError:
            raise ValueError(f"{found['quoted']} is no quoted key") from None
    return str(found["bare"] if found["bare"] is not None else found["literal"])


def _value(text: str) -> object:
    try:
        found = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = found["value"]
    # No key is a date: 2026-11-25 is meant as a name.
    return text if len(found) > 1 or isinstance(value, date | time) else value


def apply(raw: dict[str, Any], overrides: Iterable[Override]) -> Iterable[tuple[KeyPath, str]]:
    """Put them into what was read of a file. Returns: those that have no place there, and why."""
    for override in overrides:
        problem = _put(raw, override)
        if problem:
            yield override.path, problem


def _put(raw: dict[str, Any], override: Override) -> str:
    node: Any = raw
    *way, last = override.path
    for depth, part in enumerate(override.path):
        here = written(override.path[:depth]) or "the file"
        if isinstance(part, int):
            if not isinstance(node, list):
                return f"{here} is no array"
            if part >= len(node):
                return f"there is no such one: {here} has {len(node)}"
        elif not isinstance(node, dict):
            return f"{here} is no table" + (
                ": write an index behind it" if isinstance(node, list) else ""
            )
        if depth < len(way):
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    node[last] = override.value
    return ""
