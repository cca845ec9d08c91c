"""Who gets in: connections, streams and requests of one client address (docs/how-to/harden.md).

    connections ─► counted from accept (or the PROXY header) to close
    streams     ─► event streams under way
    requests    ─► a token bucket: `request_burst` at once, `request_rate` a second

Rules
  * An IPv6 client is its /64: whoever has one address of it has them all (RFC 6177).
  * What has no address (a unix socket without a PROXY header) is not limited, and neither are the
    connections of a trusted proxy: they carry everybody's requests.
  * What is known of an address is forgotten MOST addresses later, those with a connection or a
    stream apart, whose number `connections` bounds. Who sends from more addresses than that is not
    limited by address, and not with more memory either.
  * Per worker, like all of relay's limits.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from math import ceil, inf

from relay.config.values import UNLIMITED, Limits
from relay.exchange import refusal
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.reply import Reply

MOST = 65_536  # addresses remembered; 160 bytes each (measured), 10 MB (arbitrary)
_STEPS = 8  # entries looked at for one to forget: those in use are put behind


class _Known:
    """What one address has, and may."""

    __slots__ = ("at", "connections", "streams", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.connections = 0
        self.streams = 0
        self.tokens = tokens  # of the bucket, as they were at `at`
        self.at = now


class Admission:
    """The books of one worker. Every method is a plain step; times are trio.current_time()."""

    __slots__ = ("_known", "_limits", "active", "counts_connections", "counts_streams")

    def __init__(self, limits: Limits) -> None:
        self._known: dict[str, _Known] = {}  # the one used last stands last
        self.configure(limits)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._known)

    def configure(self, limits: Limits) -> None:
        self._limits = limits
        self.counts_connections = limits.connections_per_address != UNLIMITED
        self.counts_streams = limits.streams_per_address != UNLIMITED
        self.active = self.counts_streams or limits.request_rate != inf  # something to ask for

    # -- connections -----------------------------------------------------------------------------

    def connect(self, address: str, now: float) -> bool:
        """Count a connection; False: it is one too many and was not counted."""
        known = self._touch(address, now)
        if known.connections >= self._limits.connections_per_address:
            return False
        known.connections += 1
        return True

    def disconnect(self, address: str) -> None:
        known = self._known[_who(address)]
        known.connections -= 1

    # -- streams ---------------------------------------------------------------------------------

    def crowded(self, address: str) -> bool:
        """Whether another stream would be one too many."""
        known = self._known.get(_who(address)) if self.counts_streams else None
        return known is not None and known.streams >= self._limits.streams_per_address

    def open_stream(self, address: str, now: float) -> bool:
        """Count a stream; False: there is nothing to count."""
        if not self.counts_streams or not _has_address(address):
            return False
        self._touch(address, now).streams += 1
        return True

    def close_stream(self, address: str) -> None:
        self._known[_who(address)].streams -= 1

    # -- requests --------------------------------------------------------------------------------

    def request(self, address: str, now: float) -> Reply | None:
        """Take a token for one request; the refusal where there is none."""
        rate = self._limits.request_rate
        if rate == inf or not _has_address(address):
            return None
        known = self._touch(address, now)
        known.tokens = min(self._limits.request_burst, known.tokens + (now - known.at) * rate)
        known.at = now
        if known.tokens < 1:
            wait = ceil((1 - known.tokens) / rate)
            return _refused("too_many_requests", "too many requests from this address", wait)
        known.tokens -= 1
        return None

    # -- the table -------------------------------------------------------------------------------

    def _touch(self, address: str, now: float) -> _Known:
        who = _who(address)
        known = self._known.pop(who, None)
        if known is None:
            known = _Known(self._limits.request_burst, now)
            if len(self._known) >= MOST:
                self._forget_one()
        self._known[who] = known
        return known

    def _forget_one(self) -> None:
        for _ in range(_STEPS):
            who = next(iter(self._known))
            known = self._known.pop(who)
            if not known.connections and not known.streams:
                return
            self._known[who] = known


def too_many_connections() -> Reply:
    return _refused("too_many_connections", "too many connections from this address", 1)


def too_many_streams() -> Reply:
    return _refused("too_many_streams", "too many event streams from this address", 1)


def _refused(code: str, message: str, wait: int) -> Reply:
    reply = refusal.refuse(429, code, message, Ending(Side.CLIENT, Phase.ROUTE, Cause.SHED, code))
    reply.fields.append((b"retry-after", b"%d" % wait))
    return reply


def _has_address(address: str) -> bool:
    return address != "unix"


@lru_cache(maxsize=4096)
def _who(address: str) -> str:
    """The key of an address in the table."""
    if ":" not in address:
        return address
    parsed = IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:8].hex()
