"""The contract of a store: what other processes see of this one's runs, and this one of theirs.

    owner:   begin(card) ─► Journal ── head ── grown, once per engine step ── seal ── forget
    others:  look ─► Known ─► read(mirror) ─► Tail: head, events, the end, as they come ── close
    anyone:  seal(identity)

A process keeps its own runs in the memory of its `feeds.book`, whatever the store: their readers here are served from
there, so a store that fails costs them nothing. Without a store that is all there is (`store = "memory"`). A store is what
others know of these runs, and it feeds the mirror of a run of theirs while somebody here reads it.

Rules, which every store keeps
  * A run has one owner, for ever: who got its Journal. Only that one writes its events.
  * `begin` is exclusive for (key, request) among candidates: of several at once, over all processes, one gets a Journal and
    the others the Known of that one. A cancelled begin leaves nothing. A candidate whose owner is dead holds up nobody.
  * The key moves to a run with its `head`, unless the current run has a greater number; never back, also when the run that
    superseded another is forgotten before it.
  * Events are numbered from 1 without holes. A store trims from the front, whole events; it keeps `card.limit` bytes at
    least. A hole is a gap for a reader, never a renumbering.
  * There is one end, the first that was put down, by whoever: `seal` says which stands. A sealed log never grows: what
    its owner writes behind the end does not exist. `seal` returns when every process that looks from now on sees the end.
  * An owner that has died is noticed within 10 s by those who read, and at once by who looks (`Known.lost`). Who notices
    seals the run as lost, with the words of `Reader.last_words`; the store cuts it at its last whole event.
  * A Tail says everything that its run has, in order, each event once, then what comes; what it says after a hole begins
    with a greater number. It says the end last. It never says anything in a call of its reader's but `read`.
  * An open Tail is presence: the owner is told how many other processes have one (`Owner.watched_elsewhere`), within 2 s,
    and within 10 s when such a process dies.
  * No call for a single event waits for anything (`Journal.grown`, `seal`, `forget`). Every await has a bound in time.
  * A store that fails raises nothing at its users: it counts in `errors`, says so in the log once, and writes again what it
    missed when it can, from the owner's log in memory. Where it cannot be asked, what it would know is not there.
  * Nothing is polled while no run of another process is read here and none of ours is read elsewhere.

Values are what a client could read. Keys, principals and requests come hashed with `pepper`, which all of the store
share. Times that several processes compare are of the wall clock (`time.time()`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from relay.flows.event_log import End, EventLog
from relay.http.bodies import Fields
from relay.observing.counters import Histogram
from relay.observing.ending import Ending


class StoreUnusable(Exception):
    """Why a store cannot be used at all; for people."""


class Card(NamedTuple):
    """What a run is from its beginning on.

    Attributes:
        identity: of (route, principal, id), hashed: 16 bytes, the name in the store.
        key: of (where, principal, key), hashed, in hex.
        owner: the principal, hashed.
        request: what makes a repetition of it, hashed.
        number: in the order of beginning, over all processes: nanoseconds of the wall clock, or one more than the last.
        limit: bytes of events to keep.
        keep: seconds it can be read after its end.
        keyed: others can have the same key. Of a run that is its own stream nobody can be a repetition.
    """

    identity: bytes
    id: str
    key: str
    owner: bytes
    route: str
    request: bytes
    begun_by_get: bool
    number: int
    limit: int
    keep: float
    keyed: bool = True


class Answer(NamedTuple):
    """What a source brought instead of a stream, for those who joined elsewhere: at most feed.SHARED bytes."""

    status: int
    fields: Fields
    body: bytes


class Sealed(NamedTuple):
    """The end of a run as it stands.

    Attributes:
        last: the number of its last event: what is behind does not exist.
        until: when it is forgotten, by the wall clock.
        answer: of a candidate that became no stream.
    """

    end: End
    ending: Ending
    last: int
    until: float
    answer: Answer | None = None


class Known(NamedTuple):
    """A run as it was when somebody looked. Implements feeds.decisions.KnownRun.

    Attributes:
        fields: of its response head, for viewers; None while it is a candidate.
        first: the number of the oldest event that is kept, at least nearly: reading it says exactly.
        current: its key's.
        lost: its owner is dead and nobody has sealed it yet.
    """

    card: Card
    fields: Fields | None = None
    first: int = 1
    sealed: Sealed | None = None
    current: bool = False
    lost: bool = False

    @property
    def viewers(self) -> int:
        return 0  # those of this process would be in its mirror

    @property
    def id(self) -> str:
        return self.card.id

    @property
    def key(self) -> str:
        return self.card.key

    @property
    def request(self) -> bytes:
        return self.card.request

    @property
    def begun_by_get(self) -> bool:
        return self.card.begun_by_get

    @property
    def candidate(self) -> bool:
        return self.fields is None

    @property
    def last(self) -> int:
        """Of a run that has ended; of one under way only its reader knows."""
        return self.sealed.last if self.sealed is not None else 0

    @property
    def under_way(self) -> bool:
        return self.sealed is None

    @property
    def clean(self) -> bool:
        return self.sealed is not None and self.sealed.end.clean

    @property
    def over(self) -> bool:
        return self.sealed is not None and self.sealed.end.over


class Look(NamedTuple):
    """What a store knows that one request may ask about.

    Attributes:
        run: the one with the identity that was asked for.
        below: all below the key that was asked for, and below the key of `run`, `run` itself too, in the order of beginning.
    """

    run: Known | None
    below: Sequence[Known]


class Owner(Protocol):
    """A run of this process, as its journal knows it. Both calls come from a task or step of the store's own."""

    @property
    def log(self) -> EventLog:
        """Its events: what is to be written, and what to write again."""

    def last_words(self) -> tuple[End, Ending]:
        """The end to put down where the store has lost its events."""

    def kept_elsewhere(self) -> None:
        """The journal is `certain` now. Not said where it is so from the seal on."""

    def watched_elsewhere(self, processes: int) -> None:
        """So many other processes have readers of it now."""

    def ended_elsewhere(self, sealed: Sealed) -> None:
        """Somebody else's end stands. The upstream is closed with the next turn of the loop."""


