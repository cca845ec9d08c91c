"""From the tables `[[routes]]` to Routes in matching order.

What one key alone can tell was checked by its kind; here is what keys say about each other:
sources and their tables, names of upstreams and translations, placeholders, ties."""

from __future__ import annotations

from typing import Any, Final

from relay.config.keys import quotas
from relay.config.keys.resume import parts_of, read_resume, shared_addresses
from relay.config.keys.route_keys import ROUTE
from relay.config.keys.route_reading import Known, RouteReading
from relay.config.keys.source_table import SOURCES
from relay.config.reading.mistakes import KeyPath, shown
from relay.config.reading.schema import INVALID, Parts, Reader
from relay.config.values import Auth, Route, Source
from relay.config.values.filled import value_of
from relay.routing.pattern import Pattern
from relay.routing.table import find_ties
from relay.sse.dialects import WITH_FAILURE

_OWNERS: Final = {key.name: name for name, each in SOURCES.items() for key in each.keys}
_STREAM_KEYS: Final = frozenset(
    ("heartbeat", "first_event", "event_idle", "complete_when", "capture")
)
# Keys that say what the events of a route are like: there the upstream is asked not to compress.
_EXPECT_EVENTS: Final = frozenset(("translate", "complete_when", "dialect", "resume", "capture"))


def read_routes(reader: Reader, raw: object, known: Known) -> tuple[Route, ...]:
    """The routes that are right, the most specific first."""
    if not isinstance(raw, list):
        reader.mistake(("routes",), f"found {shown(raw)}, expected tables [[routes]]")
        return ()
    if not raw:
        reader.mistake(
            ("routes",), "there is no route, so nothing would be answered: write a [[routes]]"
        )
    routes: list[Route] = []
    indexes: list[int] = []
    shapes: list[tuple[int, Pattern, frozenset[bytes] | None]] = []
    for index, each in enumerate(raw):
        path: KeyPath = ("routes", index)
        values = reader.read(ROUTE, each, path)
        if values is INVALID:
            continue
        if not values.broken & {"path", "methods"}:
            shapes.append((index, values["path"], values.get("methods")))
        route = _RouteBuilder(reader, known, path, values).route()
        if route is not None:
            routes.append(route)
            indexes.append(index)
    for first, second in find_ties([(pattern, methods) for _, pattern, methods in shapes]):
        (other, pattern, _), tied = shapes[first], shapes[second][0]
        reader.mistake(
            ("routes", tied, "path"),
            f"ties with routes[{other}] ({pattern}): both match the same paths, "
            "with a method in common",
        )
    for index, message in shared_addresses(zip(indexes, routes, strict=True)):
        reader.mistake(("routes", index, "resume", "at"), message)
    # Sorting is stable: what one shape shares by disjoint methods stays in the order of the file.
    return tuple(sorted(routes, key=lambda route: route.pattern.segments))


class _RouteBuilder:
    """Builds one route; every method notes mistakes and returns None after one.

    A key whose value had a mistake is in `broken`: what it says about others is not looked at.
    """

    def __init__(self, reader: Reader, known: Known, path: KeyPath, values: Parts) -> None:
        self._reading = RouteReading(reader, known, path, values)
        self._known = known
        self._values = values

    def route(self) -> Route | None:
        values = self._values
        if "source" in values.broken:
            return None
        kind = values.pop("source", "forward")
        given = values.keys() | values.broken
        for key in sorted(given & _OWNERS.keys()):
            if _OWNERS[key] != kind:
                owner = _OWNERS[key]
                self._reading.mistake(
                    (key,), f'is only read with source = "{owner}", here it is "{kind}"'
                )
        if values.get("stream") == "bytes":
            for key in sorted(given & _STREAM_KEYS):
                self._reading.mistake((key,), 'has no effect with stream = "bytes"')
        if "capture" in given and not SOURCES[value_of(kind)].brings_events:
            self._reading.mistake(
                ("capture",), f'has no effect with source = "{kind}": it brings no events'
            )
        source: Source | None = SOURCES[value_of(kind)].read(self._reading)
        right = self._quotas() and self._auth() and self._resume(kind)
        if source is None or not right or values.broken:
            return None
        return self._finished(source)

    def _quotas(self) -> bool:
        """Whether the route's limits by key are right, now with those of `[limits]`, or not there."""
        limits: dict[str, Any] | None = self._values.get("limits")
        if not limits or "by" not in limits:
            return True
        auth = "auth" in self._values or "auth" in self._values.broken
        wrong = list(quotas.unknown(limits["by"], self._values.get("path"), auth=auth))
        for name, message in wrong:
            self._reading.mistake(("limits", "by", name, "key"), message)
        limits["by"] = quotas.merged(self._known.limits.by, limits["by"])
        return not wrong

    def _auth(self) -> bool:
        """Whether `auth` is right, now as an Auth, or not there."""
        auth = parts_of(self._values, "auth")
        if auth is None:
            return True
        upstream = self._reading.upstream(auth, ("auth",))
        right = self._reading.check(auth.get("path"), ("auth", "path"), ("path", "query", "body"))
        if upstream is None or not right or auth.broken:
            return False
        auth.pop("upstream")
        self._values["auth"] = Auth(upstream, **auth)
        return True

    def _resume(self, source: str) -> bool:
        """Whether `resume` is right, now as a Resume, or not there."""
        resume = parts_of(self._values, "resume")
        if resume is None:
            return True
        self._values["resume"] = read_resume(
            self._values,
            resume,
            source,
            self._reading.mistake,
            streams=SOURCES[value_of(source)].brings_events,
        )
        return self._values["resume"] is not None

    def _finished(self, source: Source) -> Route:
        values = {
            key: value
            for key, value in self._values.items()
            if key not in _OWNERS or key in ("retries", "retry_on")
        }
        if "commit" in values:
            values["commit_after"] = values.pop("commit")
        if values.get("dialect") in WITH_FAILURE or source.tells_failure:
            # The error event is the protocol's own failure
            values.setdefault("after_error", "close")
        limits = self._known.limits._replace(**values.pop("limits", {}))
        timeouts = self._known.timeouts._replace(**values.pop("timeouts", {}))
        pattern = values.pop("path")
        name = values.pop("name", str(pattern))
        expects_events = not _EXPECT_EVENTS.isdisjoint(self._values)
        return Route(
            name, pattern, source, timeouts, limits, **values, expects_events=expects_events
        )
