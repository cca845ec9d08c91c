"""Streams in Redis: any node serves any stream; what Redis does, or stops doing, costs no reader at its owner anything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from relay.stores.redis_link import command
from tests.guarantees.redis_server import Redis, redis, shared_redis, watched
from tests.guarantees.redis_setup import certificates, nodes, store
from tests.guarantees.resume_setup import CHAT, LOGS, ROUTE, Ground, Reader, event
from tests.harness import EVENT_HEAD, LIMIT, Upstream, running, settle
from tests.interop.processes import start_relay

BODY = b'{"id":"c1"}'


@pytest.fixture
def shared() -> Redis:
    """For the tests that leave it as it is; each has keys of its own."""
    return shared_redis()


async def test_a_stream_is_joined_resumed_and_replayed_on_another_node(shared: Redis) -> None:
    async with nodes(shared.url, streams='prefix = "a:"\n') as (a, b):
        first, peer = await a.begun()
        await peer.send(event(1) + event(2))
        await first.until(2)
        second = await b.read()
        assert second.run == first.run
        await second.until(2)
        assert second.ids == first.ids
        await peer.send(event(3))
        await second.until(3)
        second.close()
        third = await b.read(path="/at/7", cursor=first.ids[1])
        await third.until(1)
        assert third.data == ["3"]
        await peer.send(event(4) + b"0\r\n\r\n")
        await third.rest()
        assert third.ended == "clean"
        assert third.data == ["3", "4"]
        last = await b.read(path="/at/7")
        await last.rest()
        assert last.data == ["1", "2", "3", "4"]


@pytest.mark.parametrize("size", [100, 64 * 1024, 200_000])
async def test_events_of_any_size(shared: Redis, size: int) -> None:
    async with nodes(shared.url, streams=f'prefix = "s{size}:"\n') as (a, b):
        _, peer = await a.begun()
        away = await b.read()
        sent = [f"{number}-{'x' * size}" for number in range(5)]
        await peer.send(b"".join(map(event, sent)) + b"0\r\n\r\n")
        await away.rest()
        late = await b.read(path="/at/7")
        await late.rest()
        assert away.data == late.data == sent


async def test_a_run_is_stopped_from_another_node(shared: Redis) -> None:
    resume = LOGS + "stop = true\n"
    async with nodes(shared.url, resume, streams='prefix = "b:"\n') as (a, b):
        first, peer = await a.begun()
        second = await b.read()
        await peer.send(event(1))
        await second.until(1)
        stopped = await b.read("DELETE", "/at/7")
        assert stopped.status == 204
        await peer.ended()
        for reader in (first, second):
            await reader.rest()
            assert reader.codes == ["stopped"]


async def test_readers_elsewhere_keep_a_run_alive(shared: Redis) -> None:
    """1. Its own reader leaves; the one elsewhere reads on. 2. That one leaves too: the upstream stops."""
    resume = LOGS + 'unwatched = "0s"\n'
    async with nodes(shared.url, resume, streams='prefix = "c:"\n') as (a, b):
        first, peer = await a.begun()
        second = await b.read()
        [run] = a.relay.worker.feeds.book.runs
        await settle(lambda: run.elsewhere == 1)
        first.close()
        await settle(lambda: not run.viewers)
        await peer.send(event(1))
        await second.until(1)
        second.close()
        await peer.ended()


async def test_a_repetition_on_another_node_joins_before_the_head_is_there(shared: Redis) -> None:
    resume = CHAT + 'unwatched = "1s"\n'
    async with nodes(
        shared.url, resume, path="/chat", method="POST", streams='prefix = "d:"\n'
    ) as (
        a,
        b,
    ):
        first = await a.ask("POST", "/chat", body=BODY)
        peer, _ = await a.taken()
        second = await b.ask("POST", "/chat", body=BODY)
        await settle(lambda: any(r.elsewhere for r in a.relay.worker.feeds.book.runs))
        await peer.send(EVENT_HEAD + event(1) + b"0\r\n\r\n")
        for reader in (first, second):
            await reader.head()
            await reader.rest()
            assert reader.data == ["1"]
        assert first.run == second.run


async def test_a_key_goes_to_the_run_begun_last(shared: Redis) -> None:
    """Different questions in one chat: the address shows the last one, on every node."""
    resume = CHAT + 'unwatched = "1h"\n'
    async with nodes(
        shared.url, resume, path="/chat", method="POST", streams='prefix = "e:"\n'
    ) as (
        a,
        b,
    ):
        older, _ = await a.begun("POST", "/chat", body=b'{"id":"c1","n":1}')
        newer, _ = await b.begun("POST", "/chat", body=b'{"id":"c1","n":2}')
        for node in (a, b):
            reader = await node.read(path="/chat/c1/stream")
            assert reader.run == newer.run != older.run


async def test_what_is_somebody_elses_is_not_there(shared: Redis) -> None:
    async with nodes(shared.url, CHAT, path="/chat", method="POST", streams='prefix = "f:"\n') as (
        a,
        b,
    ):
        first, _ = await a.begun("POST", "/chat", body=b'{"id":"quux"}', user="ann")
        foreign = await b.read(path="/chat/quux/stream", user="bob")
        by_cursor = await b.read(path="/chat/quux/stream", user="bob", cursor=f"{first.run}-0")
        nothing = await b.read(path="/chat/none/stream", user="bob")
        assert foreign.status == by_cursor.status == nothing.status == 404
        for key in shared.cli("KEYS", "f:*").split():
            assert "ann" not in key and "quux" not in key


async def test_connections_do_not_depend_on_viewers(shared: Redis) -> None:
    async with nodes(shared.url, streams='prefix = "g:"\n') as (a, b):
        _, peer = await a.begun()
        await b.read()
        before = shared.cli("CLIENT", "LIST").count("\n")
        readers = [await b.read() for _ in range(30)]
        await peer.send(event(1))
        for reader in readers:
            await reader.until(1)
        assert shared.cli("CLIENT", "LIST").count("\n") <= before


async def test_what_is_over_is_not_found_and_leaves_redis(shared: Redis) -> None:
    resume = LOGS + 'keep = "100ms"\n'
    async with nodes(shared.url, resume, streams='prefix = "h:"\n') as (a, b):
        for number in range(5):
            reader, peer = await a.begun(path=f"/logs/{number}")
            away = await b.read(path=f"/at/{number}")
            await peer.send(event(1) + b"0\r\n\r\n")
            await away.rest()
            await reader.rest()
        with trio.fail_after(LIMIT):
            while (await b.read(path="/at/4")).status != 404:  # noqa: ASYNC110 - a clock
                await trio.sleep(0.05)
        for key in shared.cli("KEYS", "h:*").split():
            # Half a minute more for readers, a minute for the clocks to differ; and nothing for ever.
            assert 0 < int(shared.cli("PTTL", key)) <= 61_000, key
        assert not len(a.relay.worker.feeds.book)
        assert not len(b.relay.worker.feeds.elsewhere or ())


async def test_a_redis_that_is_killed_costs_nobody_at_the_owner_and_is_filled_again() -> None:
    """1. Redis dies with all it held. 2. The owner's readers go on. 3. It is back: another node has the whole stream."""
    with redis() as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            await peer.send(event(1))
            await first.until(1)
            server.kill()
            for number in range(2, 20):
                await peer.send(event(number))
            await first.until(19)
            server.start()
            [run] = a.relay.worker.feeds.book.runs
            assert run.journal is not None
            journal = run.journal
            await settle(lambda: journal.stored and server.cli("KEYS", "relay:run:*") != "")
            await peer.send(event(20))
            await first.until(20)
            await _joins(b, [str(number) for number in range(1, 21)])
            assert a.relay.worker.feeds.elsewhere is not None
            assert sum(a.relay.worker.feeds.elsewhere.store.errors.values())


