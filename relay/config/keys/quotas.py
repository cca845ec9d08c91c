"""`[limits.by.NAME]` and `[routes.limits.by.NAME]`: how much each value of a key may."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any, Final

from relay.config.reading import kinds, units
from relay.config.reading.mistakes import nearest
from relay.config.reading.schema import REQUIRED, Key, Kind, MapOf, Table
from relay.config.values import UNLIMITED, Quota
from relay.config.values.filled import written_as
from relay.routing.pattern import Pattern
from relay.routing.subject import Subject

_EXAMPLE: Final = 'a key such as "{header.x-api-key}", "{auth.x-user-id}" or "{client}"'


def _parse(text: str) -> Subject:
    subject = Subject.parse(text, client=True)
    if subject.reads_body:
        raise ValueError("a request is counted before its body is read: {body} has no value here")
    return subject


def _parse_shared(text: str) -> Subject:
    subject = _parse(text)
    for name in sorted(subject.names):
        if name.startswith("path."):
            told = subject.shown(name).removeprefix("path.")
            raise ValueError(f"{{{told}}} is of one route: put the limit into [routes.limits.by]")
    return subject


def _table(key: Kind) -> Table:
    return Table(
        (
            Key(
                "key",
                key,
                REQUIRED,
                "What is counted apart: a text with `{client}`, `{header.NAME}`, `{cookie.NAME}`, `{query.x}`, "
                "`{auth.NAME}`; on a route its parameters too. A request without the value counts for its client's "
                "address.",
                "A field that a client may make up at will limits nobody: let `[routes.auth]` say who it is.",
            ),
            Key(
                "request_rate",
                kinds.RATE,
                '"off"',
                "Requests of one value, as a token bucket; more is a 429 with Retry-After and RateLimit.",
            ),
            Key("request_burst", kinds.whole(1, 1_000_000), "100", "Size of that bucket."),
            Key(
                "streams",
                kinds.COUNT,
                '"off"',
                "Event streams of one value at once; more is a 429.",
            ),
        ),
        make=_checked,
    )


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if "request_rate" not in values and "streams" not in values:
        raise ValueError("it limits nothing: give it `request_rate` or `streams`")
    if "request_burst" in values and values.get("request_rate", inf) == inf:
        raise ValueError("`request_burst` has no effect without `request_rate`")
    return values


def _made(values: dict[str, Any], *, everywhere: bool) -> tuple[Quota, ...]:
    return tuple(Quota(name, everywhere=everywhere, **each) for name, each in values.items())


SHARED: Final = _table(kinds.text(_EXAMPLE, _parse_shared, "text with placeholders"))
OWN: Final = _table(kinds.text(_EXAMPLE, _parse, "text with placeholders"))
SHARED_BY: Final = MapOf(
    SHARED, "tables by name", kinds.plain_name, lambda values: _made(values, everywhere=True)
)
OWN_BY: Final = MapOf(
    OWN, "tables by name", kinds.plain_name, lambda values: _made(values, everywhere=False)
)


def merged(shared: tuple[Quota, ...], own: tuple[Quota, ...]) -> tuple[Quota, ...]:
    """The limits of a route: a name of its own stands for that of `[limits]`."""
    names = {quota.name for quota in own}
    return (*(quota for quota in shared if quota.name not in names), *own)


def unknown(
    own: Iterable[Quota], pattern: Pattern | None, *, auth: bool
) -> Iterable[tuple[str, str]]:
    """Placeholders of a route's limits that can have no value there: (name of the limit, message)."""
    for quota in own:
        for name in sorted(quota.key.names):
            source, _, member = name.partition(".")
            told = quota.key.shown(name)
            if source == "auth" and not auth:
                yield quota.name, f"{{{told}}} needs [routes.auth]"
            elif source == "path" and pattern is not None and member not in pattern.parameters:
                hint = nearest(member, sorted(filter(pattern.shows, pattern.parameters)))
                told = told.removeprefix("path.")
                yield quota.name, f'no route parameter "{told}"{hint or ": the path has none"}'


def show(quota: Quota) -> str:
    """A limit by key, as `relay check` shows it."""
    parts = []
    if quota.request_rate != inf:
        rate = written_as(quota.request_rate) or units.show_rate(quota.request_rate)
        parts.append(
            f"{rate} at most {written_as(quota.request_burst) or quota.request_burst} at once"
        )
    if quota.streams != UNLIMITED:
        parts.append(f"{written_as(quota.streams) or quota.streams} streams")
    return f"{quota.name} {quota.key} {' and '.join(parts) or 'off'}"
