"""What a configuration is once it has been read: frozen values that the rest of relay trusts.

Units: times are seconds (`inf` means off), sizes are bytes (`UNLIMITED` means off). Field names
are the keys of the file (docs/reference/configuration.md). Nothing here reads, checks or resolves anything:
`relay.config.load` does that once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from math import inf
from typing import ClassVar, Literal, NamedTuple

from relay.routing.json_template import JsonTemplate
from relay.routing.pattern import Pattern
from relay.routing.subject import Subject
from relay.routing.template import Template
from relay.sse.capture import Plan

# `as`: these are the file's vocabulary too, so they may be imported from here.
from relay.sse.dialects import Dialect as Dialect
from relay.sse.translate import Expression as Expression
from relay.sse.translate import Rule as Rule
from relay.sse.translate import Translation as Translation

UNLIMITED = 2**63 - 1  # a size that is "off": larger than any Content-Length we accept
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a listener is bound. `text` is its form on the command line; printed it is as it was
    written.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""  # tcp; without brackets
    port: int = 0  # tcp
    path: str = ""  # unix
    fd: int = -1  # fd: its number, or
    name: str = ""  # fd: its name in LISTEN_FDNAMES
    mode: int | None = None  # unix: permission bits, `unix:/path?mode=660`
    written: str | None = field(default=None, compare=False)  # where something was put in

    @property
    def text(self) -> str:
        """For use: what tells one from another."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.name or self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.written or self.text

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


@dataclass(frozen=True, slots=True)
class Server:
    listen: tuple[Address, ...]
    admin: Address | None = None
    admin_token: str | None = field(default=None, repr=False)
    workers: int = 1  # "auto" has become the number of usable cores
    trusted_proxies: tuple[Network | None, ...] = ()  # None: peers on unix sockets
    proxy_protocol: bool = False
    access_log: str = "stdout"  # "stdout" | "stderr" | "off" | a path
    access_log_format: Literal["json", "text"] = "json"
    access_log_fields: tuple[bytes, ...] = ()  # of the request, lower case
    log_query: bool = False  # whether `path` in the access log has the query
    via: str = field(default="relay", repr=False)  # the pseudonym in Via
    request_id_header: bytes = b"x-request-id"
    trace: Literal["pass", "create", "otel"] = "pass"  # relay's part in traces (traceparent)
    ambiguous_paths: Literal["refuse", "pass"] = "refuse"  # see routing.ambiguity


class Quota(NamedTuple):
    """`[limits.by.NAME]`, `[routes.limits.by.NAME]`: a limit for each value of a key."""

    name: str
    key: Subject
    everywhere: bool  # counted over all routes, not on one alone
    request_rate: float = inf  # requests per second and value
    request_burst: int = 100
    streams: int = UNLIMITED  # event streams at once and value

    @property
    def limits(self) -> bool:
        """Whether it limits anything: a route may switch one off."""
        return self.request_rate != inf or self.streams != UNLIMITED


class Limits(NamedTuple):
    request_head: int = 16 * 1024
    response_head: int = 64 * 1024
    request_body: int = UNLIMITED
    connections: int = 10_000
    max_event: int = 1024 * 1024
    header_count: int = 100
    connections_per_address: int = UNLIMITED
    streams_per_address: int = UNLIMITED
    request_rate: float = inf  # requests per second and address, "20/s"
    request_burst: int = 100  # bucket size for request_rate
    request_body_rate: int = 0  # least bytes per second of an upload after the grace; 0 is off
    by: tuple[Quota, ...] = ()  # of a route: its own and those of `[limits]`


