"""What a request on a resumable route gets, as the contract of resumable streams states it: an oracle for tests.

It shares no line with relay.feeds.decisions, and is never mended to agree with it.
"""

# ruff: noqa: E501

from __future__ import annotations

import re
from dataclasses import dataclass, field

SHAPE = re.compile(r"[A-Za-z0-9_-]{22}-.+")  # one of ours, perhaps malformed
OURS = re.compile(r"([A-Za-z0-9_-]{22})-(end|[1-9][0-9]{0,18})")


@dataclass
class Route:
    keep: float = 300.0
    repeats: str = "running"  # | "kept"
    live_only: bool = False
    holes: bool = True  # whether the dialect's clients can go on behind a gap
    viewers: int = 1000


@dataclass
class Run:
    id: str
    number: int  # in the order of beginning
    key: str
    principal: str
    request: bytes  # what makes a repetition: method, target, body
    begun_by_get: bool
    candidate: bool = True  # its head is not there yet
    first: int = 1  # the oldest seq that is still kept
    last: int = 0  # the newest
    ended_at: float | None = None
    clean: bool = False  # how it ended
    over: bool = False  # stopped, or its completion marker was seen
    viewers: int = 0

    @property
    def under_way(self) -> bool:
        return self.ended_at is None

    @property
    def over_for_good(self) -> bool:
        return not self.under_way and (self.over or not self.begun_by_get)


@dataclass(frozen=True)
class Outcome:
    """what: begin (ask the source) · view (events behind `after`, then live, then the run's end) · end (only the run's terminal event, id <run>-end) ·
    no_content (204) · done (200, one comment, clean end) · gone (200, terminal event run_gone, clean end) · hole (200, terminal event gap, clean end) ·
    missing (404, or 204 with live_only) · stop (204; `runs` are sealed) · too_many (429). `gap`: a gap event comes first."""

    what: str
    run: Run | None = None
    after: int = 0
    gap: bool = False
    passes_cursor: bool = False  # a Last-Event-ID that is not ours goes to the upstream as it came
    runs: tuple[str, ...] = ()