async def test_a_full_redis_costs_nobody_at_the_owner_and_gets_the_rest_later() -> None:
    with redis("--maxmemory-policy", "noeviction") as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            await peer.send(event(1))
            await first.until(1)
            [run] = a.relay.worker.feeds.book.runs
            journal = run.journal
            assert journal is not None
            server.cli("CONFIG", "SET", "maxmemory", "1")
            await peer.send(event(2) + event(3))
            await first.until(3)
            await settle(lambda: not journal.stored)
            await trio.sleep(5)  # longer than a lease that is not renewed
            server.cli("CONFIG", "SET", "maxmemory", "0")
            await settle(lambda: journal.stored)
            await peer.send(event(4))
            await first.until(4)
            assert run.under_way
            await _joins(b, ["1", "2", "3", "4"])


@pytest.mark.parametrize("size", [1, 200_000])
async def test_what_redis_refuses_in_the_middle_is_no_hole(size: int) -> None:
    """1. Of events on their way Redis refuses one and takes the next. 2. Everybody elsewhere has all of them, in order."""
    with redis("--maxmemory-policy", "noeviction") as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            second = await b.read()
            sent = [f"{number}{'x' * size}" for number in range(4)]
            await peer.send(event(sent[0]))
            await second.until(1)
            link = a.relay.worker.feeds.elsewhere.store.link  # type: ignore[union-attr]
            server.pause()
            for limit, number in ((b"1", 1), (b"0", 2)):  # in this order, on one connection
                link.say(command("CONFIG", "SET", "maxmemory", limit), lambda _: None)
                await peer.send(event(sent[number]))
                await first.until(number + 1)
            server.go_on()
            await peer.send(event(sent[3]) + b"0\r\n\r\n")
            for reader in (first, second):
                await reader.rest()
                assert reader.data == sent
            late = await b.read(path="/at/7")
            await late.rest()
            assert late.data == sent


