"""source = "answer": one JSON answer turned into events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from relay.config.keys.resume import parts_of
from relay.config.keys.route_reading import RouteReading, SourceKind
from relay.config.keys.sources.answer_events import EVENTS, Events, read_events
from relay.config.keys.sources.steps import METHOD_WITH_BODY, client_headers
from relay.config.keys.translations import EXPRESSIONS
from relay.config.reading import kinds
from relay.config.reading.expressions import EXPRESSION
from relay.config.reading.schema import REQUIRED, Key, ListOf, Parts, Table
from relay.config.values import Expression, Source, Upstream
from relay.config.values.filled import shown_as
from relay.routing.json_template import JsonTemplate
from relay.routing.pattern import Pattern
from relay.routing.template import Template


@dataclass(frozen=True, slots=True)
class Answer(Source):
    """source = "answer": one JSON answer turned into events (docs/how-to/json-answer-as-a-stream.md)."""

    name: ClassVar = "answer"
    streams: ClassVar = True
    reads_body: ClassVar = True
    tells_failure: ClassVar = True

    upstream: Upstream
    path: Template
    text: Expression
    events: Events
    method: bytes = b"POST"
    require: tuple[str, ...] = ()
    metadata: Mapping[str, Expression] = field(default_factory=dict)
    chunk_chars: int = 100
    pace: float = 0.05
    timeout: float = 30.0
    retries: int = 0
    fallback: Upstream | None = None
    max_body: int = 1024 * 1024
    max_answer: int = 16 * 1024 * 1024
    client_headers: tuple[bytes, ...] = ()  # the client's fields that go along

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        return (self.upstream,) if self.fallback is None else (self.upstream, self.fallback)

    @property
    def failure_event(self) -> JsonTemplate | None:
        return self.events.error

    def lines(self) -> list[str]:
        line = f"answer {shown_as(self.method)} {self.upstream.name} {self.path}"
        return [line] if self.fallback is None else [line, f"else {self.fallback.name}"]


def _read(route: RouteReading) -> Answer | None:
    values = route.table("answer", "answer")
    if values is None:
        return None
    upstream = route.upstream(values, ("answer",))
    right = route.check(values.get("path"), ("answer", "path"), ("path", "query", "body"))
    if "fallback" in values:
        at = (*route.path, "answer", "fallback")
        found = route.known.upstreams.find(values["fallback"], at, optional=True)
        values["fallback"] = found
    pattern: Pattern | None = route.values.get("path")
    events = read_events(
        route.reader,
        parts_of(values, "events") or Parts(),
        (*route.path, "answer", "events"),
        sorted(pattern.parameters) if pattern is not None else (),
        metadata=bool(values.get("metadata")),
    )
    if upstream is None or events is None or not right or values.broken:
        return None
    values.pop("upstream")
    values["events"] = events
    return Answer(upstream, **values)


ANSWER: Final = Table(
    (
        Key("upstream", kinds.NAME, REQUIRED, "The upstream that gives one JSON answer."),
        Key(
            "path",
            kinds.TEMPLATE,
            REQUIRED,
            "Where the client's body is sent; `{x}`, `{query.x}`, `{body.x}`.",
        ),
        Key("text", EXPRESSION, REQUIRED, "JMESPath of the text in the answer."),
        Key("method", METHOD_WITH_BODY, '"POST"', "With which method."),
        Key(
            "require",
            ListOf(kinds.STRING),
            "[]",
            "Members that the client's body must have; a missing one is `BAD_REQUEST`.",
        ),
        Key("metadata", EXPRESSIONS, "{}", "Members of the `metadata` event, by JMESPath."),
        Key("events", EVENTS, "", "What each event holds."),
        Key("chunk_chars", kinds.whole(1, 1_000_000), "100", "Longest `chunk`, in characters."),
        Key("pace", kinds.TIME, '"50ms"', "Between two chunks; `0s`: all at once."),
        Key("timeout", kinds.DURATION, '"30s"', "For each try, to the end of the answer."),
        client_headers("[]"),
        Key(
            "retries",
            kinds.whole(0, 10),
            "0",
            "Tries after the first that failed, with back-off.",
            "Not where asking twice costs twice.",
        ),
        Key("fallback", kinds.NAME, "", "Upstream that is asked when the tries are used up."),
        Key("max_body", kinds.HELD_SIZE, '"1MiB"', "Largest body of the client."),
        Key("max_answer", kinds.HELD_SIZE, '"16MiB"', "Largest answer of the upstream."),
    ),
    parts=True,
)
SOURCE: Final = SourceKind(
    Answer,
    (Key("answer", ANSWER, "", "For `answer`."),),
    _read,
    sections=(
        ("[routes.answer]", ANSWER, 'For `source = "answer"`: JSON turned into events.'),
        (
            "[routes.answer.events]",
            EVENTS,
            "Each is a table, as the client gets it; `{}` leaves it out. A text that is one placeholder becomes the value\n"
            "itself. `{body.x}` and `{answer.x}` are JMESPath on the request and the answer, `{query.x}`, `{path.x}`, and\n"
            "`{now}` is the time (ISO 8601); braces that are meant are doubled.",
        ),
    ),
)
