"""Which url is chosen: a table for the pure function, and what repeated choosing does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from relay.upstreams.balance import choose
from relay.upstreams.group import Group
from tests.io.upstreams_setup import data_plane, http, upstream


@dataclass(eq=False)
class Url:
    """A candidate by its figures; `away` is how long it is left alone, from now = 100."""

    name: str
    streams: int = 0
    turn: float = 0.0
    away: float = 0.0
    failing_checks: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        self.retry_at = 100 + self.away

    def available(self, now: float) -> bool:
        return not self.failing_checks and now >= self.retry_at

    def weight(self, now: float) -> float:
        return self.share


CASES = {
    "fewest streams": ([Url("a", 2), Url("b", 1)], "", "b", "a"),
    "a tie goes to whose turn it is": ([Url("a", 1, turn=5), Url("b", 1, turn=4)], "", "b", "b"),
    "a warming url counts each stream for more": (
        [Url("a", 5), Url("b", 1, share=0.25)],
        "",
        "a",
        "a",
    ),
    "a warming url still gets its share": ([Url("a", 9), Url("b", 1, share=0.25)], "", "b", "a"),
    "tried ones are left out": ([Url("a"), Url("b", 7)], "a", "b", "b"),
    "one that is left alone waits": ([Url("a", away=3), Url("b", 7)], "", "b", "b"),
    "one that fails its checks waits": ([Url("a", failing_checks=True), Url("b")], "", "b", "b"),
    "all are away: the one that is due first": ([Url("a", away=3), Url("b", away=2)], "", "b", "b"),
    "back-off before failed checks": (
        [Url("a", failing_checks=True), Url("b", away=2)],
        "",
        "b",
        "b",
    ),
    "away, but the only one not tried": ([Url("a", away=3), Url("b")], "b", "a", "a"),
    "all tried": ([Url("a"), Url("b")], "ab", None, None),
    "none": ([], "", None, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_choice(case: tuple[list[Url], str, str | None, str | None]) -> None:
    urls, tried, by_streams, in_turn = case
    already = [url for url in urls if url.name in tried]
    pairs: tuple[tuple[Literal["least-streams", "round-robin"], str | None], ...]
    pairs = (("least-streams", by_streams), ("round-robin", in_turn))
    for balance, expected in pairs:
        chosen = choose(urls, already, 100.0, balance)
        assert (chosen.name if chosen else None) == expected, balance


async def test_round_robin_goes_round_and_a_returning_url_has_no_arrears() -> None:
    async with data_plane() as plane:
        urls = [http(1), http(2), http(3)]
        group = Group(upstream(*urls, balance="round-robin"), plane.engine, plane.alarms)
        a, b, c = group.origins
        assert [group.choose() for _ in range(6)] == [a, b, c, a, b, c]
        c.checked(False)
        assert [group.choose() for _ in range(100)] == [a, b] * 50
        c.checked(True)
        following = [group.choose() for _ in range(9)]
        assert following.count(c) in (3, 4)


async def test_least_streams_spreads_ties() -> None:
    async with data_plane() as plane:
        group = Group(upstream(http(1), http(2), http(3)), plane.engine, plane.alarms)
        for _ in range(30):  # streams that end at once: always a tie
            chosen = group.choose()
            assert chosen is not None
        turns = {origin.turn for origin in group.origins}
        assert turns == {10.0}


async def test_a_group_of_one_is_tried_whatever_its_health() -> None:
    async with data_plane() as plane:
        group = Group(upstream(http(1)), plane.engine, plane.alarms)
        (only,) = group.origins
        only.failed("refused")
        assert group.choose() is only
        assert group.choose([only]) is None
        assert not group.up(0.0)
