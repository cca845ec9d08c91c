"""From the tables `[[routes]]` to Routes in matching order.

What one key alone can tell was checked by its kind; here is what keys say about each other:
sources and their tables, names of upstreams and translations, placeholders, ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from relay.config import quotas
from relay.config.answer_events import read_events
from relay.config.interpolation import made_of, value_of
from relay.config.mistakes import KeyPath, nearest, shown
from relay.config.resume_keys import parts_of, read_resume, shared_addresses
from relay.config.route_keys import ROUTE, SOURCE_KEYS
from relay.config.schema import INVALID, Parts, Reader
from relay.config.translations import find_translation
from relay.config.upstreams import Upstreams
from relay.config.values import (
    Answer,
    Auth,
    Enqueue,
    Forward,
    Limits,
    Local,
    Route,
    Source,
    Step,
    Timeouts,
    Translation,
    Upstream,
)
from relay.routing.pattern import Pattern
from relay.routing.table import find_ties
from relay.routing.template import Template
from relay.sse.dialects import WITH_FAILURE

_ALL_SOURCE_KEYS: Final = frozenset(key for keys in SOURCE_KEYS.values() for key in keys)
_STREAM_KEYS: Final = frozenset(
    ("heartbeat", "first_event", "event_idle", "complete_when", "capture")
)
# Keys that say what the events of a route are like: there the upstream is asked not to compress.
_EXPECT_EVENTS: Final = frozenset(("translate", "complete_when", "dialect", "resume", "capture"))
_ORDER_KEYS: Final = frozenset(("order_by", "order_wait", "max_body"))


@dataclass(frozen=True, slots=True)
class Known:
    """What routes refer to."""

    upstreams: Upstreams
    translations: Mapping[str, Translation | None]
    limits: Limits
    timeouts: Timeouts
    base: Path


def read_routes(reader: Reader, raw: object, known: Known) -> tuple[Route, ...]:
    """The routes that are right, the most specific first."""
    if not isinstance(raw, list):
        reader.mistake(("routes",), f"found {shown(raw)}, expected tables [[routes]]")
        return ()
    if not raw:
        reader.mistake(("routes",), "there is no route: nothing would be answered")
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
        self._reader = reader
        self._known = known
        self._path = path
        self._values = values

    def route(self) -> Route | None:
        values = self._values
        if "source" in values.broken:
            return None
        kind = values.pop("source", "forward")
        given = values.keys() | values.broken
        for key in sorted(given & (_ALL_SOURCE_KEYS - SOURCE_KEYS[kind])):
            owner = next(name for name, keys in SOURCE_KEYS.items() if key in keys)
            self._mistake((key,), f'is only read with source = "{owner}", here it is "{kind}"')
        if values.get("stream") == "bytes":
            for key in sorted(given & _STREAM_KEYS):
                self._mistake((key,), 'has no effect with stream = "bytes"')
        if kind in ("local", "files") and "capture" in given:
            self._mistake(
                ("capture",), f'has no effect with source = "{kind}": it brings no events'
            )
        source: Source | None = getattr(self, f"_{value_of(kind)}")()
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
            self._mistake(("limits", "by", name, "key"), message)
        limits["by"] = quotas.merged(self._known.limits.by, limits["by"])
        return not wrong

    def _auth(self) -> bool:
        """Whether `auth` is right, now as an Auth, or not there."""
        auth = parts_of(self._values, "auth")
        if auth is None:
            return True
        upstream = self._upstream(auth, ("auth",))
        right = self._check(auth.get("path"), ("auth", "path"), ("path", "query", "body"))
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
        self._values["resume"] = read_resume(self._values, resume, source, self._mistake)
        return self._values["resume"] is not None

    def _finished(self, source: Source) -> Route:
        values = {
            key: value
            for key, value in self._values.items()
            if key not in _ALL_SOURCE_KEYS or key in ("retries", "retry_on")
        }
        if "commit" in values:
            values["commit_after"] = values.pop("commit")
        if values.get("dialect") in WITH_FAILURE or isinstance(source, Answer):
            values.setdefault(
                "after_error", "close"
            )  # the error event is the protocol's own failure
        limits = replace(self._known.limits, **values.pop("limits", {}))
        timeouts = replace(self._known.timeouts, **values.pop("timeouts", {}))
        pattern = values.pop("path")
        name = values.pop("name", str(pattern))
        expects_events = not _EXPECT_EVENTS.isdisjoint(self._values)
        return Route(
            name, pattern, source, timeouts, limits, **values, expects_events=expects_events
        )

    def _forward(self) -> Source | None:
        values = self._values
        upstream = self._upstream(values, (), "the upstream that is asked")
        template: Template | None = values.get("upstream_path")
        right = self._check(template, ("upstream_path",), ("path", "query"))
        translate = self._translation(values, ())
        return Forward(upstream, template, translate) if upstream is not None and right else None

    def _enqueue(self) -> Source | None:
        first = self._table("enqueue")
        follow = self._table("follow")
        cancel: Parts | None = self._values.get("cancel")
        if first is None or follow is None:
            return None
        order = {key: first.pop(key) for key in _ORDER_KEYS & first.keys()}
        broker = first.get("upstream")
        for step in (follow, cancel):
            if step is not None and step.get("upstream", broker) == broker:
                step.setdefault("client_headers", first.get("client_headers", ()))
        follow.setdefault("method", b"GET")
        translate = self._translation(follow, ("follow",))
        follow.pop("translate", None)
        sources = ("path", "query", "body")
        steps = [
            self._step("enqueue", first, sources, None),
            self._step("follow", follow, (*sources, "reply"), broker),
        ]
        if cancel is not None:
            steps.append(self._step("cancel", cancel, (*sources, "reply"), broker))
        right = [step for step in steps if step is not None]
        if len(right) < len(steps):
            return None
        last = right[2] if len(right) > 2 else None
        return Enqueue(right[0], right[1], last, translate, **order)

    def _step(
        self, name: str, values: Parts, sources: tuple[str, ...], default: str | None
    ) -> Step | None:
        if default is not None and "upstream" not in values.broken:
            values.setdefault("upstream", default)
        upstream = self._upstream(values, (name,))
        right = self._check(values.get("path"), (name, "path"), sources)
        if upstream is None or not right or values.broken:
            return None
        values.pop("upstream")
        return Step(upstream, **values)

    def _answer(self) -> Source | None:
        values = self._table("answer")
        if values is None:
            return None
        upstream = self._upstream(values, ("answer",))
        right = self._check(values.get("path"), ("answer", "path"), ("path", "query", "body"))
        if "fallback" in values:
            at = (*self._path, "answer", "fallback")
            found = self._known.upstreams.find(values["fallback"], at, optional=True)
            values["fallback"] = found
        pattern: Pattern | None = self._values.get("path")
        events = read_events(
            self._reader,
            parts_of(values, "events") or Parts(),
            (*self._path, "answer", "events"),
            sorted(pattern.parameters) if pattern is not None else (),
            metadata=bool(values.get("metadata")),
        )
        if upstream is None or events is None or not right or values.broken:
            return None
        values.pop("upstream")
        values["events"] = events
        return Answer(upstream, **values)

    def _local(self) -> Source | None:
        return Local(**self._values.get("local", {}))

    def _files(self) -> Source | None:
        values = self._table("files")
        if values is None:
            return None
        given = values["directory"]
        directory = self._known.base / value_of(given)
        if not directory.is_dir():
            self._mistake(("files", "directory"), "is not a folder")
            return None
        return Local(directory=made_of(given, str(directory)))

    def _table(self, name: str) -> Any:
        """The table of a source, None after a mistake."""
        if name not in self._values and name not in self._values.broken:
            source = "enqueue" if name == "follow" else name
            self._mistake((name,), f'is missing: source = "{source}" needs [routes.{name}]')
        return self._values.get(name)

    def _upstream(self, values: Parts, at: KeyPath, meaning: str = "") -> Upstream | None:
        if "upstream" not in values:
            if meaning and "upstream" not in values.broken:
                self._mistake((*at, "upstream"), f"is missing: {meaning}")
            return None
        return self._known.upstreams.find(values["upstream"], (*self._path, *at, "upstream"))

    def _translation(self, values: Parts, at: KeyPath) -> Translation | None:
        if "translate" not in values:
            return None
        path = (*self._path, *at, "translate")
        if self._values.get("stream") == "bytes":
            self._reader.mistake(path, 'needs events: it excludes stream = "bytes"')
        known, base = self._known.translations, self._known.base
        return find_translation(self._reader, values["translate"], path, known, base)

    def _check(self, template: Template | None, at: KeyPath, sources: tuple[str, ...]) -> bool:
        """Whether every placeholder can have a value at this place."""
        pattern: Pattern | None = self._values.get("path")
        if template is None or pattern is None:
            return True
        right = True
        parameters = sorted(pattern.parameters)
        for name in sorted(template.names):
            source, _, member = name.partition(".")
            if source not in sources:
                shown = template.shown(name)
                self._mistake(at, f"{{{shown}}} is not known here, only {', '.join(sources)}")
                right = False
            elif source == "path" and member not in parameters:
                known = [each for each in parameters if pattern.shows(each)]
                hint = nearest(member, known) or ": the path has none"
                shown = template.shown(name).removeprefix("path.")
                self._mistake(at, f'no route parameter "{shown}"{hint}')
                right = False
        return right

    def _mistake(self, at: KeyPath, message: str) -> None:
        self._reader.mistake((*self._path, *at), message)
