"""Who gets in: connections, streams and requests of one client address (docs/how-to/harden.md).

Rules
  * An IPv6 client is its /64: whoever has one address of it has them all (RFC 6177).
  * What has no address (a unix socket without a PROXY header) is not limited, and neither are the
    connections of a trusted proxy: they carry everybody's requests.
  * What is known of an address has a bound (exchange/tally.py).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from math import inf

from relay.config.values import UNLIMITED, Limits
from relay.exchange.tally import Entry, Tally, refuse
from relay.sources.reply import Reply


class Admission:
    """The books on addresses of one worker. Every method is a plain step; times are trio.current_time()."""

    __slots__ = ("_connections", "_tally", "active", "counts_connections")

    def __init__(self, limits: Limits) -> None:
        self._tally = Tally("address", "from this address")
        self.configure(limits)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._tally)

    def configure(self, limits: Limits) -> None:
        self._tally.configure(limits.request_rate, limits.request_burst, limits.streams_per_address)
        self._connections = limits.connections_per_address
        self.counts_connections = self._connections != UNLIMITED
        # False: no request of an address is limited, so no request need look here.
        self.active = limits.streams_per_address != UNLIMITED or limits.request_rate != inf

    def connect(self, address: str, now: float) -> bool:
        """Count a connection; False: it is one too many and was not counted."""
        return self._tally.connect(who(address), self._connections, now)

    def connections_of(self, address: str) -> int:
        """How many are under way from this address."""
        return self._tally.connections_of(who(address))

    def disconnect(self, address: str) -> None:
        self._tally.disconnect(who(address))

    def of(self, address: str) -> list[Entry]:
        """What a request from this address is counted against."""
        return [(self._tally, who(address))] if has_address(address) else []


def too_many_connections() -> Reply:
    return refuse("too_many_connections", "too many connections from this address", 1)


def has_address(address: str) -> bool:
    return address != "unix"


@lru_cache(maxsize=4096)
def who(address: str) -> str:
    """The name under which an address is counted: an IPv6 address is its /64."""
    if ":" not in address:
        return address
    parsed = IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:8].hex()