async def test_an_end_behind_events_that_redis_refused_is_not_put_down_before_them() -> None:
    """1. Redis refuses the last event, and takes the end that comes behind it. 2. No reader takes the rest for the whole."""
    with redis("--maxmemory-policy", "noeviction") as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            second = await b.read()
            await peer.send(event(1))
            await second.until(1)
            link = a.relay.worker.feeds.elsewhere.store.link  # type: ignore[union-attr]
            server.pause()
            link.say(command("CONFIG", "SET", "maxmemory", "1"), lambda _: None)
            await peer.send(event(2))
            await first.until(2)
            link.say(command("CONFIG", "SET", "maxmemory", "0"), lambda _: None)
            await peer.send(b"0\r\n\r\n")
            await first.rest()
            server.go_on()
            await second.rest()
            assert (second.data, second.ended) == (["1", "2"], "clean")


@pytest.mark.parametrize("room", [True, False])
async def test_an_end_that_a_fail_over_loses_is_there_again(room: bool) -> None:
    """1. Redis has half a stream. 2. The rest and its end come, and nobody reads it any more. 3. Redis comes back as it was
    before. 4. Who asks elsewhere has all of it. Where its owner needed the room for others meanwhile it has what there
    was, and an end that says so."""
    with redis() as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            whole, other = await a.begun(path="/logs/8")
            for each in (peer, other):
                await each.send(event(1) + event(2))
            for reader in (first, whole):
                await reader.until(2)
            for path in ("/at/7", "/at/8"):
                await (await b.read(path=path)).until(2)
            server.cli("SAVE")
            await peer.send(event(3) + b"0\r\n\r\n")
            await other.send(b"0\r\n\r\n")
            for reader in (first, whole):
                await reader.rest()
            book = a.relay.worker.feeds.book
            await settle(lambda: all(run.journal and run.journal.stored for run in book.runs))
            if not room:
                book.limits = book.limits._replace(space=1)
                book.grown(0)
                assert not book.runs
            server.kill()
            server.start()
            cut, late = [await _answers(b, path) for path in ("/at/7", "/at/8")]
            await cut.rest()
            await late.rest()
            assert (late.data, late.ended) == (["1", "2"], "clean")
            if room:
                assert (cut.data, cut.ended) == (["1", "2", "3"], "clean")
            else:
                assert (cut.data[:2], cut.codes, cut.ended) == (["1", "2"], ["lost"], "cut")


async def test_a_silent_stream_is_there_again_after_redis_was_emptied() -> None:
    """1. A stream has its head and no event, one has not even that. 2. Redis dies with all it held. 3. Readers elsewhere
    are told nothing for longer than a lease, and then the events."""
    with redis() as server:
        async with nodes(server.url) as (a, b):
            _, peer = await a.begun()
            second = await b.read(path="/at/7")
            server.kill()
            server.start()
            await settle(lambda: server.cli("KEYS", "relay:head:*") != "")
            with trio.move_on_after(7) as waited:
                await second.some()
            assert waited.cancelled_caught
            await peer.send(event(1) + b"0\r\n\r\n")
            await second.rest()
            assert (second.data, second.ended) == (["1"], "clean")


