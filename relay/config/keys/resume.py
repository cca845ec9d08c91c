"""The keys of `[streams]`, `[routes.resume]` and `[routes.auth]`, and what they say about each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from relay.config.reading import kinds
from relay.config.reading.mistakes import KeyPath, nearest
from relay.config.reading.schema import REQUIRED, Key, ListOf, Parts, Table
from relay.config.values import Resume, Route, Server, Streams
from relay.config.values.redis_place import Place
from relay.routing.pattern import Pattern
from relay.routing.subject import Subject
from relay.routing.table import find_ties

# Of `{key...}` and `{key}`: the one parameter that the address of a stream has.
_KEY: Final = "key"
_AT_METHODS: Final = frozenset((b"GET", b"HEAD", b"DELETE"))
# These act at the stream's own address, or only there.
_NEEDS_AT: Final = ("live_only", "stop", "handle")

Mistake = Callable[[KeyPath, str], None]


def _principal(value: str) -> Subject | None:
    if value == "public":
        return None
    subject = Subject.parse(value)
    for name in sorted(subject.names):
        source = name.partition(".")[0]
        if source not in ("header", "cookie", "auth"):
            raise ValueError(
                f"{{{name}}} is chosen by the page, not by who sends it: header.NAME, cookie.NAME or auth.NAME"
            )
    return subject


def _at(value: str) -> Pattern:
    pattern = Pattern.parse(value)
    if pattern.parameters != {_KEY}:
        raise ValueError("its one parameter is {key}")
    return pattern


def _store(value: str) -> str:
    if value.startswith("redis"):
        Place.parse(value)
    elif value.startswith("dir:"):
        if not value.startswith("dir:/"):
            raise ValueError("a directory is named by its whole path: dir:/var/lib/relay/streams")
    elif value not in ("auto", "memory"):
        raise ValueError("")
    return value


PRINCIPAL: Final = kinds.text(
    'whose a stream is, such as "{auth.x-user-id}", "{cookie.session}" or "public"',
    _principal,
    "placeholders or `public`",
)
KEY: Final = kinds.text(
    'what tells streams apart, such as "{body.id}" or "{id}"', Subject.parse, "placeholders"
)
AT: Final = kinds.text('a path such as "/api/chat/{key}/stream"', _at, "path pattern")
STORE: Final = kinds.text(
    '"auto", "memory", "dir:/var/lib/relay/streams" or "redis://host:6379/0"',
    _store,
    "`auto` \\| `memory` \\| `dir:/PATH` \\| `redis://…`",
)

STREAMS: Final = Table(
    (
        Key(
            "store",
            STORE,
            '"auto"',
            "Where the streams of resumable routes are kept: in the `memory` of the process, or in a "
            "directory that workers, restarts and reloads of one machine share, or in Redis or Valkey "
            "(`redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://`, `redis+unix:/PATH`, "
            "`redis+sentinel://HOST:PORT,HOST:PORT/NAME`), which machines share. `auto`: memory with one "
            "worker; with more, a private directory that lives as long as they do.",
        ),
        Key(
            "required",
            kinds.FLAG,
            "true",
            "`false`: start also where the store cannot be used; streams are then kept in memory.",
        ),
        Key("prefix", kinds.STRING, '"relay:"', "Of every key in a store that others share."),
        Key(
            "space",
            kinds.HELD_SIZE,
            '"256MiB"',
            "Of all logs of a process, and of the directory; above it finished runs go first, those of "
            "the principal that has most.",
        ),
        Key(
            "unwatched",
            kinds.whole(0, 1_000_000),
            "1000",
            "Runs without a viewer at once in a process; above it the one unwatched longest stops.",
        ),
    ),
    make=lambda values: Streams(**values),
)

RESUME: Final = Table(
    (
        Key(
            "principal",
            PRINCIPAL,
            "",
            "Whose a stream is: `{auth.NAME}`, `{header.NAME}`, `{cookie.NAME}`, or `public`. A value "
            "that is missing is a 403 `no_principal`.",
            "Required with `key`. `{header.NAME}` only where something in front of relay sets it.",
        ),
        Key(
            "key",
            KEY,
            "",
            "What tells one stream from another: `{x}`, `{query.x}`, `{body.x}`, `{body}` (a hash of "
            "it), `{header.NAME}`. Not set: every run is its own stream, its id is its key.",
        ),
        Key(
            "at",
            AT,
            "",
            "Where a stream is joined and resumed (GET) and stopped (DELETE): `/api/chat/{key}/stream`.",
            "Not set: only by the route's path and `Last-Event-ID`.",
        ),
        Key(
            "unwatched",
            kinds.DURATION_OR_NONE,
            '"30s"',
            "How long the upstream goes on when nobody watches; `0s`: stops with its last viewer; "
            "`off`: to its own end.",
            "Each second of it may be paid for.",
        ),
        Key(
            "unwatched_runs",
            kinds.whole(0, 100_000),
            "16",
            "Such runs at once of one principal (public, unkeyed: of one client address); above it "
            "the oldest stops.",
        ),
        Key("log", kinds.HELD_SIZE, '"4MiB"', "Kept of a run; the oldest events go first, whole."),
        Key("keep", kinds.TIME, '"5m"', "How long a run can be read after its end."),
        Key(
            "viewers",
            kinds.whole(1, 1_000_000),
            "1000",
            "At once, of one run and in one process; more is a 429 with Retry-After.",
        ),
        Key(
            "repeats",
            kinds.choice("running", "kept"),
            '"running"',
            "A repeated request joins a run that is `running`, or also one that ended clean and is "
            "still `kept`.",
        ),
        Key(
            "live_only",
            kinds.FLAG,
            "false",
            "`true`: without a cursor `at` answers 204 whenever nothing is under way (AI SDK); "
            "`false`: what has ended is replayed, what is unknown is a 404.",
        ),
        Key(
            "stop",
            kinds.FLAG,
            "true",
            "DELETE on `at` stops the stream; the default is `false` where the principal is `public`.",
        ),
        Key(
            "handle",
            kinds.choice("content-location", "location"),
            '"content-location"',
            "The field that carries the concrete `at`. LangGraph's SDK wants `location`, and gets no 204.",
        ),
        Key(
            "reconnect",
            kinds.whole(0, 1000),
            "0",
            "GET runs only: how often relay itself asks a broken upstream again with the last id that "
            "the upstream gave.",
        ),
        Key(
            "max_body",
            kinds.HELD_SIZE,
            '"8MiB"',
            "Of a request whose body is looked at; above it: no key, streamed, its own stream.",
        ),
    ),
    parts=True,
)

AUTH: Final = Table(
    (
        Key("upstream", kinds.NAME, REQUIRED, "The upstream that is asked."),
        Key(
            "path",
            kinds.TEMPLATE,
            REQUIRED,
            "GET with the client's fields, `X-Forwarded-Method` and `X-Forwarded-Uri`; 2xx goes on, "
            "401, 403 and 3xx go to the client. `{x}`, `{query.x}`, `{body.x}`.",
        ),
        Key("timeout", kinds.DURATION, '"5s"', "For connection and head together."),
        Key(
            "copy",
            ListOf(kinds.EDITED_FIELD, single=True),
            "[]",
            "Fields of its answer that are set on the request to the upstream; the client's own are "
            "removed, also where the answer has none.",
        ),
        Key("max_body", kinds.HELD_SIZE, '"1MiB"', "Largest JSON body that `path` looks at."),
    ),
    parts=True,
)


def read_resume(
    values: Parts, resume: Parts, source: str, mistake: Mistake, *, streams: bool
) -> Resume | None:
    """The table with its defaults; None after a mistake. `values`: the route's own keys; paths start at the route."""
    before = resume.broken
    wrong: list[tuple[KeyPath, str]] = []
    given = resume.keys()
    if not streams:
        wrong.append(((), f'has no effect with source = "{source}": it brings no event stream'))
    if values.get("stream") == "bytes":
        wrong.append(((), 'needs events: it excludes stream = "bytes"'))
    methods = values.get("methods")
    if "methods" not in values.broken and (methods is None or len(methods - {b"HEAD"}) != 1):
        wrong.append(((), "exactly one method begins runs: name it in `methods` of the route"))
    if "key" in given and "principal" not in given and "principal" not in before:
        wrong.append((("principal",), 'is missing: with `key` say whose a stream is, or "public"'))
    for name in _NEEDS_AT:
        if name in given and "at" not in given and "at" not in before:
            wrong.append(((name,), "has no effect without `at`"))
    if resume.get("reconnect") and methods is not None and b"GET" not in methods:
        wrong.append((("reconnect",), "only a GET is asked again: it does nothing twice"))
    wrong += _unknown(values, resume, methods)
    for at, message in wrong:
        mistake(("resume", *at), message)
    if wrong or before:
        return None
    # Said to be everybody's. Where nothing is said a run has no key, and its id is the capability to stop it.
    public = "principal" in resume and resume["principal"] is None
    resume.setdefault("stop", not public)
    return Resume(**resume)