@dataclass
class Streams:
    route: Route
    # By principal and id: foreign is not found
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    current: dict[tuple[str, str], str] = field(default_factory=dict)  # (principal, key) → run id
    _begun: int = 0

    # -- what happens to runs ----------------------------------------------------------------------------------

    def begin(
        self, id: str, *, key: str | None, principal: str, request: bytes, method: str
    ) -> Run:
        """The source is being asked. The key stays where it is."""
        self._begun += 1
        run = Run(id, self._begun, id if key is None else key, principal, request, method == "GET")
        self.runs[principal, id] = run
        return run

    def head(self, run: Run) -> None:
        """Its head is a 200 event stream: the key moves to it, unless the current run was begun later."""
        run.candidate = False
        now = self._current(run.principal, run.key)
        if now is None or now.number < run.number:
            self.current[run.principal, run.key] = run.id

    def not_a_stream(self, run: Run) -> None:
        """The source brought something else: it goes to those who wait, and nothing is kept."""
        self._forget(run)

    def append(self, run: Run, events: int = 1) -> None:
        assert run.under_way, "a sealed log never grows"
        run.last += events

    def trim(self, run: Run, first: int) -> None:
        """The oldest events are gone. May leave nothing: then first == last + 1."""
        assert run.first <= first <= run.last + 1
        run.first = first

    def end(self, run: Run, now: float, *, clean: bool, over: bool = False) -> None:
        """over: it was stopped, or its completion marker was seen."""
        assert run.under_way
        run.ended_at, run.clean, run.over = now, clean, over

    def expire(self, now: float) -> None:
        for run in [
            r
            for r in self.runs.values()
            if r.ended_at is not None and now >= r.ended_at + self.route.keep
        ]:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        del self.runs[run.principal, run.id]
        if self.current.get((run.principal, run.key)) == run.id:  # compare and delete
            del self.current[run.principal, run.key]

    # -- what a request gets -----------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        *,
        principal: str,
        key: str | None = None,
        cursor: str | None = None,
        request: bytes = b"",
        at: bool = False,
    ) -> Outcome:
        """The route's method, or GET on the stream's own address (`at`). key: None where the route has none and the address names none."""
        if cursor in ("", "-1"):
            cursor = None
        if cursor is not None and SHAPE.fullmatch(cursor):
            return self._resume(method, principal, key, cursor, request, at)
        outcome = self._plain(method, principal, key, request, at)
        if outcome.what == "begin" and cursor is not None:
            return Outcome("begin", passes_cursor=True)
        return outcome

    def stop(self, *, principal: str, key: str, run: str | None = None) -> Outcome:
        below = [r for r in self.runs.values() if r.principal == principal and r.key == key]
        if run is not None:
            below = [r for r in below if r.id == run]
        if not below:
            return Outcome("missing")
        return Outcome("stop", runs=tuple(r.id for r in below if r.under_way))

    # -- parts -------------------------------------------------------------------------------------------------

    def _current(self, principal: str, key: str | None) -> Run | None:
        return (
            None
            if key is None
            else self.runs.get((principal, self.current.get((principal, key), "")))
        )

    def _candidate(self, principal: str, key: str | None, request: bytes | None) -> Run | None:
        """One that waits for its head; request None: any."""
        for run in self.runs.values():
            if (
                run.candidate
                and run.under_way
                and run.principal == principal
                and run.key == key
                and request in (None, run.request)
            ):
                return run
        return None

    def _plain(
        self, method: str, principal: str, key: str | None, request: bytes, at: bool
    ) -> Outcome:
        """Without a cursor."""
        run = self._current(principal, key)
        if at:
            if run is None or not run.under_way:
                waiting = self._candidate(principal, key, None)
                if waiting is not None:
                    return self._view(waiting, 0)
            if run is None:
                return Outcome("missing")
            if not run.under_way and self.route.live_only:
                return Outcome("no_content")
            return self._view(run, 0)
        for joined in (run, self._candidate(principal, key, request)):
            if joined is not None and self._joins(method, joined, request):
                return self._view(joined, 0)
        return Outcome("begin")

    def _joins(self, method: str, run: Run, request: bytes) -> bool:
        if run.request != request:
            return False
        if run.under_way:
            return True
        if method == "GET":
            # A finished job is replayed; anything else is asked again
            return run.over_for_good and run.clean
        return self.route.repeats == "kept" and run.clean

    def _resume(
        self, method: str, principal: str, key: str | None, cursor: str, request: bytes, at: bool
    ) -> Outcome:
        ours = OURS.fullmatch(cursor)
        run = self.runs.get((principal, ours[1])) if ours else None
        if run is not None and key is not None and run.key != key:
            run = None
        if run is None or ours is None:
            return self._resume_gone(method, principal, key, request, at)
        at_last = ours[2] != "end" and int(ours[2]) >= run.last
        if run.under_way or (ours[2] != "end" and not at_last):
            return self._view(run, int(ours[2]) if ours[2] != "end" else run.last)
        if at_last and not run.clean:
            return Outcome("end", run)
        return self._resume_ended(method, run, principal, request, at)

    def _resume_ended(
        self, method: str, run: Run, principal: str, request: bytes, at: bool
    ) -> Outcome:
        """The reader has seen all of `run`, its end too."""
        now = self._current(principal, run.key)
        later = now if now is not None and now.under_way and now is not run else None
        if later is not None and (at or method == "GET"):
            return self._behind_a_hole(later)
        if not run.over_for_good and not at:
            return self._plain(method, principal, run.key, request, at)
        return Outcome("no_content") if method == "GET" else Outcome("done")

    def _resume_gone(
        self, method: str, principal: str, key: str | None, request: bytes, at: bool
    ) -> Outcome:
        plain = self._plain(method, principal, key, request, at)
        if plain.run is not None and (plain.run.under_way or not at):
            return self._behind_a_hole(plain.run)
        if at:
            return Outcome("missing")
        if method != "GET":
            return Outcome("gone")
        return Outcome("begin", gap=True) if self.route.holes else Outcome("hole")

    def _behind_a_hole(self, run: Run) -> Outcome:
        view = self._view(run, 0)
        return view if view.what != "view" else Outcome("view", run, view.after, gap=True)

    def _view(self, run: Run, after: int) -> Outcome:
        """`after`: the cursor; 0 is none. Without one a missing beginning matters only to those who cannot bear a hole."""
        if run.viewers >= self.route.viewers:
            return Outcome("too_many", run)
        gap = after < run.first - 1 and (after > 0 or not self.route.holes)
        return Outcome("view", run, max(after, run.first - 1), gap=gap)
