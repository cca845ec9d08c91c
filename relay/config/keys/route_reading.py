"""What those who read a part of a route need: its values, what it may refer to, and where mistakes are noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from relay.config.keys.translations import find_translation
from relay.config.keys.upstreams import Upstreams
from relay.config.reading.mistakes import KeyPath, nearest
from relay.config.reading.schema import Key, Parts, Reader, Table
from relay.config.values import Limits, Source, Timeouts, Translation, Upstream
from relay.routing.pattern import Pattern
from relay.routing.template import Template


class Known(NamedTuple):
    """What a route may refer to: upstreams, translations, and the limits and timeouts it inherits."""

    upstreams: Upstreams
    translations: Mapping[str, Translation | None]
    limits: Limits
    timeouts: Timeouts
    base: Path


class RouteReading(NamedTuple):
    """One table `[[routes]]`. Every method notes its mistake and then returns None, or False.

    Attributes:
        values: what was read. A key whose value had a mistake is in `broken`: what it says about others is not looked at.
    """

    reader: Reader
    known: Known
    path: KeyPath
    values: Parts

    def table(self, name: str, source: str) -> Any:
        """A table that `source` needs."""
        if name not in self.values and name not in self.values.broken:
            self.mistake((name,), f'is missing: source = "{source}" needs [routes.{name}]')
        return self.values.get(name)

    def upstream(self, values: Parts, at: KeyPath, meaning: str = "") -> Upstream | None:
        if "upstream" not in values:
            if meaning and "upstream" not in values.broken:
                self.mistake((*at, "upstream"), f"is missing: {meaning}")
            return None
        return self.known.upstreams.find(values["upstream"], (*self.path, *at, "upstream"))

    def translation(self, values: Parts, at: KeyPath) -> Translation | None:
        if "translate" not in values:
            return None
        path = (*self.path, *at, "translate")
        if self.values.get("stream") == "bytes":
            self.reader.mistake(path, 'needs events: it excludes stream = "bytes"')
        known, base = self.known.translations, self.known.base
        return find_translation(self.reader, values["translate"], path, known, base)

    def check(self, template: Template | None, at: KeyPath, sources: tuple[str, ...]) -> bool:
        """Whether every placeholder can have a value at this place."""
        pattern: Pattern | None = self.values.get("path")
        if template is None or pattern is None:
            return True
        right = True
        parameters = sorted(pattern.parameters)
        for name in sorted(template.names):
            source, _, member = name.partition(".")
            if source not in sources:
                shown = template.shown(name)
                self.mistake(at, f"{{{shown}}} is not known here, only {', '.join(sources)}")
                right = False
            elif source == "path" and member not in parameters:
                known = [each for each in parameters if pattern.shows(each)]
                hint = nearest(member, known) or ": the path has none"
                shown = template.shown(name).removeprefix("path.")
                self.mistake(at, f'no route parameter "{shown}"{hint}')
                right = False
        return right

    def mistake(self, at: KeyPath, message: str) -> None:
        self.reader.mistake((*self.path, *at), message)


class SourceKind(NamedTuple):
    """A source as the configuration knows it.

    Attributes:
        plan: what its keys become.
        keys: of `[[routes]]`, that it alone reads; there they are mistakes with another source, so that nothing is
            silently without effect.
        read: the plan of a route; None after a mistake.
        brings_events: it brings event streams, which can be kept.
        sections: its tables, for the reference: title, table, note.
    """

    plan: type[Source]
    keys: tuple[Key, ...]
    read: Callable[[RouteReading], Source | None]
    brings_events: bool = True
    sections: tuple[tuple[str, Table, str], ...] = ()
