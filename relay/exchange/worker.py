"""What all exchanges of one process share: the engine, the clocks, the route table, the upstreams, the books.

configure(config) ─► table of RouteStates ─► every new exchange takes the current one (running ones keep theirs)
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Iterable
from math import inf
from typing import Final

import trio

from relay.config.values import Config, FieldEdits, Forward, Route, Upstream
from relay.exchange.admission import Admission
from relay.exchange.background import BackgroundTasks
from relay.exchange.prepared import Prepared
from relay.exchange.quotas import Quotas
from relay.exchange.registry import Registry
from relay.exchange.resuming import resumed_of
from relay.feeds.feeds import Feeds
from relay.feeds.run import Run
from relay.http.names import folded
from relay.observing.counters import Counters, Histogram, RouteCounters
from relay.observing.lines import FORMS
from relay.observing.log import LineLog
from relay.observing.record import Record
from relay.observing.tracing import Tracing
from relay.routing.table import RouteTable
from relay.sources import forward
from relay.sources.attempt import Begun
from relay.sources.authorize import ABOUT
from relay.sources.context import Context
from relay.sources.loading import run_of
from relay.sources.ordering import Ordering
from relay.sources.reply import Reply
from relay.stores.opening import keep_store, open_store, resumes
from relay.upstreams import health
from relay.upstreams.group import Group, Groups
from relay.upstreams.origin import Origin
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine
from relay.wires.threads import Threads

logger = logging.getLogger("relay")

# What a relay calls itself towards upstreams, behind its name in Via: a request that comes with it has been here before.
# Made before the workers are forked, so all of them know it.
TOKEN: Final = b"-" + secrets.token_hex(6).encode()
_AT_METHODS: Final = frozenset((b"GET", b"HEAD", b"DELETE"))


class RouteState:
    """One route as it runs: what would otherwise be worked out for every request."""

    __slots__ = (
        "_run",
        "asking",
        "at",
        "counted",
        "counted_late",
        "counters",
        "edits",
        "in_steps",
        "methods",
        "ordering",
        "place",
        "resumed",
        "route",
    )

    def __init__(
        self,
        route: Route,
        counters: RouteCounters,
        ordering: Ordering,
        quotas: Quotas,
        *,
        at: bool = False,
    ) -> None:
        """at: the state of the address of the route's streams."""
        self.route = route
        self._run = run_of(route.source)
        self.at = at
        self.methods = _at_methods(route) if at else route.methods
        resume = route.resume
        self.resumed = resumed_of(route)
        self.place = str(resume.at) if at and resume is not None else str(route.pattern)
        self.counters = counters
        self.counted, self.counted_late = quotas.of(route)
        self.ordering = ordering  # of the route's name, so that a reload changes no order
        self.edits = {
            up.name: _merged(up.request_headers, route.request_headers, _told(route))
            for up in route.source.upstreams
        }
        auth = route.auth
        # What relay says about the request it says alone, whoever is trusted.
        self.asking = FieldEdits()
        if auth is not None:
            self.asking = _merged(auth.upstream.request_headers, FieldEdits(), frozenset(ABOUT))
        self.in_steps = not at and not self.counted and _is_plain(route)

    def bring(self, context: Context, begun: Begun | None = None) -> Awaitable[Reply]:
        """What the route's source brings; `begun`: a step has asked its upstream already. Raises: Failure, Fault."""
        source = self.route.source
        if begun is not None and isinstance(source, Forward):
            return forward.run(source, context, begun)
        return self._run(source, context)