async def test_a_redis_that_stands_still_for_longer_than_a_lease_ends_no_run() -> None:
    with redis() as server:
        async with nodes(server.url) as (a, b):
            first, peer = await a.begun()
            second = await b.read()
            await peer.send(event(1))
            await second.until(1)
            server.pause()
            await peer.send(event(2))
            await first.until(2)
            await trio.sleep(7)
            server.go_on()
            await peer.send(event(3))
            await second.until(3)
            assert second.data == ["1", "2", "3"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_owner_dies(shared: Redis, how: signal.Signals) -> None:
    """Its readers elsewhere are told within seconds; one that was only stopped adds nothing when it comes back."""
    upstream = await Upstream.open()
    prefix = f'prefix = "o{how}:"\n'
    listen = '[server]\nlisten = "${LISTEN}"\n'
    config = store(shared.url, prefix) + ROUTE.format(
        url=upstream.url, path="/logs/{id}", method="GET", route="", resume=LOGS, more=""
    )
    try:
        with start_relay(listen + config) as owner:
            async with running(config) as relay:
                b = Ground([relay], upstream)
                own = await trio.open_tcp_stream("127.0.0.1", owner.port)
                await own.send_all(b"GET /logs/7 HTTP/1.1\r\nHost: a\r\n\r\n")
                peer, _ = await b.taken()
                await peer.send(EVENT_HEAD + event(1))
                got = b""
                while b"data: 1" not in got:
                    got += await own.receive_some(65536)
                reader = await b.read(path="/at/7")
                await reader.until(1)
                os.kill(owner.pid, how)
                with trio.fail_after(LIMIT):
                    await reader.rest()
                assert reader.codes == ["lost"]
                if how == signal.SIGSTOP:
                    await peer.send(event(2))
                    os.kill(owner.pid, signal.SIGCONT)
                    await peer.ended()  # it has learned that its run has ended
                late = await b.read(path="/at/7", cursor=reader.ids[0])
                assert late.status == 200, late.peer.buffer
                await late.rest()
                assert late.codes == ["lost"]
                await own.aclose()
    finally:
        upstream.close()


async def test_tls_and_a_user_with_the_least_rights(tmp_path: Path) -> None:
    cert, key, authority = certificates(tmp_path)
    rights = "~relay:* -@all +auth +select +ping +hello +client|setname +client|id"
    rights += " +script|load +evalsha +eval +xadd +xread +xrange +xrevrange +xdel +xsetid"
    rights += " +pexpire +pttl +set +get +del +exists +hset +hsetnx +hget +hmget +zadd"
    rights += " +zrem +zrange +zcard +zremrangebyscore +time"
    options = ["--tls-port", "0", "--user", "relay", "on", ">secret", *rights.split()]
    with redis(*options) as server:
        port = server.port + 1 if server.port < 65535 else server.port - 1
        server.cli("CONFIG", "SET", "tls-cert-file", cert)
        server.cli("CONFIG", "SET", "tls-key-file", key)
        server.cli("CONFIG", "SET", "tls-ca-cert-file", authority)
        server.cli("CONFIG", "SET", "tls-auth-clients", "no")
        if server.cli("CONFIG", "SET", "tls-port", str(port)) != "OK":
            pytest.fail("this redis-server has no TLS")
        url = f"rediss://relay:secret@127.0.0.1:{port}/0?ca={authority}"
        async with nodes(url, LOGS + "stop = true\n") as (a, b):
            first, peer = await a.begun()
            second = await b.read()
            await peer.send(event(1))
            await second.until(1)
            assert (await b.read("DELETE", "/at/7")).status == 204
            await first.rest()
            for node in (a, b):
                assert node.relay.worker.feeds.elsewhere is not None
                assert node.relay.worker.feeds.elsewhere.store.errors == {}


async def test_a_fail_over_that_loses_the_last_events_loses_no_reader_any() -> None:
    """1. The replica stops following, so what comes now is lost with the master. 2. The master dies. 3. It is
    written again."""
    with watched() as servers:
        async with nodes(servers.url) as (a, b):
            first, peer = await a.begun()
            second = await b.read()
            await peer.send(event(1))
            await second.until(1)
            servers.servers[1].pause()
            for number in range(2, 12):
                await peer.send(event(number))
            await second.until(11)
            await trio.to_thread.run_sync(servers.servers[0].kill)
            servers.servers[1].go_on()
            await trio.to_thread.run_sync(servers.fail_over)
            await peer.send(event(12))
            await first.until(12)
            with trio.fail_after(4 * LIMIT):
                while len(second.events) < 12:
                    await second.some()
            assert second.data == [str(number) for number in range(1, 13)]
            await _joins(b, [str(number) for number in range(1, 13)])


async def _answers(node: Ground, path: str) -> Reader:
    """The stream at `path`, once the node knows it."""
    with trio.fail_after(LIMIT):
        while True:
            reader = await node.read(path=path)
            if reader.status == 200:
                return reader
            reader.close()
            await trio.sleep(0.1)


async def _joins(node: Ground, wanted: list[str]) -> Reader:
    """A reader that comes now has all of it; the node may need a moment until its own connection is back."""
    with trio.fail_after(LIMIT):
        while True:
            reader = await node.ask(path="/at/7")
            await reader.head()
            if reader.status == 200:
                await reader.until(len(wanted))
                assert reader.data == wanted
                return reader
            reader.close()
            await trio.sleep(0.1)