def _unknown(
    values: Parts, resume: Parts, methods: frozenset[bytes] | None
) -> Iterable[tuple[KeyPath, str]]:
    """Placeholders that can have no value here."""
    pattern: Pattern | None = values.get("path")
    bodiless = methods is not None and b"GET" in methods
    for key in ("principal", "key"):
        subject: Subject | None = resume.get(key)
        for name in sorted(subject.names) if subject is not None else ():
            source, _, member = name.partition(".")
            told = subject.shown(name) if subject is not None else name
            if source == "auth" and "auth" not in values and "auth" not in values.broken:
                yield (key,), f"{{{told}}} needs [routes.auth]"
            elif source == "body" and bodiless:
                yield (key,), f"{{{told}}} has no value: a GET has no body"
            elif source == "path" and pattern is not None and member not in pattern.parameters:
                parameters = sorted(filter(pattern.shows, pattern.parameters))
                hint = nearest(member, parameters) or ": the path has none"
                yield (key,), f'no route parameter "{told.removeprefix("path.")}"{hint}'


def shared_addresses(routes: Iterable[tuple[int, Route]]) -> Iterable[tuple[int, str]]:
    """Mistakes about `at` over all routes: (index of a route in the file, message)."""
    rows: list[tuple[Pattern, frozenset[bytes] | None]] = []
    owners: list[tuple[int, str]] = []
    for index, route in routes:
        rows.append((route.pattern, route.methods))
        owners.append((index, f"routes[{index}] ({route.pattern})"))
        if route.resume is not None and route.resume.at is not None:
            rows.append((route.resume.at, _AT_METHODS))
            owners.append((index, f"`at` of routes[{index}] ({route.resume.at})"))
    for first, second in find_ties(rows):
        if not (owners[first][1].startswith("routes") and owners[second][1].startswith("routes")):
            at = second if owners[second][1].startswith("`") else first
            other = first if at == second else second
            yield (
                owners[at][0],
                f"is shared with {owners[other][1]}, and both would answer there: choose another, or leave `at` out",
            )


def check_store(routes: Iterable[Route], server: Server, streams: Streams) -> str:
    """What is wrong with the store for these routes; "" if nothing is."""
    resumed = any(route.resume is not None for route in routes)
    if server.workers > 1 and streams.store == "memory" and resumed:
        return "streams in memory are one process's own: with `workers` above 1 let store be `auto` or a directory"
    return ""


def parts_of(values: dict[str, Any], name: str) -> Parts | None:
    """One of the tables above as it was read; None where it is not there or broken as a whole."""
    found = values.get(name)
    return found if isinstance(found, Parts) else None