class Worker:
    """The state of one process. `run` keeps the engine and the clocks going."""

    def __init__(self, config: Config, log_fd: int | None, messages: LineLog | None = None) -> None:
        """
        Args:
            log_fd: the access log's, which is this worker's to close; None: there is none.
            messages: where the process's own messages go, if not to somebody else's stderr.
        """
        self.engine = Engine()
        self.alarms = Alarms(self.engine)
        self.counters = Counters()
        self.registry = Registry()
        self.background = BackgroundTasks(self.alarms)
        self.threads = Threads()
        self._ordering: dict[str, Ordering] = {}
        self._access_log = LineLog(log_fd, path=_log_file(config))
        self._messages = messages
        self.log = self._access_log if log_fd is not None else None
        self.draining = False
        self.admission = Admission(config.limits)
        self.quotas = Quotas()
        self.tracing = Tracing(config.server.trace)
        self._by_name: dict[str, Route] = {}  # changed in place: looked up by the feeds
        self.feeds = Feeds(self.engine, self.alarms, config.streams, self._by_name.get)
        self.groups = Groups(config, self.engine, self.alarms)
        self.engine.on_lack = self.groups.close_idle
        self._take(config)

    def configure(self, config: Config) -> None:
        """Take `config` for all exchanges that start from now on; running ones keep what they started with. A store is kept,
        and opened with the first route that needs one."""
        config = keep_store(self.config, config)
        # It serves already, so a store that cannot be reached now does not end it.
        config = config._replace(streams=config.streams._replace(required=False))
        self.groups.update(config)
        self._take(config)

    def _take(self, config: Config) -> None:
        self.config = config
        self.prepared: Prepared[RouteState] = Prepared()
        self.via = config.server.via.encode() + TOKEN  # towards upstreams
        self.lines = FORMS[config.server.access_log_format]
        self.admission.configure(config.limits)
        self.quotas.configure(config.routes)
        if config.server.trace != self.tracing.mode:
            self.tracing = Tracing(config.server.trace)
        states = [self._state(route) for route in config.routes]
        self.hidden = _hidden(config.routes)  # in the paths of clients, where they are printed
        rows = [(state.route.pattern, state.route.methods, state) for state in states]
        rows += [
            (
                resume.at,
                _AT_METHODS,
                RouteState(state.route, state.counters, state.ordering, self.quotas, at=True),
            )
            for state in states
            if (resume := state.route.resume) is not None and resume.at is not None
        ]
        # At the address of a stream relay answers itself; a key may have a slash in it.
        strict = config.server.ambiguous_paths == "refuse"
        self.table = RouteTable[RouteState](rows, strict=strict, own=lambda state: state.at)
        self.feeds.book.limits = config.streams
        if self.feeds.elsewhere is None and not len(self.feeds.book) and resumes(config):
            store = open_store(config.streams, lambda: self.config.streams)
            if store is not None:
                self.feeds.share(store)
        self._by_name.clear()
        self._by_name.update({route.name: route for route in config.routes})

    def _state(self, route: Route) -> RouteState:
        ordering = self._ordering.setdefault(route.name, Ordering())
        return RouteState(route, self.counters.route(route.name), ordering, self.quotas)

    def log_to(self, fd: int | None) -> None:
        """The access log goes there from now on, or (None) nowhere."""
        self._access_log.move(fd, _log_file(self.config))
        self.log = self._access_log if fd is not None else None

    def reopen_log(self) -> None:
        """The access log's file is opened anew: it was moved away, to be put by."""
        self._access_log.reopen()

    def close_log(self) -> None:
        """The last lines: waits for them to be written, but not for a reader that is stuck."""
        self._access_log.close()

    @property
    def lines_dropped(self) -> int:
        """Lines of the access log and messages that nobody took."""
        messages = self._messages.dropped if self._messages is not None else 0
        return self._access_log.dropped + messages

    async def run(self) -> None:
        """The engine and the clocks, for ever. Cancellation: idle upstream connections are closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.engine.run)
                nursery.start_soon(self.alarms.run)
                nursery.start_soon(self.background.run)
                nursery.start_soon(self.feeds.run)
                nursery.start_soon(health.watch, self.groups, _report)
        finally:
            self.groups.close()

    @property
    def steps(self) -> bool:
        """Whether requests may be served in steps (exchange.step), as far as it is the same for all of them."""
        return (
            not self.draining and not self.admission.active and self.config.server.trace == "pass"
        )

    def group(self, upstream: Upstream) -> Group:
        return self.groups[upstream]

    @property
    def log_bytes(self) -> int:
        return self.feeds.book.bytes

    @property
    def store_errors(self) -> dict[str, int]:
        if self.feeds.elsewhere is None:
            return {}
        store = self.feeds.elsewhere.store
        return {f"{store.name}:{what}": number for what, number in store.errors.items()}

    @property
    def store_seconds(self) -> dict[str, Histogram]:
        if self.feeds.elsewhere is None:
            return {}
        store = self.feeds.elsewhere.store
        return {store.name: store.seconds}

    def runs(self) -> Iterable[tuple[Run, Record]]:
        """The runs under way, each with what is known of its request."""
        for feed in self.feeds.under_way():
            if feed.run is not None:
                yield feed.run, feed.record

    def url_states(self) -> Iterable[health.UrlState]:
        """What is known of every url, for metrics and admin."""
        return health.states(self.groups, trio.current_time())


def _report(origin: Origin, up: bool, why: str) -> None:
    """A health check changed its mind."""
    logger.warning("upstream %s is %s: %s", origin.url, "up" if up else "down", why)


def _log_file(config: Config) -> str | None:
    """The access log's path; None where it has none."""
    where = config.server.access_log
    return None if where in ("off", "stdout", "stderr") else where


def _hidden(routes: Iterable[Route]) -> frozenset[bytes]:
    patterns = [route.pattern for route in routes]
    patterns += [
        route.resume.at for route in routes if route.resume is not None and route.resume.at
    ]
    return frozenset[bytes]().union(*(pattern.hidden for pattern in patterns))


def _is_plain(route: Route) -> bool:
    """Whether nothing but the request and the answer decides what becomes of an exchange: see exchange.step."""
    return (
        isinstance(route.source, Forward)
        and route.auth is None
        and route.resume is None
        and route.cors is None
        and route.commit_after == inf
        and route.unavailable == "status"
    )


def _at_methods(route: Route) -> frozenset[bytes]:
    """The methods that the address of a stream takes."""
    stops = route.resume is not None and route.resume.stop
    return _AT_METHODS if stops else _AT_METHODS - {b"DELETE"}


def _told(route: Route) -> frozenset[bytes]:
    """Fields that only the route's auth may say, whatever the client claims."""
    return frozenset(route.auth.copy) if route.auth is not None else frozenset()


def _merged(upstream: FieldEdits, route: FieldEdits, told: frozenset[bytes]) -> FieldEdits:
    """The route's edits over the upstream's; an upstream's secrets are set last of all and cannot be unset."""
    names = {name for name, _ in upstream.set}
    taken = set(map(folded, names))
    return FieldEdits(
        upstream.set + tuple(field for field in route.set if folded(field[0]) not in taken),
        (upstream.remove | route.remove | told) - names,
    )