class Timeouts(NamedTuple):
    request_head: float = 10.0
    keep_alive: float = 60.0
    request_body_idle: float = 30.0
    connect: float = 5.0
    response_head: float = 60.0
    idle: float = 300.0
    write: float = 30.0
    drain: float = 30.0


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """One origin of an upstream: `http://host:port/base`, `https://…`, `unix:/path` (no TLS)."""

    scheme: Literal["http", "https"]
    host: str  # without brackets; "localhost" for unix
    port: int
    base_path: str = ""  # "" or "/base": put before every upstream path; no trailing slash
    unix: str | None = None  # socket path
    written: str | None = field(default=None, compare=False)  # where something was put in

    @property
    def authority(self) -> bytes:
        """The Host field value for this origin: no port where it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return (host if self.port == default else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        """For logs and errors: as it was written, where something was put in; never user info, never
        a query.
        """
        if self.written is not None:
            return self.written
        if self.unix is not None:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base_path}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


class HealthCheck(NamedTuple):
    """`[upstreams.NAME.health]`: an active check of every url."""

    path: str = "/"
    interval: float = 5.0
    timeout: float = 2.0
    status: tuple[int, ...] = (200,)
    rise: int = 2  # successes until a url counts as up again
    fall: int = 3  # failures until a url counts as down


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """What is done to a head's fields: `set` replaces (lower-case name, value), `remove` drops."""

    set: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)  # values may be secrets
    remove: frozenset[bytes] = frozenset()

    def sets(self, name: bytes) -> bool:
        """Whether they give this field a value."""
        return any(field[0] == name for field in self.set)

    def touch(self, name: bytes) -> bool:
        """Whether they decide what becomes of this field."""
        return name in self.remove or self.sets(name)


class Upstream(NamedTuple):
    name: str
    urls: tuple[Url, ...]
    balance: Literal["least-streams", "round-robin"] = "least-streams"
    tls_ca: str | None = None  # PEM file; None: the system's
    tls_server_name: str | None = None  # default: the url's host
    request_headers: FieldEdits = FieldEdits()
    host_header: Literal["upstream", "client"] = "upstream"  # which Host the upstream sees
    keepalive_idle: float = 4.0  # below the 5 s of Node, Hypercorn and uvicorn
    keepalive_connections: int = 64  # idle connections kept per url
    slow_start: float = 0.0
    health: HealthCheck | None = None


class Cors(NamedTuple):
    origins: tuple[bytes, ...]  # exact origins, or (b"*",)
    credentials: bool = False
    methods: tuple[bytes, ...] = ()  # () : the route's
    headers: tuple[bytes, ...] = ()  # (): what the preflight asks for
    expose: tuple[bytes, ...] = ()
    max_age: float = 600.0


class Source:
    """What a source was configured to do, and what it says of itself: relay asks the plan and not which one it is.

    A source is a module in config/keys/sources (its plan, its keys) and the module of the same name in relay/sources
    (`run`, which does it).

    Attributes:
        name: of both modules, and of `source` in the file.
        streams: it always answers with events, from tasks of its own.
        reads_body: it reads the request's body itself; else the body is passed on or left alone.
        says_when: it says itself when an early head is due.
        tells_failure: its events have one for a failure, behind which a stream ends cleanly.
    """

    __slots__ = ()
    name: ClassVar[str]
    streams: ClassVar[bool] = False
    reads_body: ClassVar[bool] = False
    says_when: ClassVar[bool] = False
    tells_failure: ClassVar[bool] = False

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """All that it asks. None: relay answers itself, and no request goes further."""
        return ()

    @property
    def passes_body_to(self) -> Upstream | None:
        """Who gets the request's body as it comes."""
        return None

    @property
    def failure_event(self) -> JsonTemplate | None:
        """What its own event for a failure holds; None: as the route's dialect says."""
        return None

    @property
    def ordered(self) -> bool:
        """Whether it keeps an order among requests, which holds within one worker."""
        return False

    def lines(self) -> list[str]:
        """What `relay check` says of it: one line for each request that it makes."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Forward(Source):
    """source = "forward": one upstream request."""

    name: ClassVar = "forward"

    upstream: Upstream
    path: Template | None = None  # None: the path as it came
    translate: Translation | None = None

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        return (self.upstream,)

    @property
    def passes_body_to(self) -> Upstream:
        return self.upstream

    def lines(self) -> list[str]:
        path = self.path if self.path is not None else "(as it came)"
        line = f"forward {self.upstream.name} {path}"
        return [line] if self.translate is None else [line, f"translated by {self.translate.name}"]


RetryCause = Literal["refused", "timeout", "502", "503", "504", "429"]


class Auth(NamedTuple):
    """`[routes.auth]`: who may, asked of an upstream before anything else."""

    upstream: Upstream
    path: Template
    timeout: float = 5.0
    copy: tuple[bytes, ...] = ()  # fields of its answer that are set on the request to the upstream
    max_body: int = 1024 * 1024  # of a request whose body `path` looks at


class Resume(NamedTuple):
    """`[routes.resume]`: the route's event streams can be resumed, shared, joined and stopped."""

    principal: Subject | None = None  # whose a stream is; None: "public", everybody's
    key: Subject | None = None  # what tells one stream from another; None: every run is its own
    at: Pattern | None = None  # where a stream is joined, resumed (GET) and stopped (DELETE)
    unwatched: float = 30.0  # how long the upstream goes on when nobody watches; inf: to its end
    unwatched_runs: int = 16  # at once, of one principal
    log: int = 4 * 1024 * 1024  # bytes kept of a run
    keep: float = 300.0  # how long a run can be read after its end
    viewers: int = 1000  # at once, of one run and in one process
    repeats: Literal["running", "kept"] = "running"
    live_only: bool = False
    stop: bool = True
    handle: Literal["content-location", "location"] = "content-location"
    reconnect: int = 0  # how often relay asks a broken upstream again
    max_body: int = 8 * 1024 * 1024  # of a request whose body is looked at


