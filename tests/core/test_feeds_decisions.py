"""What a request on a resumable route gets: relay's decisions and the contract's own model, held together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from relay.feeds.cursors import is_none, new_run, read_cursor
from relay.feeds.decisions import Policy, Question, decide
from tests.core import streams_oracle as oracle

PRINCIPALS = ("ann", "eve")
KEYS = ("k1", "k2")
REQUESTS = (b"1", b"2")


@dataclass
class Kept:
    """A run of the oracle's, as decisions see it."""

    run: oracle.Run

    def __getattr__(self, name: str) -> object:
        return getattr(self.run, name)


class Shelf:
    """The oracle's runs of one principal."""

    def __init__(self, streams: oracle.Streams, principal: str) -> None:
        self.streams = streams
        self.principal = principal

    def run(self, run_id: str) -> Kept | None:
        found = self.streams.runs.get((self.principal, run_id))
        return Kept(found) if found else None

    def current(self, key: str) -> Kept | None:
        return self.run(self.streams.current.get((self.principal, key), ""))

    def candidate(self, key: str, request: bytes | None) -> Kept | None:
        for run in self.streams.runs.values():
            if (
                run.candidate
                and run.under_way
                and run.principal == self.principal
                and run.key == key
                and request in (None, run.request)
            ):
                return Kept(run)
        return None


class Machine(RuleBasedStateMachine):
    @initialize(
        repeats=st.sampled_from(["running", "kept"]),
        live_only=st.booleans(),
        holes=st.booleans(),
        viewers=st.sampled_from([1, 3]),
    )
    def start(self, repeats: str, live_only: bool, holes: bool, viewers: int) -> None:
        self.streams = oracle.Streams(
            oracle.Route(repeats=repeats, live_only=live_only, holes=holes, viewers=viewers)
        )
        self.policy = Policy(repeats, live_only, holes, viewers)  # type: ignore[arg-type]
        self.ids: list[str] = ["A" * 22]
        self.now = 0.0

    def pick(self, which: int) -> oracle.Run | None:
        runs = list(self.streams.runs.values())
        return runs[which % len(runs)] if runs else None

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        key=st.sampled_from((*KEYS, None)),
        request=st.sampled_from(REQUESTS),
        method=st.sampled_from(["GET", "POST"]),
    )
    def begin(self, principal: str, key: str | None, request: bytes, method: str) -> None:
        self.ids.append(new_run())
        self.streams.begin(
            self.ids[-1], key=key, principal=principal, request=request, method=method
        )

    @rule(
        which=st.integers(0, 9),
        what=st.sampled_from(["head", "other", "end"]),
        flags=st.integers(0, 3),
    )
    def move(self, which: int, what: str, flags: int) -> None:
        run = self.pick(which)
        if run is None or not run.under_way:
            return
        if run.candidate and what == "head":
            self.streams.head(run)
        elif run.candidate and what == "other":
            self.streams.not_a_stream(run)
        elif what == "end":
            self.streams.end(run, self.now, clean=bool(flags & 1), over=bool(flags & 2))

    @rule(which=st.integers(0, 9), events=st.integers(1, 4), trimmed=st.integers(0, 5))
    def grow(self, which: int, events: int, trimmed: int) -> None:
        run = self.pick(which)
        if run is not None and run.under_way and not run.candidate:
            self.streams.append(run, events)
            self.streams.trim(run, min(run.last + 1, run.first + trimmed))

    @rule(which=st.integers(0, 9), viewers=st.integers(0, 3))
    def watch(self, which: int, viewers: int) -> None:
        run = self.pick(which)
        if run is not None:
            run.viewers = viewers

    @rule(passed=st.sampled_from([1.0, 400.0]))
    def expire(self, passed: float) -> None:
        self.now += passed
        self.streams.expire(self.now)

    @rule(
        method=st.sampled_from(["GET", "POST"]),
        principal=st.sampled_from(PRINCIPALS),
        key=st.sampled_from((*KEYS, None, "run")),
        which=st.integers(0, 30),
        seq=st.sampled_from(["", "-1", "no", "-0", "-end", "-1 ", "-2", "-4", "-9", "-07"]),
        request=st.sampled_from(REQUESTS),
        at=st.booleans(),
    )
    def ask(
        self,
        method: str,
        principal: str,
        key: str | None,
        which: int,
        seq: str,
        request: bytes,
        at: bool,
    ) -> None:
        run_id = self.ids[which % len(self.ids)]
        key = run_id if key == "run" else key
        text = seq if seq in ("", "-1", "no") else run_id + seq
        wanted = self.streams.ask(
            method, principal=principal, key=key, cursor=text, request=request, at=at
        )
        value = text.encode()
        cursor = None if is_none(value) else read_cursor(value)
        asked = Question(method == "GET", at, key, request, cursor)
        shelf: Any = Shelf(self.streams, principal)
        found = decide(self.policy, shelf, asked)
        assert found.what.value == wanted.what
        assert (found.run.run if found.run else None) is wanted.run
        assert (found.after, found.gap) == (wanted.after, wanted.gap)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
