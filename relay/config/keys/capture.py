"""`[routes.capture]`: what a stream says, for the log."""

from __future__ import annotations

import re
from typing import Any, Final

from relay.config.reading.expressions import compile_expression, words_of
from relay.config.reading.schema import Kind, MapOf
from relay.sse.capture import Plan, Wanted

MOST: Final = 16  # values of a route: each is a label in the metrics and a member of the log's line
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name is letters, digits and `_`, 64 at most, and begins with no digit")
    return name


def _read(value: object) -> Wanted:
    if not isinstance(value, str):
        raise ValueError("it is written in quotes")
    return Wanted("", compile_expression(value), words_of(value))


def _plan(values: dict[str, Any]) -> Plan | None:
    if len(values) > MOST:
        raise ValueError(f"{len(values)} values, at most {MOST} are captured")
    named = (Wanted(name, each.expression, each.words) for name, each in values.items())
    return Plan.of(named) if values else None


CAPTURE: Final = MapOf(
    Kind("JMESPath", "a JMESPath expression", _read), "table of JMESPath by name", _name, _plan
)