class Streams(NamedTuple):
    """`[streams]`: where runs are kept; one store per process."""

    store: str = "auto"
    required: bool = True  # False: start also where the store cannot be reached
    space: int = 256 * 1024 * 1024  # bytes of all logs of a process
    unwatched: int = 1000  # runs without a viewer at once in a process
    prefix: str = "relay:"  # of every key in Redis
    directory: str = ""  # no key: where the processes of this relay share them; see stores.opening


class Route(NamedTuple):
    name: str  # the label in logs and metrics; default: the path as written
    pattern: Pattern
    source: Source
    timeouts: Timeouts
    limits: Limits
    methods: frozenset[bytes] | None = None  # None: all
    stream: Literal["auto", "bytes"] = "auto"
    heartbeat: float = 15.0
    first_event: float = inf
    event_idle: float = inf
    max_age: float = inf
    commit_after: float = inf  # commit = "on-head" | "after 5s"
    complete_when: bytes = b"eof"  # b"eof" | markers with `|` between them; see sse.completion
    dialect: Dialect = "plain"
    after_error: Literal["abort", "close"] = "abort"
    half_close: Literal["abort", "keep"] = "abort"
    retries: int = 0
    retry_on: frozenset[RetryCause] = frozenset({"refused", "timeout", "502", "503", "504"})
    unavailable: Literal["status", "retry-event"] = "status"
    retry_hint: float = 3.0  # `retry:` of the farewell and of retry-event, jittered 50–150 %
    request_headers: FieldEdits = FieldEdits()
    response_headers: FieldEdits = FieldEdits()
    cors: Cors | None = None
    # A key says what its events are like: `_EXPECT_EVENTS` in config.keys.route_builder
    expects_events: bool = False
    auth: Auth | None = None
    resume: Resume | None = None
    capture: Plan | None = None  # what its streams say, for the log


@dataclass(frozen=True, slots=True)
class Override:
    """One key that the command line gives, over that of the file (`reading.overrides`).

    Attributes:
        option: where: `--set`.
    """

    path: tuple[str | int, ...]
    value: object = field(repr=False)  # it may be a secret
    option: str


class Config(NamedTuple):
    server: Server
    limits: Limits
    timeouts: Timeouts
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]  # in matching order
    path: str | None = None  # the file, for reload
    streams: Streams = Streams()
    overrides: tuple[Override, ...] = ()  # of the command line, for reload
