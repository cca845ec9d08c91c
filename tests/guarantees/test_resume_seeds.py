"""Readers that come and go in a run that is written as fast as it goes: what each of them got is the original, and where
something is missing it was told so, there and nowhere else.

Each seed is another run: sizes of events and log, how the upstream ends, how many readers, when they leave, how fast they
read.
`RELAY_SEEDS=1000 pytest tests/guarantees/test_resume_seeds.py` is the long form (docs/technical-notes/invariants.md).
"""

from __future__ import annotations

import json
import os
import random
import re

import pytest
import trio

from tests.guarantees.resume_setup import LOGS, OURS, Ground, Reader, event, ground

SEEDS = int(os.environ.get("RELAY_SEEDS", "15"))
TEXT = re.compile(r"(\d+):(x*)")


class Union:
    """What one reader got, over all its connections."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.last: int | None = None  # the number of the event seen last
        self.cursor: str | None = None
        self.gap: dict[str, str] | None = None  # told, and not yet followed by an event
        self.end: str | None = None  # how the run ended, as it was told

    def take(self, reader: Reader, used: int) -> int:
        """Look at what came; `used`: events of this connection that were looked at before."""
        for found, event_id in zip(reader.events[used:], reader.ids[used:], strict=True):
            text = found.data or ""
            if text.startswith("{"):
                self._told(json.loads(text), event_id)
            else:
                self._event(text, event_id)
        return len(reader.events)

    def _told(self, said: dict[str, str], event_id: str) -> None:
        assert self.end is None and self.gap is None, said
        if said["type"] == "gap":
            assert said["requested"] == (self.cursor or ""), (said, self.cursor)
            self.gap = said
        else:
            assert event_id.endswith("-end"), event_id
            self.end, self.cursor = said["code"], event_id

    def _event(self, text: str, event_id: str) -> None:
        assert self.end is None
        named = OURS.fullmatch(event_id)
        whole = TEXT.fullmatch(text)
        assert named and whole, (event_id, text[:80])
        number = int(named[2])
        assert int(whole[1]) == number and len(whole[2]) == self.sizes[number - 1]
        if self.gap is not None:
            assert self.gap["first"] == event_id
            assert number > (self.last or 0) + 1, "a gap where nothing is missing"
        elif self.last is not None:
            assert number == self.last + 1, f"{self.last} and then {number}, and no word of it"
        self.gap, self.last, self.cursor = None, number, event_id


async def follow(g: Ground, rng: random.Random, union: Union, reader: Reader | None) -> None:
    """Read, leave, come back, until the end of the run was told."""
    while True:
        reader = reader or await g.ask(path="/at/7", cursor=union.cursor)
        if rng.random() < 0.02:
            reader.peer.shrink()
        if not reader.status:
            await reader.head()
        if reader.status == 204:
            union.end = union.end or "complete"
            reader.close()
            return
        assert reader.status == 200, reader.status
        union.gap = None  # told to a reader that left before the event behind it
        used, stays = 0, rng.choice((1, 5, 50, 10_000))
        while reader.ended is None and len(reader.events) < stays:
            await reader.some()
            used = union.take(reader, used)
            for _ in range(rng.choice((0, 0, 0, 20))):
                await trio.lowlevel.checkpoint()
        reader.close()
        if reader.ended == "clean":
            union.end = union.end or "complete"
            return
        if union.end is not None and rng.random() < 0.5:
            return
        reader = None


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_the_union_is_the_original_or_says_what_is_missing(seed: int) -> None:
    rng = random.Random(seed)
    log = rng.choice(("1KiB", "8KiB", "64KiB", "4MiB"))
    most = rng.choice((10, 200, 5_000))
    sizes = [rng.randrange(most) for _ in range(rng.choice((1, 30, 300)))]
    ends = rng.choice(("complete", "upstream_broke", "stopped"))
    unions = [Union(sizes) for _ in range(rng.randrange(1, 7))]
    async with ground(LOGS + f'log = "{log}"\nstop = true\n') as g:
        first, peer = await g.begun()

        async def write() -> None:
            at = 0
            while at < len(sizes):
                many = rng.choice((1, 1, 3, 40))
                out = b"".join(
                    event(f"{n + 1}:{'x' * sizes[n]}")
                    for n in range(at, min(at + many, len(sizes)))
                )
                at += many
                cut = rng.randrange(len(out))
                await peer.send(out[:cut])
                for _ in range(rng.choice((0, 1, 30))):
                    await trio.lowlevel.checkpoint()
                await peer.send(out[cut:])
            if ends == "stopped":
                run = g.relay.worker.feeds.book.runs[0]
                while run.last < len(sizes):  # noqa: ASYNC110 - what was sent is to be read first
                    await trio.sleep(0.001)
                assert (await g.read("DELETE", "/at/7")).status == 204
            elif ends == "complete":
                await peer.send(b"0\r\n\r\n")
            else:
                peer.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number, union in enumerate(unions):
                reader = None if number else first
                nursery.start_soon(follow, g, random.Random(f"{seed} {number}"), union, reader)
        for union in unions:
            assert union.end == ends
            if union.gap is None and union.last is not None:
                assert union.last == len(sizes)
