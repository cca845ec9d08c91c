"""From TOML text to a Config, or to a ConfigError with every mistake in it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from relay.config.keys.log_fields import secret_uses
from relay.config.keys.resume import STREAMS, check_store
from relay.config.keys.route_builder import read_routes
from relay.config.keys.route_keys import ROUTE
from relay.config.keys.route_reading import Known
from relay.config.keys.server import LIMITS, SERVER, TIMEOUTS
from relay.config.keys.translations import read_translations
from relay.config.keys.upstreams import UPSTREAM, Upstreams
from relay.config.reading.interpolation import Interpolation
from relay.config.reading.lines import Lines
from relay.config.reading.mistakes import ConfigError, KeyPath, Mistake, written
from relay.config.reading.overrides import apply
from relay.config.reading.schema import INVALID, AnyKind, Reader, Table
from relay.config.values import Config, Limits, Override, Server, Streams, Timeouts

STDIN = "-"
# How tomllib ends its messages.
_TOML_PLACE = re.compile(
    r" \(at (?:line (?P<line>[0-9]+), column (?P<column>[0-9]+)|end of document)\)\Z"
)
# What to do about the usual slips; what tomllib says of the others is enough.
_TOML_HINTS = {
    "Expected newline or end of document after a statement": 'a text stands in "quotes"',
    "Invalid value": 'a text stands in "quotes"',
    "Illegal character '\\n'": 'is a " missing?',
    "Expected '=' after a key in a key/value pair": "it is written key = value",
    "Cannot overwrite a value": "the key stands here twice",
}
_TABLES = ("server", "limits", "timeouts", "streams", "upstreams", "routes", "translations")
_HEADINGS: Mapping[str, AnyKind] = {
    "[server]": SERVER,
    "[limits]": LIMITS,
    "[timeouts]": TIMEOUTS,
    "[streams]": STREAMS,
    "[upstreams.NAME]": UPSTREAM,
    "[[routes]]": ROUTE,
}


def load(
    path: str | Path, environ: Mapping[str, str], overrides: Sequence[Override] = ()
) -> Config:
    """Read and check a file, or what stdin gives (`-`); relative paths inside it start from its folder.

    Raises: ConfigError.
    """
    piped = path == STDIN
    name = "stdin" if piped else str(path)
    try:
        text = (sys.stdin.buffer.read() if piped else Path(path).read_bytes()).decode()
    except OSError as error:
        raise ConfigError([Mistake(name, f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Mistake(name, "is not UTF-8 text")]) from None
    if piped:
        return _checked(text, environ, None, name, overrides)
    return loads(text, environ, path=name, overrides=overrides)


def loads(
    text: str,
    environ: Mapping[str, str],
    *,
    path: str | None = None,
    overrides: Sequence[Override] = (),
) -> Config:
    """Check a text; without `path` relative paths start from the working folder.

    Raises: ConfigError.
    """
    return _checked(text, environ, path, path, overrides)


def _checked(
    text: str,
    environ: Mapping[str, str],
    path: str | None,
    name: str | None,
    overrides: Sequence[Override],
) -> Config:
    """`name`: what mistakes are said to be in. Raises: ConfigError."""
    text = text.removeprefix("\ufeff")  # the mark that some editors of Windows put first
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_not_toml(str(error), text)], name) from None
    except RecursionError:
        raise ConfigError([Mistake("TOML", "is nested too deeply")], name) from None
    base = Path(path).absolute().parent if path else Path.cwd()
    reader = Reader(Interpolation(environ, base), _HEADINGS)
    for at, message in apply(raw, overrides):
        reader.mistake(at, message)
    config = _read(reader, raw, base, path)
    if reader.mistakes:
        raise ConfigError(_placed(reader.mistakes, text, overrides), name)
    return config._replace(overrides=tuple(overrides))


def _read(reader: Reader, raw: dict[str, Any], base: Path, path: str | None) -> Config:
    for name in raw:
        if name not in _TABLES:
            reader.unknown((name,), _TABLES)
    server = _table(reader, SERVER, raw, "server")
    limits = _table(reader, LIMITS, raw, "limits", Limits())
    timeouts = _table(reader, TIMEOUTS, raw, "timeouts", Timeouts())
    streams = _table(reader, STREAMS, raw, "streams", Streams())
    upstreams = Upstreams(reader, base)
    upstreams.read(raw.get("upstreams", {}))
    translations = read_translations(reader, raw.get("translations", {}))
    known = Known(upstreams, translations, limits, timeouts, base)
    routes = read_routes(reader, raw.get("routes", []), known)
    if isinstance(server, Server):
        names = server.access_log_fields
        for field, why in secret_uses(names, upstreams.found.values(), routes):
            at = ("server", "access_log_fields", names.index(field))
            reader.mistake(at, f'"{field.decode()}" is a secret here ({why}): it is never logged')
    wrong = check_store(routes, server, streams) if isinstance(server, Server) else ""
    if wrong:
        reader.mistake(("streams",), wrong)
    return Config(server, limits, timeouts, upstreams.found, routes, path, streams)


def _table(
    reader: Reader, table: Table, raw: dict[str, Any], name: str, default: object = None
) -> Any:
    values = reader.read(table, raw.get(name, {}), (name,))
    return default if values is INVALID else values


def _not_toml(message: str, text: str) -> Mistake:
    """What tomllib says, with its place where that of every mistake stands."""
    if (place := _TOML_PLACE.search(message)) is None:
        return Mistake("TOML", message)
    if place["line"] is None:
        return Mistake("TOML", message, text.rstrip("\n").count("\n") + 1)
    said = message[: place.start()]
    hint = f": {_TOML_HINTS[said]}" if said in _TOML_HINTS else ""
    return Mistake("TOML", f"{said} (at column {place['column']}){hint}", int(place["line"]))


def _placed(
    mistakes: list[tuple[KeyPath, str]], text: str, overrides: Sequence[Override]
) -> list[Mistake]:
    """Mistakes with their lines, in the order of the file; those of the command line with its option, behind them."""
    lines = Lines(text)
    placed = []
    for path, message in mistakes:
        line = lines.find(path)
        # It is in what was given, or there only because of it.
        given = [
            each.option
            for each in overrides
            if path[: len(each.path)] == each.path
            or (line is None and path and each.path[: len(path)] == path)
        ]
        option = given[-1] if given else ""
        placed.append(Mistake(written(path), message, None if given else line, option))
    return sorted(placed, key=lambda mistake: mistake.line or inf)
