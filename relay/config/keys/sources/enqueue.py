"""source = "enqueue": a job is posted, and its stream is fetched (`enqueue`, `follow`, `cancel`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from relay.config.keys.route_reading import RouteReading, SourceKind
from relay.config.keys.sources.steps import METHOD_WITH_BODY, Step, client_headers, read_step
from relay.config.keys.translations import TRANSLATE
from relay.config.reading import kinds
from relay.config.reading.expressions import EXPRESSION
from relay.config.reading.schema import REQUIRED, Key, ListOf, Parts, Table
from relay.config.values import Expression, Source, Translation, Upstream

_ORDER_KEYS: Final = frozenset(("order_by", "order_wait", "max_body"))


@dataclass(frozen=True, slots=True)
class Enqueue(Source):
    """source = "enqueue": POST a job, then GET its stream (docs/how-to/two-step-broker.md)."""

    name: ClassVar = "enqueue"
    streams: ClassVar = True
    reads_body: ClassVar = True
    says_when: ClassVar = True

    enqueue: Step
    follow: Step
    cancel: Step | None = None
    translate: Translation | None = None
    # On {"body": …}: messages with equal values keep their order
    order_by: Expression | None = None
    order_wait: float = 30.0  # how long a message waits for the one before it
    max_body: int = 1024 * 1024

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        steps = (self.enqueue, self.follow, self.cancel)
        return tuple(step.upstream for step in steps if step is not None)

    @property
    def ordered(self) -> bool:
        return self.order_by is not None

    def lines(self) -> list[str]:
        lines = [f"enqueue {self.enqueue.line()}", f"then {self.follow.line()}"]
        if self.translate is not None:
            lines.append(f"translated by {self.translate.name}")
        return lines if self.cancel is None else [*lines, f"cancel {self.cancel.line()}"]


def _read(route: RouteReading) -> Enqueue | None:
    first = route.table("enqueue", "enqueue")
    follow = route.table("follow", "enqueue")
    cancel: Parts | None = route.values.get("cancel")
    if first is None or follow is None:
        return None
    order = {key: first.pop(key) for key in _ORDER_KEYS & first.keys()}
    broker = first.get("upstream")
    for step in (follow, cancel):
        if step is not None and step.get("upstream", broker) == broker:
            step.setdefault("client_headers", first.get("client_headers", ()))
    follow.setdefault("method", b"GET")
    translate = route.translation(follow, ("follow",))
    follow.pop("translate", None)
    sources = ("path", "query", "body")
    steps = [
        read_step(route, "enqueue", first, sources, None),
        read_step(route, "follow", follow, (*sources, "reply"), broker),
    ]
    if cancel is not None:
        steps.append(read_step(route, "cancel", cancel, (*sources, "reply"), broker))
    right = [step for step in steps if step is not None]
    if len(right) < len(steps):
        return None
    last = right[2] if len(right) > 2 else None
    return Enqueue(right[0], right[1], last, translate, **order)


def _not_ready(values: list[int]) -> tuple[int, ...]:
    if 200 in values:
        raise ValueError("200 is the stream itself")
    return tuple(values)


ENQUEUE: Final = Table(
    (
        Key("upstream", kinds.NAME, REQUIRED, "The upstream that takes the job."),
        Key(
            "path",
            kinds.TEMPLATE,
            REQUIRED,
            "Where the client's body is sent; `{x}`, `{query.x}`, `{body.x}`.",
        ),
        Key("method", METHOD_WITH_BODY, '"POST"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and whole answer together."),
        client_headers("[]"),
        Key(
            "order_by",
            EXPRESSION,
            "",
            'JMESPath on `{"body": …}`: messages with equal values are enqueued one after the '
            "other, in the order they came (`body.user_id`).",
            "Orders within one worker: with several workers keep a user on one connection.",
        ),
        Key("order_wait", kinds.DURATION, '"30s"', "How long a message waits for its turn."),
        Key(
            "max_body",
            kinds.HELD_SIZE,
            '"1MiB"',
            "Largest JSON body of the client. The upstream's reply may have 64 KiB.",
        ),
    ),
    parts=True,
)
FOLLOW: Final = Table(
    (
        Key("upstream", kinds.NAME, "enqueue.upstream", "The upstream that streams the answer."),
        Key(
            "path",
            kinds.TEMPLATE,
            REQUIRED,
            "The stream's target; as above, and `{reply.x}` from the answer to the first request.",
        ),
        Key("method", METHOD_WITH_BODY, '"GET"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and head of each try."),
        Key(
            "not_ready",
            ListOf(kinds.STATUS, _not_ready),
            "[404, 425]",
            "Statuses that mean that the stream does not exist yet.",
        ),
        Key("not_ready_for", kinds.TIME, '"5s"', "How long they are tried again."),
        client_headers("", " Not set: those of `enqueue`, where the upstream is the same."),
        TRANSLATE,
    ),
    parts=True,
)
CANCEL: Final = Table(
    (
        Key("upstream", kinds.NAME, "enqueue.upstream", "The upstream that is told."),
        Key("path", kinds.TEMPLATE, REQUIRED, "Asked when the client left; placeholders as above."),
        Key("method", kinds.METHOD, '"POST"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and head together."),
        client_headers("", " Not set: those of `enqueue`, where the upstream is the same."),
    ),
    parts=True,
)
SOURCE: Final = SourceKind(
    Enqueue,
    (
        Key("enqueue", ENQUEUE, "", "For `enqueue`: the first request."),
        Key("follow", FOLLOW, "", "For `enqueue`: the stream."),
        Key("cancel", CANCEL, "", "For `enqueue`: a request when the client left."),
    ),
    _read,
    sections=(
        ("[routes.enqueue]", ENQUEUE, 'For `source = "enqueue"`: a job is posted …'),
        ("[routes.follow]", FOLLOW, "… and its stream is fetched …"),
        ("[routes.cancel]", CANCEL, "… and it is cancelled when the client leaves."),
    ),
)
