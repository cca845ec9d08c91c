"""From the tables `[[routes]]` to Routes in matching order.

What one key alone can tell was checked by its kind; here is what keys say about each other:
sources and their tables, names of upstreams and translations, placeholders, ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from relay.config.mistakes import KeyPath, nearest, shown
from relay.config.route_keys import ROUTE, SOURCE_KEYS
from relay.config.schema import INVALID, Reader
from relay.config.translations import find_translation
from relay.config.upstreams import Upstreams
from relay.config.values import (
    Answer,
    Enqueue,
    Forward,
    Limits,
    Local,
    Route,
    Source,
    Step,
    Timeouts,
    Translation,
)
from relay.routing.pattern import Pattern
from relay.routing.table import find_ties
from relay.routing.template import Template

_ALL_SOURCE_KEYS: Final = frozenset().union(*SOURCE_KEYS.values())
_STREAM_KEYS: Final = ("heartbeat", "first_event", "event_idle", "complete_when")


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
    routes: list[tuple[int, Route]] = []
    for index, each in enumerate(raw):
        path: KeyPath = ("routes", index)
        values = reader.read(ROUTE, each, path)
        if values is INVALID:
            continue
        route = _RouteBuilder(reader, known, path, values).route()
        if route is not None:
            routes.append((index, route))
    for first, second in find_ties([(route.pattern, route.methods) for _, route in routes]):
        other, tied = routes[first][0], routes[second][0]
        reader.mistake(
            ("routes", tied, "path"),
            f"ties with routes[{other}] ({routes[first][1].pattern}): "
            "both match the same paths, with a method in common",
        )
    # Sorting is stable: what one shape shares by disjoint methods stays in the order of the file.
    return tuple(sorted((route for _, route in routes), key=lambda route: route.pattern.segments))


class _RouteBuilder:
    """Builds one route; every method notes mistakes and returns None after one."""

    def __init__(self, reader: Reader, known: Known, path: KeyPath, values: dict[str, Any]) -> None:
        self._reader = reader
        self._known = known
        self._path = path
        self._values = values
        self._pattern: Pattern = values["path"]

    def route(self) -> Route | None:
        values = self._values
        kind = values.pop("source", "forward")
        wrong = [key for key in values if key in _ALL_SOURCE_KEYS - SOURCE_KEYS[kind]]
        for key in wrong:
            owner = next(name for name, keys in SOURCE_KEYS.items() if key in keys)
            self._mistake((key,), f'is only read with source = "{owner}", here it is "{kind}"')
        source: Source | None = getattr(self, f"_{kind}")()
        if source is None or wrong:
            return None
        for key in _ALL_SOURCE_KEYS - {"retries", "retry_on"}:
            values.pop(key, None)
        if "commit" in values:
            values["commit_after"] = values.pop("commit")
        limits = replace(self._known.limits, **values.pop("limits", {}))
        timeouts = replace(self._known.timeouts, **values.pop("timeouts", {}))
        pattern = values.pop("path")
        name = values.pop("name", pattern.text)
        if values.get("stream") == "bytes":
            without = [key for key in _STREAM_KEYS if key in values]
            for key in without:
                self._mistake((key,), 'has no effect with stream = "bytes"')
        return Route(name, pattern, source, timeouts, limits, **values)

    def _forward(self) -> Source | None:
        values = self._values
        if "upstream" not in values:
            self._mistake(("upstream",), "is missing: the upstream that is asked")
            return None
        upstream = self._known.upstreams.find(values["upstream"], (*self._path, "upstream"))
        template: Template | None = values.get("upstream_path")
        right = template is None or self._check(template, ("upstream_path",), ("path", "query"))
        translate = self._translation(values, ())
        if values.get("stream") == "bytes" and "translate" in values:
            self._mistake(("translate",), 'needs events: it excludes stream = "bytes"')
        if upstream is None or not right:
            return None
        return Forward(upstream, template, translate)

    def _enqueue(self) -> Source | None:
        values = self._values
        missing = [name for name in ("enqueue", "follow") if name not in values]
        for name in missing:
            self._mistake((name,), f'is missing: source = "enqueue" needs [routes.{name}]')
        if missing:
            return None
        first, follow, cancel = values["enqueue"], values["follow"], values.get("cancel")
        order = {
            key: first.pop(key) for key in ("order_by", "order_wait", "max_body") if key in first
        }
        broker = first["upstream"]
        follow.setdefault("method", b"GET")
        translate = self._translation(follow, ("follow",))
        follow.pop("translate", None)
        sources = ("path", "query", "body")
        steps = [
            self._step("enqueue", first, sources),
            self._step("follow", follow, (*sources, "reply"), broker),
        ]
        if cancel is not None:
            steps.append(self._step("cancel", cancel, (*sources, "reply"), broker))
        right = [step for step in steps if step is not None]
        if len(right) < len(steps):
            return None
        return Enqueue(right[0], right[1], right[2] if cancel else None, translate, **order)

    def _answer(self) -> Source | None:
        values = self._values.get("answer")
        if values is None:
            self._mistake(("answer",), 'is missing: source = "answer" needs [routes.answer]')
            return None
        at = (*self._path, "answer")
        upstream = self._known.upstreams.find(values.pop("upstream"), (*at, "upstream"))
        right = self._check(values["path"], ("answer", "path"), ("path", "query", "body"))
        if "fallback" in values:
            name = values["fallback"]
            values["fallback"] = self._known.upstreams.find(name, (*at, "fallback"), optional=True)
        return Answer(upstream, **values) if upstream is not None and right else None

    def _local(self) -> Source | None:
        return Local(**self._values.get("local", {}))

    def _files(self) -> Source | None:
        values = self._values.get("files")
        if values is None:
            self._mistake(("files",), 'is missing: source = "files" needs [routes.files]')
            return None
        directory = self._known.base / values["directory"]
        if not directory.is_dir():
            self._mistake(("files", "directory"), "is not a folder")
            return None
        return Local(directory=str(directory))

    def _step(
        self, name: str, values: dict[str, Any], sources: tuple[str, ...], default: str = ""
    ) -> Step | None:
        key = "upstream" if "upstream" in values else "path"
        wanted = values.pop("upstream", default)
        upstream = self._known.upstreams.find(wanted, (*self._path, name, key))
        right = self._check(values["path"], (name, "path"), sources)
        return Step(upstream, **values) if upstream is not None and right else None

    def _translation(self, values: dict[str, Any], at: KeyPath) -> Translation | None:
        if "translate" not in values:
            return None
        path = (*self._path, *at, "translate")
        known, base = self._known.translations, self._known.base
        return find_translation(self._reader, values["translate"], path, known, base)

    def _check(self, template: Template, at: KeyPath, sources: tuple[str, ...]) -> bool:
        """Whether every placeholder can have a value at this place."""
        right = True
        parameters = sorted(self._pattern.parameters)
        for name in sorted(template.names):
            source, _, member = name.partition(".")
            if source not in sources:
                self._mistake(at, f"{{{name}}} is not there yet: it knows {', '.join(sources)}")
                right = False
            elif source == "path" and member not in parameters:
                hint = nearest(member, parameters) or ": the path has no parameters"
                self._mistake(at, f'no route parameter "{member}"{hint}')
                right = False
        return right

    def _mistake(self, at: KeyPath, message: str) -> None:
        self._reader.mistake((*self._path, *at), message)
