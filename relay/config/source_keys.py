"""The keys of the tables of a route's source: `enqueue`, `follow`, `cancel`, `answer`, `local`, `files`."""

from __future__ import annotations

from typing import Any, Final

from relay.config import kinds
from relay.config.answer_events import EVENTS
from relay.config.expressions import EXPRESSION
from relay.config.schema import REQUIRED, Key, ListOf, Table
from relay.config.translations import EXPRESSIONS, TRANSLATE


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


def _client_headers(default: str, more: str = "") -> Key:
    return Key(
        "client_headers",
        ListOf(kinds.EDITED_FIELD, single=True),
        default,
        "Fields of the client's request that go along, such as `Authorization` and `Accept-Language`; "
        f"every other one stays here.{more}",
        "Not to an upstream that must not know the user's credentials.",
    )


_METHOD: Final = kinds.text('a method such as "GET"', _with_body, "method")

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
        _client_headers("[]"),
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
        Key("method", _METHOD, '"GET"', "With which method."),
        Key("timeout", kinds.DURATION, '"30s"', "For connection and head of each try."),
        Key(
            "not_ready",
            ListOf(kinds.STATUS, _not_ready),
            "[404, 425]",
            "Statuses that mean that the stream does not exist yet.",
        ),
        Key("not_ready_for", kinds.TIME, '"5s"', "How long they are tried again."),
        _client_headers("", " Not set: those of `enqueue`, where the upstream is the same."),
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
        _client_headers("", " Not set: those of `enqueue`, where the upstream is the same."),
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
        Key("events", EVENTS, "", "What each event holds."),
        Key("chunk_chars", kinds.whole(1, 1_000_000), "100", "Longest `chunk`, in characters."),
        Key("pace", kinds.TIME, '"50ms"', "Between two chunks; `0s`: all at once."),
        Key("timeout", kinds.DURATION, '"30s"', "For each try, to the end of the answer."),
        _client_headers("[]"),
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
