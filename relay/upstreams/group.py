"""The urls of one upstream, and all upstreams of a worker through reloads.

Rules
  * A reload keeps a group whose configuration is equal, with its pools and its health.
  * What started under an old configuration ends under it: a retired group still answers until the
    reload after, but keeps no connection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from relay.upstreams.balance import choose
from relay.upstreams.dial import forget_tls_contexts, tls_context
from relay.upstreams.origin import Origin
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine

if TYPE_CHECKING:
    from relay.config.values import Config, Upstream


class Group:
    """The origins of one upstream.

    Attributes:
        origins: one per url, in the order of the file.
        engine, alarms: for `dial`.
        checking: the scope of the active checks; `close` cancels it.
    """

    __slots__ = ("_turn", "alarms", "checking", "engine", "origins", "upstream")

    def __init__(self, upstream: Upstream, engine: Engine, alarms: Alarms) -> None:
        self.upstream = upstream
        self.engine = engine
        self.alarms = alarms
        self.origins = tuple(Origin(url, upstream, alarms) for url in upstream.urls)
        self.checking = trio.CancelScope()
        self._turn = 0.0  # virtual time: the turn of the last choice

    def choose(self, tried: Collection[Origin] = ()) -> Origin | None:
        """The origin for the next attempt of an exchange; None: all of them are in `tried`."""
        if len(self.origins) == 1:
            return None if tried else self.origins[0]
        now = trio.current_time()
        origin = choose(self.origins, tried, now, self.upstream.balance)
        if origin is not None:
            # A url that comes back after a long time gets one turn at once, and no arrears.
            self._turn = max(self._turn, origin.turn)
            origin.turn = self._turn + 1 / origin.weight(now)
            origin.begin_trial(now)
        return origin

    def up(self, now: float) -> bool:
        """Whether any url is not left alone."""
        return any(origin.available(now) for origin in self.origins)

    def close(self) -> None:
        """Retire: close idle wires, stop the checks; exchanges under way keep theirs."""
        self.checking.cancel()
        for origin in self.origins:
            origin.retired = True
            origin.close_idle()


class Groups:
    """Every upstream of a worker: `groups[upstream]`.

    Looked up by identity first, because hashing an Upstream costs more than choosing from it.

    Attributes:
        changed: set by the next `update`, which leaves a new event here.
    """

    __slots__ = ("_alarms", "_by_identity", "_engine", "_live", "changed")

    def __init__(self, config: Config, engine: Engine, alarms: Alarms) -> None:
        self._engine = engine
        self._alarms = alarms
        self._live: list[Group] = []
        self.changed = trio.Event()
        # The key's object is kept beside the group, so that no other object can get its id.
        self._by_identity: dict[int, tuple[Upstream, Group]] = {}
        self.update(config)

    def __iter__(self) -> Iterator[Group]:
        """The groups of the present configuration."""
        return iter(self._live)

    def __getitem__(self, upstream: Upstream) -> Group:
        known = self._by_identity.get(id(upstream))
        return known[1] if known is not None else self._find(upstream)

    def _find(self, upstream: Upstream) -> Group:
        """The group of an equal configuration; for one long gone, a group without a pool."""
        for group in self._live:
            if group.upstream == upstream:
                break
        else:
            group = Group(upstream, self._engine, self._alarms)
            group.close()
        self._by_identity[id(upstream)] = (upstream, group)
        return group

    def update(self, config: Config) -> list[Group]:
        """Take over a new configuration.

        Returns: the groups that are new (`health.watch` finds them by itself).
        """
        forget_tls_contexts()
        before, self._live = self._live, []
        identities = {}
        new = []
        for upstream in config.upstreams.values():
            group = next((group for group in before if group.upstream == upstream), None)
            if group is None:
                group = Group(upstream, self._engine, self._alarms)
                new.append(group)
            self._live.append(group)
            identities[id(upstream)] = (upstream, group)
            _prepare_tls(upstream)
        for group in before:
            if group not in self._live:
                group.close()
                identities[id(group.upstream)] = (group.upstream, group)
        self._by_identity = identities
        changed, self.changed = self.changed, trio.Event()
        changed.set()
        return new

    def close_idle(self) -> None:
        """Close every idle connection (drain)."""
        for group in self._live:
            for origin in group.origins:
                origin.close_idle()

    def close(self) -> None:
        """Retire all of them."""
        for group in self._live:
            group.close()


def _prepare_tls(upstream: Upstream) -> None:
    """Load certificates before an exchange needs them; a bad file is for the dial to report."""
    if any(url.scheme == "https" for url in upstream.urls):
        with suppress(OSError):
            tls_context(upstream.tls_ca)
