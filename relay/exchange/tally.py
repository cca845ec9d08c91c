"""One limit and what is known of each of its keys: streams and connections under way, a token bucket of requests.

    requests ─► a token bucket: `burst` at once, `rate` a second          streams ─► event streams under way

Rules
  * At most MOST keys are remembered: a new one takes the place of the one that was used longest ago and has nothing
    under way (`limits.connections` bounds how many have). A client that comes with more keys than MOST escapes this
    limit, and costs no more memory.
  * A key is short, whatever it stands for: who makes it hashes what a client may choose (exchange/quotas.py).
  * A refusal names the limit and never the key: that may be a credential.
  * Counted per process, like all of relay's limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, inf

from relay.config.values import UNLIMITED
from relay.exchange import refusal
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.reply import Reply

MOST = 65_536  # keys remembered of one limit; 160 bytes each (measured), 10 MB (arbitrary)
_STEPS = 8  # entries looked at for one to forget: those in use are put behind
_LARGEST = 999_999_999_999_999  # an integer of a structured field (RFC 9651 §3.3.1)


TallyKey = str | bytes


class _Known:
    """What is known of one key: its connections, its streams, and the tokens it has left."""

    __slots__ = ("at", "connections", "streams", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.connections = 0
        self.streams = 0
        self.tokens = tokens  # of the bucket, as they were at `at`
        self.at = now


class Tally:
    """The books of one limit. Every method is a plain step; times are trio.current_time()."""

    __slots__ = ("_burst", "_known", "_most_streams", "_rate", "_whose", "name")

    def __init__(self, name: str, whose: str) -> None:
        """
        Args:
            name: of the limit, as the RateLimit fields say it.
            whose: how a message to the client goes on: "too many requests from this address".
        """
        self.name = name
        self._whose = whose
        self._known: dict[TallyKey, _Known] = {}  # the one used last stands last
        self.configure(inf, 1, UNLIMITED)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._known)

    def __iter__(self) -> Iterator[TallyKey]:
        """The keys that are remembered."""
        return iter(self._known)

    def configure(self, rate: float, burst: int, streams: int) -> None:
        self._rate, self._burst, self._most_streams = rate, burst, streams

    # -- connections -----------------------------------------------------------------------------

    def connect(self, key: TallyKey, most: int, now: float) -> bool:
        """Count a connection; False: it is one more than `most` and was not counted."""
        known = self._touch(key, now)
        if known.connections >= most:
            return False
        known.connections += 1
        return True

    def connections_of(self, key: TallyKey) -> int:
        """How many are under way."""
        known = self._known.get(key)
        return 0 if known is None else known.connections

    def disconnect(self, key: TallyKey) -> None:
        self._known[key].connections -= 1

    # -- streams ---------------------------------------------------------------------------------

    def crowded(self, key: TallyKey) -> bool:
        """Whether another stream would be one too many."""
        if self._most_streams == UNLIMITED:
            return False
        known = self._known.get(key)
        return known is not None and known.streams >= self._most_streams

    def open_stream(self, key: TallyKey, now: float) -> None:
        self._touch(key, now).streams += 1

    def close_stream(self, key: TallyKey) -> None:
        self._known[key].streams -= 1

    # -- requests --------------------------------------------------------------------------------

    def request(self, key: TallyKey, now: float) -> Reply | None:
        """Take a token for one request; the refusal where there is none."""
        rate = self._rate
        if rate == inf:
            return None
        known = self._touch(key, now)
        known.tokens = min(self._burst, known.tokens + (now - known.at) * rate)
        known.at = now
        if known.tokens < 1:
            wait = min(ceil((1 - known.tokens) / rate), _LARGEST)
            window = min(ceil(self._burst / rate), _LARGEST)
            policy = f"q={self._burst};w={window}"
            return self._refusal("requests", "too_many_requests", policy, wait)
        known.tokens -= 1
        return None

    def too_many_streams(self) -> Reply:
        """The refusal of a stream, as soon as it is known to be one."""
        policy = f'q={min(self._most_streams, _LARGEST)};qu="concurrent-requests"'
        return self._refusal("event streams", "too_many_streams", policy, 1)

    def _refusal(self, what: str, code: str, policy: str, wait: int) -> Reply:
        """A 429 with what the client may (draft-ietf-httpapi-ratelimit-headers-10 §§3, 4)."""
        reply = refuse(code, f"too many {what} {self._whose}", wait, f"{code}: limit {self.name}")
        reply.fields.append((b"ratelimit-policy", f'"{self.name}";{policy}'.encode()))
        reply.fields.append((b"ratelimit", f'"{self.name}";r=0;t={wait}'.encode()))
        return reply

    # -- the table -------------------------------------------------------------------------------

    def _touch(self, key: TallyKey, now: float) -> _Known:
        known = self._known.pop(key, None)
        if known is None:
            known = _Known(self._burst, now)
            if len(self._known) >= MOST:
                self._forget_one()
        self._known[key] = known
        return known

    def _forget_one(self) -> None:
        for _ in range(_STEPS):
            key = next(iter(self._known))
            known = self._known.pop(key)
            if not known.connections and not known.streams:
                return
            self._known[key] = known


def refuse(code: str, message: str, wait: int, detail: str = "") -> Reply:
    """A 429 that says when to come back."""
    ending = Ending(Side.CLIENT, Phase.ROUTE, Cause.SHED, detail or code)
    reply = refusal.refuse(429, code, message, ending)
    reply.fields.append((b"retry-after", b"%d" % wait))
    return reply


Entry = tuple[Tally, TallyKey]  # a limit, and the key that a request has there


class Claims:
    """What one exchange is counted against: its client's address, and the keys of the limits on its route.

    Who owns it calls `release` once, at the end of the exchange.
    """

    __slots__ = ("_places", "entries")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._places = 0  # so many of them, from the first, count this exchange as a stream

    def add(self, entries: list[Entry], now: float, *, events: bool) -> Reply | None:
        """Count a request against more of them; the refusal where that is one too many.

        Args:
            events: the request says that it wants a stream, so it is refused where that would be one too many.
        """
        self.entries += entries
        if events:
            for tally, key in entries:
                if tally.crowded(key):
                    return tally.too_many_streams()
        for tally, key in entries:
            refused = tally.request(key, now)
            if refused is not None:
                return refused
        return None

    def take_place(self, now: float) -> Reply | None:
        """Count the exchange as a stream, against all that it is not counted against yet; or the refusal."""
        entries = self.entries[self._places :]
        for tally, key in entries:
            if tally.crowded(key):
                return tally.too_many_streams()
        for tally, key in entries:
            tally.open_stream(key, now)
        self._places += len(entries)
        return None

    def release(self) -> None:
        for tally, key in self.entries[: self._places]:
            tally.close_stream(key)
        self.entries, self._places = [], 0
