"""One client, and all of them together, stay within bounds; and what is foreign is not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import trio

from relay.feeds.run import OVERHEAD
from relay.flows.event_log import End
from relay.observing.ending import COMPLETE
from relay.routing.table import Found
from tests.guarantees.resume_setup import LOGS, MEMORY, ONE_PROCESS, chat, event, ground, keeping
from tests.harness import LIMIT, settle

BODY = b'{"id":"c%d"}'
OPEN = 'principal = "public"\nkey = "{id}"\nat = "/at/{key}"\n'


@pytest.fixture(autouse=True, params=["memory", "dir", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each holds whatever keeps the streams, and whoever of those that share it is asked."""
    with keeping(request.param):
        yield request.param


@ONE_PROCESS
async def test_one_client_that_opens_closes_and_repeats_is_bounded() -> None:
    async with ground(LOGS + "unwatched_runs = 3\n") as g:
        peers = []
        for number in range(12):
            reader, peer = await g.begun(path=f"/logs/{number}")
            peers.append(peer)
            reader.close()
            await settle(lambda: not any(run.viewers for run in g.relay.worker.feeds.book.runs))
            assert sum(run.under_way for run in g.relay.worker.feeds.book.runs) <= 3
        for peer in peers[:9]:
            await peer.ended()


@ONE_PROCESS
async def test_unkeyed_runs_count_against_the_address_they_come_from() -> None:
    async with ground("unwatched_runs = 2\n") as g:
        for _ in range(6):
            reader, _ = await g.begun()
            reader.close()
            await settle(lambda: not any(run.viewers for run in g.relay.worker.feeds.book.runs))
        assert sum(run.under_way for run in g.relay.worker.feeds.book.runs) == 2


@ONE_PROCESS
async def test_a_process_is_bounded_in_runs_that_nobody_watches() -> None:
    server = "[streams]\nunwatched = 4\n"
    async with ground(LOGS, server=server) as g:
        for number in range(10):
            reader, _ = await g.begun(path=f"/logs/{number}")
            reader.close()
            await settle(lambda: not any(run.viewers for run in g.relay.worker.feeds.book.runs))
        assert sum(run.under_way for run in g.relay.worker.feeds.book.runs) == 4


@MEMORY
async def test_ten_thousand_keys_stay_within_the_space() -> None:
    """Each is a finished run of one event; what is kept is bounded by `space`, an empty run is not free."""
    space = 100 * OVERHEAD
    async with ground(OPEN, server=f"[streams]\nspace = {space}\n") as g:
        feeds, book = g.relay.worker.feeds, g.relay.worker.feeds.book
        found = g.relay.worker.table.find(b"GET", b"/logs/1")
        assert isinstance(found, Found)
        for number in range(10_000):
            run = book.begin(
                found.value.route,
                b"o",
                f"k{number}",
                b"",
                get=True,
                whose=b"o",
                stop=lambda _: None,
            )
            run.fields = []
            book.head(run)
            run.append(b"data: x\n\n")
            run.seal(End(clean=True), COMPLETE)
            assert book.bytes <= space
        assert len(book) <= 100
        assert not len(feeds)


async def test_what_is_past_its_time_is_forgotten() -> None:
    async with ground(LOGS + 'keep = "50ms"\n') as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + b"0\r\n\r\n")
        await reader.rest()
        await settle(lambda: not len(g.relay.worker.feeds.book))
        assert g.relay.worker.feeds.book.bytes == 0
        # A store keeps it for its time, when nothing of it is here any more.
        with trio.fail_after(LIMIT):
            while (await g.read(path="/at/7", cursor=reader.ids[-1])).status != 404:  # noqa: ASYNC110
                await trio.sleep(0.02)


WHO = ["ann", "eve", None]
ASKS = [("at", "GET"), ("at", "DELETE"), ("route", "POST")]


@pytest.mark.parametrize(("who", "ask"), list(itertools.product(WHO, ASKS)))
async def test_who_gets_what_of_anns_stream(who: str | None, ask: tuple[str, str]) -> None:
    """The table of who asks for what with which principal."""
    where, method = ask
    async with chat() as g:
        ann, peer = await g.begun("POST", "/chat", body=BODY % 1)
        await peer.send(event("secret"))
        await ann.until(1)
        path = "/chat" if where == "route" else "/chat/c1/stream"
        body = BODY % 1 if method == "POST" else None
        cursor = f"{ann.run}-0" if method == "POST" and who == "eve" else None
        reader = await g.read(method, path, user=who, body=body, cursor=cursor)
        if who is None:
            assert reader.status == 403
        elif who == "eve" and where == "at":
            assert reader.status == 404
        elif who == "eve":
            await reader.rest()
            assert reader.codes == ["run_gone"]
        elif method == "DELETE":
            assert reader.status == 204
        else:
            await reader.until(1)
            assert reader.data == ["secret"]
        if who == "eve":
            assert b"secret" not in reader.payload
            assert len([run for run in g.relay.worker.feeds.book.runs if run.under_way]) == 1


async def test_what_is_foreign_is_not_there_and_nothing_is_compared() -> None:
    """A look-up is a hash of who asks and what for, in a dictionary: the same work and the same bytes, whether somebody
    else has such a stream or nobody has."""
    async with chat() as g:
        ann, peer = await g.begun("POST", "/chat", body=BODY % 1)
        await peer.send(event(1))
        await ann.until(1)
        book = g.relay.worker.feeds.book
        found = g.relay.worker.table.find(b"GET", b"/chat/c1/stream")
        assert isinstance(found, Found)
        eve = book.hashed("owner", "eve")
        shelf = book.shelf(found.value.route, eve)
        for key in ("c1", "c9"):
            assert shelf.current(book.key(found.value.route, eve, key)) is None
        assert shelf.run(ann.run) is None
        answers = set()
        for key in ("c1", "c9"):
            reader = await g.read("GET", f"/chat/{key}/stream", user="eve")
            fields = {k: v for k, v in reader.fields.items() if k not in ("x-request-id", "date")}
            answers.add((reader.status, str(sorted(fields.items())), await reader.body()))
        assert len(answers) == 1


@MEMORY
async def test_hashes_of_short_names_say_nothing() -> None:
    """The names that runs are kept under differ from process to process: a list of all chat ids does not undo them."""
    async with chat() as one, chat() as other:
        names = {each.relay.worker.feeds.book.hashed("owner", "ann") for each in (one, other)}
        assert len(names) == 2
        await trio.lowlevel.checkpoint()


NO_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
)


async def test_an_answer_that_nobody_waits_for_any_more_is_let_go() -> None:
    """1. A client begins a run and leaves. 2. What comes is no stream, and nobody is there to take it."""
    async with ground(LOGS + 'unwatched = "1h"\n') as g:
        reader = await g.ask()
        peer, _ = await g.taken()
        reader.close()
        await settle(lambda: not any(run.viewers for run in g.relay.worker.feeds.book.runs))
        await peer.send(NO_STREAM)
        await peer.ended()
        await settle(lambda: not len(g.relay.worker.feeds))


async def test_an_answer_whose_reader_leaves_is_let_go() -> None:
    """1. What comes is no stream. 2. Its reader leaves in the middle."""
    async with ground(LOGS + 'unwatched = "1h"\n') as g:
        reader = await g.ask()
        peer, _ = await g.taken()
        await peer.send(NO_STREAM)
        await reader.head()
        reader.close()
        await peer.ended()
        await settle(lambda: not len(g.relay.worker.feeds))
