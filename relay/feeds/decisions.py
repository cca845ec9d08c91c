"""What a request on a resumable route gets. No I/O and no clock: questions and runs in, one Outcome out.

The rules are those of the table in docs/reference/resumable-streams.md, row by row. What is foreign is not here: the
shelf that is asked holds the runs of one route and one principal, so another's are simply not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from relay.feeds.cursors import Cursor


class What(Enum):
    """The kinds of answers."""

    BEGIN = "begin"  # the source is asked
    VIEW = "view"  # events behind a cursor, then live, then the run's end
    END = "end"  # 200 and the run's terminal event only
    NO_CONTENT = "no_content"  # 204
    DONE = "done"  # 200, one comment, a clean end
    GONE = "gone"  # 200, the terminal event `run_gone`, a clean end
    HOLE = "hole"  # 200, the terminal event `gap`, a clean end
    MISSING = "missing"  # 404, or 204 with `live_only`
    TOO_MANY = "too_many"  # 429


class Policy(NamedTuple):
    """What the route says.

    Attributes:
        holes: whether the dialect's clients can go on behind a gap.
        viewers: at once, of one run.
    """

    repeats: Literal["running", "kept"] = "running"
    live_only: bool = False
    holes: bool = True
    viewers: int = 1000


class KnownRun(Protocol):
    """A run as far as decisions need it."""

    @property
    def id(self) -> str: ...
    @property
    def key(self) -> str:
        """Of (`at` or the route's path, principal, key), hashed."""

    @property
    def request(self) -> bytes:
        """What makes a repetition: method, target and body, hashed."""

    @property
    def begun_by_get(self) -> bool: ...
    @property
    def candidate(self) -> bool:
        """Its head is not there yet."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def under_way(self) -> bool: ...
    @property
    def clean(self) -> bool:
        """How it ended."""

    @property
    def over(self) -> bool:
        """It was stopped, or its completion marker was seen."""

    @property
    def viewers(self) -> int: ...


R = TypeVar("R", bound=KnownRun)
R_co = TypeVar("R_co", bound=KnownRun, covariant=True)


class Shelf(Protocol[R_co]):
    """The runs of one route and one principal."""

    def run(self, run_id: str) -> R_co | None: ...
    def current(self, key: str) -> R_co | None: ...
    def candidate(self, key: str, request: bytes | None) -> R_co | None:
        """A run under way whose head is not there yet; `request` None: any."""


class Question(NamedTuple):
    """One request.

    Attributes:
        get: GET (or HEAD), as opposed to another method.
        at: on the stream's own address, as opposed to the route's path.
        key: the stream's, hashed; None where the route has none and the address names none.
        request: method, target and body, hashed.
        cursor: a `Last-Event-ID` of the shape of ours; None without one.
    """

    get: bool
    at: bool
    key: str | None
    request: bytes
    cursor: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What the request gets.

    Attributes:
        after: the cursor that a view begins behind.
        gap: a gap event comes first.
    """

    what: What
    run: R | None = None
    after: int = 0
    gap: bool = False


def over_for_good(run: KnownRun) -> bool:
    """Whether a reader must not begin this run again."""
    return not run.under_way and (run.over or not run.begun_by_get)


def decide(policy: Policy, shelf: Shelf[R], asked: Question) -> Outcome[R]:
    """The answer to `asked`."""
    if asked.cursor is None:
        return _without_cursor(policy, shelf, asked, asked.key)
    run = shelf.run(asked.cursor.run) if asked.cursor.run else None
    if run is None or (asked.key is not None and run.key != asked.key):
        return _gone(policy, shelf, asked)
    seq = asked.cursor.seq
    if run.under_way or (seq is not None and seq < run.last):
        return _view(policy, run, run.last if seq is None else seq)
    if seq is not None and not run.clean:
        return Outcome(What.END, run)
    return _seen_to_its_end(policy, shelf, asked, run)


def _without_cursor(
    policy: Policy, shelf: Shelf[R], asked: Question, key: str | None
) -> Outcome[R]:
    current = shelf.current(key) if key is not None else None
    if asked.at:
        if key is not None and (current is None or not current.under_way):
            waiting = shelf.candidate(key, None)
            if waiting is not None:
                return _view(policy, waiting, 0)
        if current is None:
            return Outcome(What.MISSING)
        if not current.under_way and policy.live_only:
            return Outcome(What.NO_CONTENT)
        return _view(policy, current, 0)
    if key is not None:
        for run in (current, shelf.candidate(key, asked.request)):
            if run is not None and _joins(policy, asked, run):
                return _view(policy, run, 0)
    return Outcome(What.BEGIN)


def _joins(policy: Policy, asked: Question, run: KnownRun) -> bool:
    """Whether the request is a repetition that gets the run instead of a new one."""
    if run.request != asked.request:
        return False
    if run.under_way:
        return True
    if asked.get:
        # A finished job is replayed, anything else is asked again
        return run.clean and over_for_good(run)
    return run.clean and policy.repeats == "kept"


def _seen_to_its_end(policy: Policy, shelf: Shelf[R], asked: Question, run: R) -> Outcome[R]:
    """The reader has all of `run`, and its end."""
    current = shelf.current(run.key)
    if current is not None and current.under_way and current is not run and (asked.at or asked.get):
        return _behind_a_hole(policy, current)
    if not asked.at and not over_for_good(run):
        return _without_cursor(policy, shelf, asked, run.key)
    return Outcome(What.NO_CONTENT if asked.get else What.DONE)


def _gone(policy: Policy, shelf: Shelf[R], asked: Question) -> Outcome[R]:
    """The cursor names a run that is not there: expired, lost in a restart, malformed, or somebody else's."""
    plain = _without_cursor(policy, shelf, asked, asked.key)
    if plain.run is not None and (plain.run.under_way or not asked.at):  # also where it is full
        return _behind_a_hole(policy, plain.run)
    if asked.at:
        return Outcome(What.MISSING)
    if not asked.get:
        return Outcome(What.GONE)
    return Outcome(What.BEGIN, gap=True) if policy.holes else Outcome(What.HOLE)


def _behind_a_hole(policy: Policy, run: R) -> Outcome[R]:
    view = _view(policy, run, 0)
    return Outcome(What.VIEW, run, view.after, gap=True) if view.what is What.VIEW else view


def _view(policy: Policy, run: R, after: int) -> Outcome[R]:
    """`after` 0 is no cursor: then a missing beginning matters only to those who cannot bear a hole."""
    if run.viewers >= policy.viewers:
        return Outcome(What.TOO_MANY, run)
    missing = after < run.first - 1
    gap = missing and (after > 0 or not policy.holes)
    return Outcome(What.VIEW, run, max(after, run.first - 1), gap=gap)
