"""source = "local": answered by relay itself, always alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from relay.config.keys.route_reading import RouteReading, SourceKind
from relay.config.reading import kinds
from relay.config.reading.schema import Key, Table
from relay.config.values import Source
from relay.config.values.filled import shown_as


@dataclass(frozen=True, slots=True)
class Local(Source):
    """source = "local": a status and a body."""

    name: ClassVar = "local"

    status: int = 200
    body: bytes = b""
    content_type: bytes = b"text/plain; charset=utf-8"

    def lines(self) -> list[str]:
        return [f"local {shown_as(self.status)}"]


def _read(route: RouteReading) -> Local:
    return Local(**route.values.get("local", {}))


def _local(values: dict[str, Any]) -> dict[str, Any]:
    status = values.get("status")
    if status in (204, 205, 304) and values.get("body"):
        raise ValueError(f"a {status} has no body")
    return values


LOCAL: Final = Table(
    (
        Key("status", kinds.STATUS, "200", "The status."),
        Key("body", kinds.BODY, '""', "The body."),
        Key("content_type", kinds.CONTENT_TYPE, '"text/plain; charset=utf-8"', "Its media type."),
    ),
    make=_local,
)
SOURCE: Final = SourceKind(
    Local,
    (Key("local", LOCAL, "", "For `local`."),),
    _read,
    brings_events=False,
    sections=(("[routes.local]", LOCAL, 'For `source = "local"`: relay answers.'),),
)