class Journal(Protocol):
    """The writing end of a run, its owner's alone. The owner sets `owner` before anything else."""

    card: Card
    owner: Owner | None

    @property
    def stored(self) -> bool:
        """Whether others can see all that there is; False while the store fails, and something was missed."""

    @property
    def certain(self) -> bool:
        """Whether the store needs the owner's log no more: all is there, with the end, and stays."""

    async def head(self, fields: Fields) -> None:
        """Its head is a 200 event stream: the key moves to it, by the rule above."""

    def grown(self) -> None:
        """Events were appended to `owner.log` in this engine step. They are written before anybody here is sent them."""

    def seal(self, end: End, ending: Ending, answer: Answer | None = None) -> Sealed:
        """Put down its end behind all of its events. Returns: the end that stands as far as can be told at once."""

    async def settled(self) -> None:
        """Until others see all that was written, or it is known that they cannot just now."""

    def forget(self) -> None:
        """It is not found any more; what it takes is given back. Its readers elsewhere keep what they have read."""


class Reader(Protocol):
    """The mirror of a run of another process, as its Tail feeds it."""

    def head(self, fields: Fields) -> None:
        """It is no candidate any more."""

    def take(self, first: int, events: Sequence[bytes]) -> None:
        """Events as chunks (RFC 9112 §7.1), from the number `first` on; a hole before them if that is not the next."""

    def ended(self, sealed: Sealed) -> None:
        """All of it was said, and it has ended. If it was forgotten under way, as a lost one."""

    def last_words(self) -> tuple[End, Ending]:
        """The end to put down where its owner is found dead."""


class Tail(Protocol):
    """A run that is being read."""

    def close(self) -> None:
        """Nobody here reads it any more."""


class Store(Protocol):
    """One store, opened. Made by `stores.opening.open_store`.

    Attributes:
        name: "dir" or "redis": the label `store` in metrics.
        pepper: for names, shared by all processes of the store.
        errors: what failed, by what was tried.
        seconds: from an append until every process can read it; of what is written in one go, of its first event.
    """

    name: str
    pepper: bytes
    errors: dict[str, int]
    seconds: Histogram

    async def run(self) -> None:
        """Its tasks, for ever. Cancellation: everything it has open is closed, its process counts as dead from then on."""

    async def begin(self, card: Card) -> Journal | Known:
        """Enter a candidate; a Known: a repetition is under way. There is a Journal also while the store fails."""

    async def look(self, identity: bytes | None, key: str | None) -> Look:
        """What is known. Runs past their time are not there."""

    async def seal(self, identity: bytes, end: End, ending: Ending) -> Sealed | None:
        """End a run of whoever it is. Returns: the end that stands; None: there is no such run."""

    async def read(self, identity: bytes, reader: Reader) -> Tail | None:
        """Read a run. When it returns, `reader` was told all there was; None: there is no such run."""
