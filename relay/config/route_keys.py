"""The keys of `[[routes]]` and of the tables of its sources."""

from __future__ import annotations

from typing import Any, Final, get_args

from relay.config import kinds, units
from relay.config.expressions import EXPRESSION
from relay.config.interpolation import joined
from relay.config.keys import ROUTE_LIMITS, ROUTE_TIMEOUTS
from relay.config.resume_keys import AUTH, RESUME
from relay.config.schema import REQUIRED, Key, Kind, ListOf, Table
from relay.config.translations import EXPRESSIONS
from relay.config.values import Cors, Dialect

RETRY_CAUSES: Final = ("refused", "timeout", "502", "503", "504", "429")


def _read_commit(value: object) -> float:
    if value == "on-head":
        return float("inf")
    if not isinstance(value, str) or not value.startswith("after ") or value == "after off":
        raise ValueError("")
    return units.parse_duration(value.removeprefix("after "))


def _read_complete(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("")
    return b"|".join(_read_marker(marker.strip()) for marker in value.split("|"))


def _read_marker(value: str) -> bytes:
    name = value.removeprefix("event:").strip()
    if value not in ("eof", "[DONE]") and (
        not value.startswith("event:") or not name or not name.isprintable()
    ):
        raise ValueError("")
    return value.encode()


def _markers(values: list[bytes]) -> bytes:
    markers = b"|".join(values).split(b"|")
    if b"eof" in markers and len(markers) > 1:
        raise ValueError('`complete_when` has "eof" and others: "eof" asks for no marker at all')
    return joined(values, b"|")


def _cors(values: dict[str, Any]) -> Cors:
    if b"*" in values["origins"] and len(values["origins"]) > 1:
        raise ValueError('`origins` has "*" and others: "*" is every origin')
    if b"*" in values["origins"] and values.get("credentials"):
        raise ValueError('with `credentials` every origin must be named, "*" is refused')
    return Cors(**values)


def _local(values: dict[str, Any]) -> dict[str, Any]:
    status = values.get("status")
    if status in (204, 205, 304) and values.get("body"):
        raise ValueError(f"a {status} has no body")
    return values


def _not_ready(values: list[int]) -> tuple[int, ...]:
    if 200 in values:
        raise ValueError("200 is the stream itself")
    return tuple(values)


def _with_body(method: str) -> bytes:
    if method == "HEAD":
        raise ValueError("the answer to HEAD has no body")
    read: bytes = kinds.METHOD.read(method)
    return read


_METHOD: Final = kinds.text('a method such as "GET"', _with_body, "method")
_RETRIES: Final = kinds.choice(*RETRY_CAUSES)
_COMMIT: Final = Kind("`on-head` \\| `after 5s`", '"on-head" or "after 5s"', _read_commit)
_COMPLETE: Final = Kind(
    "`eof` \\| `[DONE]` \\| `event:NAME`", '"eof", "[DONE]" or "event:NAME"', _read_complete
)
_COMPLETES: Final = ListOf(_COMPLETE, _markers, single=True, least=1)
_TRANSLATE: Final = Key(
    "translate",
    kinds.STRING,
    "",
    "A table of `[translations]`, or `package.module:function`, from `(Event)` to the client's "
    "events; it is imported from beside the file too.",
)

CORS: Final = Table(
    (
        Key(
            "origins",
            ListOf(kinds.ORIGIN, single=True, least=1),
            REQUIRED,
            'Origins whose pages may read the answer: exact ones, or `"*"`.',
        ),
        Key(
            "credentials",
            kinds.FLAG,
            "false",
            "Cookies and HTTP authentication may come along.",
            'Refused with `"*"`.',
        ),
        Key("methods", ListOf(kinds.METHOD, single=True), "[]", "Allowed; empty: the route's."),
        Key(
            "headers",
            ListOf(kinds.FIELD_NAME, single=True),
            "[]",
            "Fields a page may send; empty: those that the preflight asks for.",
        ),
        Key(
            "expose",
            ListOf(kinds.FIELD_NAME, single=True),
            "[]",
            "Fields of the answer that a page may read.",
        ),
        Key("max_age", kinds.TIME, '"10m"', "How long a browser may keep the preflight's answer."),
    ),
    make=_cors,
)

ENQUEUE: Final = Table(
    (
        Key("upstream", kinds.NAME, REQUIRED, "The upstream that takes the job."),
        Key(
            "path",
            kinds.TEMPLATE,
            REQUIRED,
            "Where the client's body is sent; `{x}`, `{query.x}`, `{body.x}`.",
        ),
        Key("method", _METHOD, '"POST"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and whole answer together."),
        Key(
            "order_by",
            EXPRESSION,
            "",
            'JMESPath on `{"body": …}`: messages with equal values are enqueued one after the '
            "other, in the order they came (`body.user_id`).",
            "Orders within one worker: with several workers keep a user on one connection.",
        ),
        Key("order_wait", kinds.DURATION, '"30s"', "How long a message waits for its turn."),
        Key("max_body", kinds.HELD_SIZE, '"1MiB"', "Largest JSON body, of client and upstream."),
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
        Key("method", _METHOD, '"GET"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and head of each try."),
        Key(
            "not_ready",
            ListOf(kinds.STATUS, _not_ready),
            "[404, 425]",
            "Statuses that mean that the stream does not exist yet.",
        ),
        Key("not_ready_for", kinds.TIME, '"5s"', "How long they are tried again."),
        _TRANSLATE,
    ),
    parts=True,
)
CANCEL: Final = Table(
    (
        Key("upstream", kinds.NAME, "enqueue.upstream", "The upstream that is told."),
        Key("path", kinds.TEMPLATE, REQUIRED, "Asked when the client left; placeholders as above."),
        Key("method", kinds.METHOD, '"POST"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and head together."),
    ),
    parts=True,
)
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
        Key("method", _METHOD, '"POST"', "With which method."),
        Key(
            "require",
            ListOf(kinds.STRING),
            "[]",
            "Members that the client's body must have; a missing one is `BAD_REQUEST`.",
        ),
        Key("metadata", EXPRESSIONS, "{}", "Members of the `metadata` event, by JMESPath."),
        Key("chunk_chars", kinds.whole(1, 1_000_000), "100", "Longest `chunk`, in characters."),
        Key("pace", kinds.TIME, '"50ms"', "Between two chunks; `0s`: all at once."),
        Key("timeout", kinds.DURATION, '"30s"', "For each try, to the end of the answer."),
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
LOCAL: Final = Table(
    (
        Key("status", kinds.STATUS, "200", "The status."),
        Key("body", kinds.BODY, '""', "The body."),
        Key("content_type", kinds.CONTENT_TYPE, '"text/plain; charset=utf-8"', "Its media type."),
    ),
    make=_local,
)
FILES: Final = Table(
    (
        Key(
            "directory",
            kinds.STRING,
            REQUIRED,
            "Folder that is served, from beside the file; `index.html` for a folder. The rest "
            "pattern of the route names the file; without one, `index.html` is served.",
            "For a page or two: a real site belongs on a file server.",
        ),
    )
)

_MATCH: Final = (
    Key("path", kinds.PATTERN, REQUIRED, "`{name}` is one segment, `{name...}` the rest."),
    Key("methods", kinds.METHODS, "", "Which methods; not set: all. `GET` brings `HEAD`."),
    Key("name", kinds.LABEL, "", "The label in logs and metrics; not set: the path as written."),
    Key(
        "source",
        kinds.choice("forward", "enqueue", "answer", "local", "files"),
        '"forward"',
        "Where the answer comes from; all but `forward` have a table of that name.",
    ),
)
_FORWARD: Final = (
    Key("upstream", kinds.NAME, "", "For `forward`: the upstream."),
    Key(
        "upstream_path",
        kinds.TEMPLATE,
        "",
        "For `forward`: the target, with `{x}` and `{query.x}`; not set: the path as it came. "
        "Without a `?` the client's query follows; with one it is replaced.",
    ),
    _TRANSLATE,
    Key(
        "retries",
        kinds.whole(0, 10),
        "0",
        "Tries on another url before the first byte (on event streams: before the first event).",
        "Only where asking twice does no harm.",
    ),
    Key(
        "retry_on",
        ListOf(_RETRIES, frozenset, single=True),
        '["refused", "timeout", "502", "503", "504"]',
        "What counts as a failure: these and `429`, whose Retry-After is honoured.",
    ),
)
_STREAM: Final = (
    Key(
        "stream",
        kinds.choice("auto", "bytes"),
        '"auto"',
        "`auto`: a `text/event-stream` is relayed event by event; `bytes`: as bytes.",
        "`bytes` gives up heartbeats, terminal events and event counts.",
    ),
    Key("heartbeat", kinds.DURATION, '"15s"', "A comment after this much silence."),
    Key(
        "first_event",
        kinds.DURATION,
        '"off"',
        "From the response's head to the first event; then the next url, or an error event.",
    ),
    Key(
        "event_idle",
        kinds.DURATION,
        '"off"',
        "Longest time without an event; comments do not count.",
        "Thinking gaps of 30–300 s are normal for models.",
    ),
    Key(
        "max_age",
        kinds.DURATION,
        '"off"',
        "Longest life of a stream, jittered to 80–100 %.",
        "Clients must be able to come back.",
    ),
    Key(
        "commit",
        _COMMIT,
        '"on-head"',
        "`after 5s`: 200 and heartbeats go out when the upstream has not answered by then.",
        "An error after that can only be an event, no longer a status.",
    ),
    Key(
        "complete_when",
        _COMPLETES,
        '"eof"',
        "What a whole stream ends with, of several any one; a clean end without it is reported "
        "as truncated.",
    ),
    Key(
        "dialect",
        kinds.choice(*get_args(Dialect)),
        '"plain"',
        "How a terminal error event is written.",
    ),
    Key(
        "after_error",
        kinds.choice("abort", "close"),
        '"abort"',
        "After the terminal event: `abort` without the last chunk, or a clean end. With a dialect "
        "whose protocol has this event for a failure (`openai`, `anthropic`, `ai-sdk`) the "
        "default is `close`.",
        "`close` only where clients know the event: it looks complete to the rest.",
    ),
    Key(
        "unavailable",
        kinds.choice("status", "retry-event"),
        '"status"',
        "`retry-event`: instead of 502, 503 or 504, a 200 with `retry:` and an error event.",
        "For EventSource, which an error status stops for good; not for fetch.",
    ),
    Key("retry_hint", kinds.TIME, '"3s"', "The `retry:` of the farewell, jittered to 50–150 %."),
    Key(
        "half_close",
        kinds.choice("abort", "keep"),
        '"abort"',
        "A client that closes its sending side has left (`abort`), or still reads (`keep`).",
    ),
)
_FIELDS: Final = (
    Key("request_headers", kinds.FIELD_EDITS, "{}", 'Set on the request; `""` removes.'),
    Key("response_headers", kinds.FIELD_EDITS, "{}", 'Set on the response; `""` removes.'),
    Key("cors", CORS, "", "Cross-origin access; not set: left to the upstream."),
    Key("auth", AUTH, "", "An upstream is asked first who may; not set: everybody may."),
    Key("resume", RESUME, "", "Event streams can be resumed, shared and stopped; not set: not."),
    Key("timeouts", ROUTE_TIMEOUTS, "{}", "Those of `[timeouts]` that differ here."),
    Key("limits", ROUTE_LIMITS, "{}", "Those of `[limits]` that differ here."),
)
_SOURCES: Final = (
    Key("enqueue", ENQUEUE, "", "For `enqueue`: the first request."),
    Key("follow", FOLLOW, "", "For `enqueue`: the stream."),
    Key("cancel", CANCEL, "", "For `enqueue`: a request when the client left."),
    Key("answer", ANSWER, "", "For `answer`."),
    Key("local", LOCAL, "", "For `local`."),
    Key("files", FILES, "", "For `files`."),
)
ROUTE: Final = Table((*_MATCH, *_FORWARD, *_STREAM, *_FIELDS, *_SOURCES), parts=True)

# Which keys a source reads; the others are mistakes, so that nothing is silently without effect.
SOURCE_KEYS: Final = {
    "forward": frozenset(key.name for key in _FORWARD),
    "enqueue": frozenset(("enqueue", "follow", "cancel")),
    "answer": frozenset(("answer",)),
    "local": frozenset(("local",)),
    "files": frozenset(("files",)),
}
