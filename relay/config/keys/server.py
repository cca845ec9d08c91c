"""The keys of `[server]`, `[limits]` and `[timeouts]`: type, default, meaning, and when not to use it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Final

from relay import INSTALL
from relay.config.keys import quotas
from relay.config.keys.log_fields import LOG_FIELDS
from relay.config.reading import kinds
from relay.config.reading.addresses import parse_address
from relay.config.reading.schema import Key, Kind, ListOf, Table
from relay.config.values import Limits, Server, Timeouts


def _read_workers(value: object) -> int:
    if value == "auto":
        return len(os.sched_getaffinity(0))
    return int(kinds.whole(1, 256).read(value))


def _server(values: dict[str, Any]) -> Server:
    values.setdefault("listen", (parse_address("127.0.0.1:8000"),))
    listen, admin = values["listen"], values.get("admin")
    fixed = [address.text for address in listen if address.kind != "tcp" or address.port]
    if len(set(fixed)) < len(fixed):
        raise ValueError("`listen` names an address twice")
    if admin is not None and admin.text in fixed:
        raise ValueError("`admin` must not be an address of `listen`: it would be public")
    outside = admin is not None and admin.kind == "tcp" and not _is_loopback(admin.host)
    if outside and "admin_token" not in values:
        raise ValueError("`admin` can be reached from outside: it needs an `admin_token`")
    if values.get("trace") == "otel" and not _has("opentelemetry.sdk"):
        raise ValueError(f"`trace` needs OpenTelemetry: {INSTALL.format(extra='otel')}")
    return Server(**values)


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


SERVER: Final = Table(
    (
        Key(
            "listen",
            ListOf(kinds.ADDRESS, single=True, least=1),
            '["127.0.0.1:8000"]',
            "Where clients connect: `host:port`, `[::1]:port`, `unix:/path?mode=660`, `fd:N` or "
            "`fd:NAME`.",
            "`fd:` is for systemd and other parents that open the socket.",
        ),
        Key(
            "admin",
            kinds.ADMIN,
            '"off"',
            "Where `/healthz`, `/readyz`, `/metrics`, `/streams` and the live page are.",
            "Keep it on loopback or a unix socket; elsewhere it needs `admin_token`.",
        ),
        Key(
            "admin_token",
            kinds.SECRET,
            "",
            "Bearer token that the admin listener asks for.",
            "Not needed on loopback when everybody on the machine may look.",
        ),
        Key(
            "workers",
            Kind(
                "integer 1–256 or `auto`", 'a whole number from 1 to 256, or "auto"', _read_workers
            ),
            "1",
            "Processes that share the listeners; `auto` is one per usable core.",
            "One worker carries thousands of streams: measure before you add more.",
        ),
        Key(
            "trusted_proxies",
            ListOf(kinds.NETWORK),
            "[]",
            "Peers whose forwarding fields and PROXY header are believed; `unix`: on unix sockets.",
            "Never the networks that clients come from.",
        ),
        Key(
            "proxy_protocol",
            kinds.SWITCH,
            '"off"',
            "Every connection of a trusted peer starts with a PROXY header, v1 or v2.",
            "Only behind a terminator that sends it.",
        ),
        Key(
            "access_log",
            kinds.STRING,
            '"stdout"',
            "Where the JSON lines go: `stdout`, `stderr`, `off`, or the path of a file or FIFO.",
        ),
        Key(
            "access_log_format",
            kinds.choice("json", "text"),
            '"json"',
            "`json`: for programs; `text`: a readable line, for development.",
            "`text` where a program reads the log: its form may change.",
        ),
        Key(
            "access_log_fields",
            LOG_FIELDS,
            "[]",
            'Fields of the request that stand in its lines, such as `"User-Agent"`, as the client sent them. Credentials '
            "are refused: by their name, and what this file sets or takes as one.",
            "What a client sends may be personal.",
        ),
        Key(
            "log_query",
            kinds.FLAG,
            "false",
            "Whether `path` in the access log has the query.",
            "Queries carry tokens and personal data.",
        ),
        Key(
            "via",
            kinds.TOKEN,
            '"relay"',
            "relay's name in the `Via` field; towards upstreams with a token behind it, by which a loop is seen.",
        ),
        Key(
            "request_id_header",
            kinds.OWN_FIELD,
            '"X-Request-Id"',
            "The field that carries the request id, both ways.",
        ),
        Key(
            "trace",
            kinds.choice("pass", "create", "otel"),
            '"pass"',
            "`traceparent`: passed on as it came; or one created where there is none; or a span "
            "of OpenTelemetry per exchange.",
            "`create` decides for every backend that it records; `otel` is an extra.",
        ),
        Key(
            "ambiguous_paths",
            kinds.choice("refuse", "pass"),
            '"refuse"',
            "A path that belongs to another route once it is decoded, its slashes are merged or its "
            "`;parameters` are dropped: a 400, or taken as its bytes stand.",
            "`pass` only where every backend reads paths as relay does.",
        ),
    ),
    make=_server,
)

# The keys that a route may set for itself are those that act on one exchange, not on a connection.
_ROUTE_LIMITS: Final = (
    Key(
        "request_body",
        kinds.SIZE,
        '"off"',
        "Largest request body; more is a 413.",
        "Bodies are streamed, so this is policy, not memory.",
    ),
    Key(
        "response_head",
        kinds.SIZE,
        '"64KiB"',
        "Largest head of an upstream's response; more is a 502.",
    ),
    Key(
        "max_event",
        kinds.HELD_SIZE,
        '"1MiB"',
        "Longest event that is held until it is whole; a longer one is passed on as it comes, or ends a "
        "translated stream.",
        "Every stream may hold this much: see the note on limits.",
    ),
    Key(
        "request_body_rate",
        kinds.BYTE_RATE,
        '"off"',
        "Least rate of an upload after a grace; a slower one is ended.",
        "Not where clients upload what a person types or says.",
    ),
)
_ROUTE_TIMEOUTS: Final = (
    Key(
        "request_body_idle",
        kinds.DURATION,
        '"30s"',
        "Longest pause of a client that is sending a body.",
    ),
    Key("connect", kinds.DURATION, '"5s"', "Name look-up, connection and TLS handshake, per url."),
    Key(
        "response_head",
        kinds.DURATION,
        '"60s"',
        "From the end of the request to the end of the response's head, absolute.",
        'Raise it where the upstream thinks before it answers, or use `commit = "after 5s"`.',
    ),
    Key(
        "idle",
        kinds.DURATION,
        '"5m"',
        "Longest time without a byte from the upstream; comments count.",
        "For streams that send comments `event_idle` is the one that sees a dead model.",
    ),
    Key(
        "write",
        kinds.DURATION,
        '"30s"',
        "Longest time without progress towards a client that stopped reading.",
    ),
)
ROUTE_LIMITS: Final = Table(
    (
        *_ROUTE_LIMITS,
        Key(
            "by",
            quotas.OWN_BY,
            "",
            "Limits by key, counted on this route; one of the same name in `[limits]` is replaced.",
        ),
    )
)
ROUTE_TIMEOUTS: Final = Table(_ROUTE_TIMEOUTS)

LIMITS: Final = Table(
    (
        Key("request_head", kinds.HELD_SIZE, '"16KiB"', "Largest request head; more is a 431."),
        *_ROUTE_LIMITS,
        Key(
            "connections",
            kinds.whole(1, 1_000_000),
            "10000",
            "Client connections at once, per worker; more wait in the listen queue.",
        ),
        Key("header_count", kinds.whole(1, 10_000), "100", "Most fields in a head; more is a 431."),
        Key(
            "connections_per_address",
            kinds.COUNT,
            '"off"',
            "Connections of one client address at once.",
            "Not where many people share an address, unless `trusted_proxies` tells them apart.",
        ),
        Key(
            "streams_per_address",
            kinds.COUNT,
            '"off"',
            "Event streams of one client address at once; more is a 429.",
            "As above.",
        ),
        Key(
            "request_rate",
            kinds.RATE,
            '"off"',
            "Requests of one client address, as a token bucket; more is a 429 with Retry-After.",
            "As above.",
        ),
        Key(
            "request_burst",
            kinds.whole(1, 1_000_000),
            "100",
            "Size of that bucket: requests that may come at once.",
        ),
        Key("by", quotas.SHARED_BY, "", "Limits by key, counted over all routes."),
    ),
    make=lambda values: Limits(**values),
)

TIMEOUTS: Final = Table(
    (
        Key(
            "request_head",
            kinds.DURATION,
            '"10s"',
            "To the end of the request's head, absolute: from the connection, and on a kept one from the first byte.",
        ),
        Key(
            "keep_alive",
            kinds.DURATION,
            '"60s"',
            "How long a client's connection is kept between two requests.",
            "Above the idle limit of a terminator in front, so that it never uses what relay just closes.",
        ),
        *_ROUTE_TIMEOUTS,
        Key(
            "drain",
            kinds.DURATION,
            '"30s"',
            "How long a shutdown lets exchanges go on.",
            "Below the time your supervisor waits before it kills.",
        ),
    ),
    make=lambda values: Timeouts(**values),
)
