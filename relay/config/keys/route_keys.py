"""The keys of `[[routes]]`; those of a source stand with it, in config/keys/sources."""

from __future__ import annotations

from typing import Any, Final, get_args

from relay.config.keys.capture import CAPTURE
from relay.config.keys.resume import AUTH, RESUME
from relay.config.keys.server import ROUTE_LIMITS, ROUTE_TIMEOUTS
from relay.config.keys.source_table import SOURCES
from relay.config.reading import kinds, units
from relay.config.reading.schema import REQUIRED, Key, Kind, ListOf, Table
from relay.config.values import Cors, Dialect
from relay.config.values.filled import joined


def _read_commit(value: object) -> float:
    if value == "on-head":
        return float("inf")
    if not isinstance(value, str) or value in ("off", "after off"):
        raise ValueError("")
    if not value.startswith("after "):
        units.parse_duration(value)  # a duration alone is most likely meant so
        raise ValueError(f'did you mean "after {value}"?')
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
        meant = "[DONE]" if value.upper() == "[DONE]" else f"event:{value}"
        likely = value and ":" not in value and value.isprintable()
        raise ValueError(f'did you mean "{meant}"?' if likely else "")
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


_COMMIT: Final = Kind("`on-head` \\| `after 5s`", '"on-head" or "after 5s"', _read_commit)
_COMPLETE: Final = Kind(
    "`eof` \\| `[DONE]` \\| `event:NAME`", '"eof", "[DONE]" or "event:NAME"', _read_complete
)
_COMPLETES: Final = ListOf(_COMPLETE, _markers, single=True, least=1)
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

_MATCH: Final = (
    Key("path", kinds.PATTERN, REQUIRED, "`{name}` is one segment, `{name...}` the rest."),
    Key("methods", kinds.METHODS, "", "Which methods; not set: all. `GET` brings `HEAD`."),
    Key("name", kinds.LABEL, "", "The label in logs and metrics; not set: the path as written."),
    Key(
        "source",
        kinds.choice(*SOURCES),
        '"forward"',
        "Where the answer comes from; all but `forward` have a table of that name.",
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
        "From the response's head to the first event; then an error event, or (`retries`, nothing said yet) the next url.",
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
        "whose protocol has this event for a failure (`openai`, `anthropic`, `ai-sdk`), and for "
        "`answer`, the default is `close`.",
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
    Key(
        "capture",
        CAPTURE,
        "",
        'What its events say, for the access log, metrics and span: `input_tokens = "usage.prompt_tokens"`. JMESPath on the '
        "JSON of an event as the upstream sent it; of `answer` on the answer too. The last value counts.",
        "Not for what is personal: it stands in the log.",
    ),
    Key("timeouts", ROUTE_TIMEOUTS, "{}", "Those of `[timeouts]` that differ here."),
    Key("limits", ROUTE_LIMITS, "{}", "Those of `[limits]` that differ here."),
)
_DEFAULT, *_OTHERS = SOURCES.values()
ROUTE: Final = Table(
    (*_MATCH, *_DEFAULT.keys, *_STREAM, *_FIELDS, *(key for each in _OTHERS for key in each.keys)),
    parts=True,
)
