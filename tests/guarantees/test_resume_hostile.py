"""Requests and moments that are meant to harm a resumable route: each ends as the contract says, and leaves nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
import trio

from relay.observing.ending import Cause
from tests.guarantees.resume_setup import LOGS, MEMORY, ONE_PROCESS, chat, event, ground, keeping
from tests.harness import EVENT_HEAD, chunked, settle

GONE = "A" * 22 + "-3"
BODY = b'{"id":"a"}'


@pytest.fixture(autouse=True, params=["memory", "dir", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each holds whatever keeps the streams, and whoever of those that share it is asked."""
    with keeping(request.param):
        yield request.param


@pytest.mark.parametrize("unwatched", ["0s", "30s", "off"])
@pytest.mark.parametrize("first", ["client", "head"])
async def test_an_answer_that_is_no_stream_and_that_nobody_waits_for_is_let_go(
    unwatched: str, first: str
) -> None:
    """1. A client begins a run. 2. It leaves, before or after a 404 has come whose body goes on. 3. Nobody will read that
    body: the upstream is closed, whatever `unwatched` says, and nothing is kept."""
    async with chat(f'unwatched = "{unwatched}"\n') as g:
        book, feeds = g.relay.worker.feeds.book, g.relay.worker.feeds
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        if first == "client":
            reader.close()
            await settle(lambda: not any(run.viewers for run in book.runs))
        if unwatched != "0s" or first != "client":
            await peer.send(b"HTTP/1.1 404 no\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        if first == "head":
            await reader.head()
            reader.close()
        await peer.ended()
        await settle(lambda: not len(feeds))
        assert (len(book), book.bytes) == (0, 0)


class Meanwhile(trio.abc.Instrument):
    """Does something between the step that brought a head and that of the feed which waited for it."""

    def __init__(self, act: object) -> None:
        self.act = act
        self.armed = False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if self.armed and task.name.endswith("Feeds._live"):
            self.armed = False
            self.act()  # type: ignore[operator]


@pytest.mark.parametrize(
    "head", [EVENT_HEAD, b"HTTP/1.1 404 no\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
async def test_a_head_that_comes_in_the_step_of_a_stop_is_too_late(head: bytes) -> None:
    """1. A run waits for its head. 2. The head comes, and in the same step the run is stopped. 3. It stays stopped: its
    client is told so, the key is free, the upstream is closed, and nothing is kept under the key."""
    async with chat() as g:
        book = g.relay.worker.feeds.book
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        await settle(lambda: bool(book.runs))
        [run] = book.runs
        meanwhile = Meanwhile(lambda: run.stop(Cause.STOPPED))
        trio.lowlevel.add_instrument(meanwhile)
        try:
            meanwhile.armed = True
            await peer.send(head)
            await reader.head()
            await reader.rest()
        finally:
            trio.lowlevel.remove_instrument(meanwhile)
        assert not meanwhile.armed
        assert (reader.status, reader.codes, reader.ended) == (200, ["stopped"], "clean")
        await peer.ended()
        assert (len(book), book.bytes, book.current(run.key)) == (0, 0, None)
        assert (await g.read(path="/chat/a/stream")).status == 404


async def test_what_a_slow_reader_still_reads_counts_after_its_time() -> None:
    """1. A run ends and its time is over. 2. Its readers are slow: they read its events still. 3. These take room like any
    other: they count against `space`, and are the first to shrink when it is needed. 4. With the last reader they go."""
    mib = 1 << 20
    server = f"[streams]\nspace = {4 * mib}\n"
    async with ground(LOGS + 'keep = "0s"\nlog = "1MiB"\n', server=server) as g:
        book = g.relay.worker.feeds.book
        readers = []
        for number in range(6):
            reader = await g.ask(path=f"/logs/{number}")
            peer, _ = await g.taken()
            await peer.send(EVENT_HEAD)
            reader.peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            await reader.head()
            readers.append(reader)
            for _ in range(60):
                await peer.send(event("x" * 100_000))
            await peer.send(b"0\r\n\r\n")
            await peer.ended()
            await settle(lambda: not len(g.relay.worker.feeds))
            await settle(lambda: not book.runs)
            assert 0 < book.bytes <= 4 * mib
        for reader in readers:
            reader.close()
        await settle(lambda: book.bytes == 0)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("fields", "query", "left"),
    [
        (f"Last-Event-ID: {GONE}\r\n", "", b""),
        (f"Last-Event-ID: up-1\r\nLast-Event-ID: {GONE}\r\n", "", b"last-event-id: up-1"),
        (f"Last-Event-ID: {GONE}\r\nLast-Event-ID: up-1\r\n", "", b"last-event-id: up-1"),
        ("", f"?last_event_id=up-1&lastEventId={GONE}", b"/logs/7?last_event_id=up-1 "),
        ("", f"?last_event_id={GONE}&x=1&last_event_id=up-1", b"?x=1&last_event_id=up-1 "),
        ("", f"?last%5Fevent%5fid={GONE.replace('-', '%2D')}&a&b=", b"/logs/7?a&b= "),
        ("Last-Event-ID: up-1\r\n", f"?lastEventId={GONE}", b"last-event-id: up-1"),
        ("Last-Event-ID: up-1\r\n", f"?last_event_id=5&lastEventId={GONE}", b"?last_event_id=5 "),
        ("Last-Event-ID: -1\r\n", "?last_event_id=", b"/logs/7 "),
        ("", "?last_event_id=-1", b"/logs/7 "),
    ],
)
async def test_a_cursor_of_ours_never_reaches_the_upstream(
    method: str, fields: str, query: str, left: bytes
) -> None:
    """Wherever it stands, however it is written, beside whatever else; what is not ours goes as it came."""
    async with ground() as g:
        await g.ask(method, "/logs/7" + query, fields=fields)
        _, head = await g.taken()
        assert GONE[:22].encode() not in head
        assert left in head
        if not left:
            assert b"last-event-id" not in head


@pytest.mark.parametrize("user", ["ann", None])
async def test_a_body_that_is_too_large_to_be_looked_at_opens_no_other_door(
    user: str | None,
) -> None:
    """What cannot begin a run begins none, what is nobody's is refused, and the address of a stream asks no source."""
    body = b'{"id":"%s"}' % (b"a" * 100)
    async with chat('max_body = "10B"\n') as g:
        for method in ("GET", "DELETE"):
            reader = await g.read(method, "/chat/a/stream", body=body, user=user)
            assert reader.status == (413 if user else 403)
        reader = await g.read("POST", "/chat", body=body, cursor=GONE, user=user)
        if user:
            await reader.rest()
            assert (reader.status, reader.codes, reader.ended) == (200, ["run_gone"], "clean")
        else:
            assert reader.status == 403
            assert (await g.read("POST", "/chat", body=body, user=None)).status == 403


@pytest.mark.parametrize("where", ["/logs/7", "/at/7"])
@ONE_PROCESS
async def test_a_cursor_of_a_run_that_is_gone_is_no_way_round_the_bound_on_viewers(
    where: str,
) -> None:
    """1. A run has as many viewers as it may. 2. Somebody comes with a cursor of no run. 3. He is one too many, and the
    upstream is not asked a second time."""
    async with ground(LOGS + "viewers = 1\n") as g:
        await g.begun()
        reader = await g.read(path=where, cursor=GONE)
        assert (reader.status, reader.fields["retry-after"]) == (429, "5")
        assert len(g.relay.worker.feeds.book) == 1


@ONE_PROCESS
async def test_an_address_that_has_its_streams_begins_no_run() -> None:
    """1. An address has as many streams as it may. 2. It asks for another, not saying that it wants events. 3. The refusal
    comes before the upstream is asked: nobody would read that run."""
    server = "[limits]\nstreams_per_address = 1\n"
    async with ground(LOGS, server=server) as g:
        reader, _ = await g.begun()
        for path in ("/logs/8", "/logs/7", "/at/7"):
            assert (await g.read(path=path)).status == 429
        assert len(g.relay.worker.feeds.book) == 1
        reader.close()
        await settle(lambda: not any(run.viewers for run in g.relay.worker.feeds.book.runs))
        again = await g.read(path="/at/7")
        assert again.status == 200


async def test_what_one_client_has_already_is_not_asked_for_all() -> None:
    """1. The client that begins a run has a copy, or wants a part. 2. The upstream is asked without: its 304, or its part,
    would be nothing to those who join."""
    asks = "If-None-Match: x\r\nIf-Modified-Since: y\r\nIf-Range: z\r\n"
    asks += "Range: bytes=5-\r\nX-Kept: 1\r\n"
    async with ground() as g:
        await g.ask(fields=asks)
        _, head = await g.taken()
        head = head.lower()
        assert b"x-kept: 1" in head
        assert b"\r\nif-" not in head and b"\r\nrange" not in head


@pytest.mark.parametrize("status", [b"200 OK", b"404 no"])
async def test_no_cache_in_front_is_told_to_keep_it(status: bytes) -> None:
    """Fields that some caches obey before Cache-Control, on a stream and on what is none."""
    said = (
        b"Cache-Control: max-age=60\r\nCDN-Cache-Control: max-age=60\r\nSurrogate-Control: max-age=60\r\n"
        b"X-Accel-Expires: 60\r\nExpires: Thu, 01 Dec 2044 16:00:00 GMT\r\nX-Other: 1\r\n\r\n"
    )
    async with ground() as g:
        reader = await g.ask()
        peer, _ = await g.taken()
        await peer.send(EVENT_HEAD.replace(b"200 OK", status)[:-2] + said)
        _, fields = await reader.head()
        assert fields["x-other"] == "1"
        assert fields["cache-control"] == "no-store, no-transform"
        assert not [name for name in fields if "expires" in name or name.endswith("e-control")][1:]


async def test_the_end_that_is_told_again_has_the_head_of_the_stream() -> None:
    """A reader that asks behind the last event of a run that broke: the AI SDK needs the upstream's field to read it."""
    async with chat() as g:
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        await peer.send(EVENT_HEAD[:-2] + b"X-Vercel-AI-UI-Message-Stream: v1\r\n\r\n" + event(1))
        await reader.head()
        await reader.until(1)
        peer.close()
        await reader.rest()
        again = await g.read("POST", "/chat", body=BODY, cursor=reader.ids[0])
        await again.rest()
        assert again.codes == ["upstream_broke"]
        same = ("relay-run", "content-location", "content-type", "x-vercel-ai-ui-message-stream")
        assert [again.fields[name] for name in same] == [reader.fields[name] for name in same]


@pytest.mark.parametrize("path", ["/logs/%ff", "/logs/a%00", "/logs/%0a", "/logs/" + "x" * 257])
async def test_a_key_in_the_routes_own_path_must_be_fit_too(path: str) -> None:
    async with ground() as g:
        assert (await g.read(path=path)).status == 400
        assert not len(g.relay.worker.feeds.book)


async def test_a_key_that_is_no_unicode_is_refused_and_not_taken_for_missing() -> None:
    async with chat() as g:
        assert (await g.read("POST", "/chat", body=b'{"id":"\\ud800"}')).status == 400


@pytest.mark.parametrize("viewers", [1, 3])
@ONE_PROCESS
async def test_a_read_that_brings_more_than_the_log_holds_overtakes_nobody_who_waits(
    viewers: int,
) -> None:
    """1. A log holds a few events. 2. One read brings many. 3. Who has all there is gets every one of them: nobody was
    slow. Who comes later is told of the hole."""
    async with ground(LOGS + 'log = "1KiB"\n') as g:
        first, peer = await g.begun()
        readers = [first, *[await g.read() for _ in range(viewers - 1)]]
        await settle(
            lambda: sum(len(run.fanout) for run in g.relay.worker.feeds.book.runs) == viewers
        )
        await peer.send(b"".join(event(f"{n} {'x' * 100}") for n in range(200)))
        for reader in readers:
            await reader.until(200)
            assert [int(data.split()[0]) for data in reader.data] == list(range(200))
        late = await g.read(path="/at/7", cursor=f"{first.run}-1")
        await late.until(2)
        assert late.codes == ["gap"]


async def test_a_mark_in_the_middle_is_none_at_the_beginning_either() -> None:
    """1. A line in the middle of a stream begins with the bytes of a byte order mark, so it is no `data` line. 2. A reader
    that comes back gets that event first, where the bytes would be dropped as a mark. 3. It reads the same event."""
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + chunked(b"\xef\xbb\xbfdata: no\ndata: two\n\n"))
        await reader.until(2)
        again = await g.read(cursor=reader.ids[0])
        await again.until(1)
        assert reader.data[1:] == again.data == ["two"]


@pytest.mark.parametrize("dialect", ["plain", "off"])
async def test_a_slow_reader_is_told_what_it_has_missed_and_costs_nobody_else_anything(
    dialect: str,
) -> None:
    """1. A reader joins behind event 1 and reads some more. 2. It stops reading, and is overtaken. 3. The gap names the last
    event that it was given, not the one it once asked behind; where nothing is said, there is none. 4. The run goes on."""
    async with ground(LOGS + 'log = "64KiB"\n', route=f'dialect = "{dialect}"') as g:
        quick, peer = await g.begun()
        await peer.send(event("1 ") + event("2 "))
        await quick.until(2)
        slow = await g.ask(cursor=quick.ids[0])
        slow.peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await slow.head()
        await slow.until(1)
        for start in range(3, 6003, 50):
            batch = range(start, start + 50)
            await peer.send(b"".join(event(f"{n} {'x' * 1000}") for n in batch))
            await quick.until(start + 49)
        await peer.send(b"0\r\n\r\n")
        await slow.rest()
        assert slow.ended == "clean"
        numbers = [int(data.split()[0]) for data in slow.data if data[0] != "{"]
        holes = [at for at, number in enumerate(numbers[1:]) if number != numbers[at] + 1]
        assert holes
        said = [json.loads(data) for data in slow.data if data[0] == "{"]
        assert [(gap["requested"], gap["first"]) for gap in said] == (
            []
            if dialect == "off"
            else [
                (f"{quick.run}-{numbers[hole]}", f"{quick.run}-{numbers[hole + 1]}")
                for hole in holes
            ]
        )
        assert numbers[-1] == 6002


@ONE_PROCESS
async def test_nobody_is_called_public() -> None:
    """1. Two routes share a path, and so the keys below it: what one has is everybody's, what the other has a user's.
    2. A user calls himself `public`. 3. He does not read what is everybody's under a key of his own, nor do they his."""
    more = """
[[routes]]
path = "/logs/{id}"
methods = ["POST"]
upstream = "backend"
[routes.resume]
principal = "{cookie.user}"
key = "{id}"
"""
    async with ground('principal = "public"\nkey = "{id}"\n', more=more) as g:
        await g.begun()
        mine = await g.ask("POST", body=b"{}", user="public")
        peer, head = await g.taken()
        assert head.startswith(b"POST ")
        await peer.send(EVENT_HEAD)
        await mine.head()
        owners = {run.key for run in g.relay.worker.feeds.book.runs}
        assert len(owners) == 2


async def test_a_run_that_is_lost_before_its_head_does_not_look_whole() -> None:
    async with chat() as g:
        reader = await g.ask("POST", "/chat", body=BODY)
        await g.taken()
        g.relay.worker.feeds.lose()
        await reader.head()
        await reader.rest()
        assert (reader.status, reader.codes, reader.ended) == (200, ["lost"], "cut")


@ONE_PROCESS
async def test_a_fault_of_relays_own_costs_one_run_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("relay.exchange.worker.RouteState.bring", broken)
    async with chat() as g:
        reader = await g.ask("POST", "/chat", body=BODY)
        await reader.head()
        await reader.rest()
        assert (reader.status, reader.codes, reader.ended) == (200, ["fault"], "cut")
        assert len(g.relay.faults) == 1
        g.relay.faults.clear()
        assert not len(g.relay.worker.feeds.book)


@MEMORY
async def test_a_key_with_many_runs_is_looked_up_at_once() -> None:
    """1. One client posts message after message under one key; each is a run that is kept. 2. What a request looks at does
    not grow with them."""
    async with chat() as g:
        for number in range(20):
            reader, peer = await g.begun("POST", "/chat", body=b'{"id":"a","n":%d}' % number)
            await peer.send(b"0\r\n\r\n")
            await reader.rest()
        book = g.relay.worker.feeds.book
        [key] = {run.key for run in book.runs}
        assert (len(book.below(key)), len(book.candidates(key))) == (20, 0)
        await g.ask("POST", "/chat", body=b'{"id":"a","n":99}')
        await g.taken()
        assert len(book.candidates(key)) == 1
