"""A request that relay makes itself, as a source of several steps, or one with an answer of its own, is configured."""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.config.keys.route_reading import RouteReading
from relay.config.reading import kinds
from relay.config.reading.schema import Key, ListOf, Parts
from relay.config.values import Upstream
from relay.config.values.filled import shown_as
from relay.routing.template import Template


class Step(NamedTuple):
    """One request that relay makes itself (`[routes.enqueue]`, `[routes.follow]`,
    `[routes.cancel]`).
    """

    upstream: Upstream
    path: Template
    method: bytes = b"POST"
    timeout: float = 30.0
    not_ready: tuple[int, ...] = (404, 425)  # follow: statuses that mean "not yet"
    not_ready_for: float = 5.0  # follow: how long they are tried again
    client_headers: tuple[bytes, ...] = ()  # the client's fields that go along

    def line(self) -> str:
        """As `relay check` shows it."""
        return f"{shown_as(self.method)} {self.upstream.name} {self.path}"


def read_step(
    route: RouteReading, name: str, values: Parts, sources: tuple[str, ...], default: str | None
) -> Step | None:
    if default is not None and "upstream" not in values.broken:
        values.setdefault("upstream", default)
    upstream = route.upstream(values, (name,))
    right = route.check(values.get("path"), (name, "path"), sources)
    if upstream is None or not right or values.broken:
        return None
    values.pop("upstream")
    return Step(upstream, **values)


def _with_body(method: str) -> bytes:
    if method == "HEAD":
        raise ValueError("the answer to HEAD has no body")
    read: bytes = kinds.METHOD.read(method)
    return read


def client_headers(default: str, more: str = "") -> Key:
    return Key(
        "client_headers",
        ListOf(kinds.EDITED_FIELD, single=True),
        default,
        "Fields of the client's request that go along, such as `Authorization` and `Accept-Language`; "
        f"every other one stays here.{more}",
        "Not to an upstream that must not know the user's credentials.",
    )


METHOD_WITH_BODY: Final = kinds.text('a method such as "GET"', _with_body, "method")
