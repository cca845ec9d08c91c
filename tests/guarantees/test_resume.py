"""A reader that comes back misses nothing, many readers share one upstream, anybody entitled can stop it: row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.guarantees.admin_setup import admin
from tests.guarantees.resume_setup import LOGS, OURS, STORES, chat, event, ground, keeping
from tests.harness import EVENT_HEAD, chunked, settle


@pytest.fixture(autouse=True, params=list(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each row holds whatever keeps the streams, and whoever of those that share it is asked."""
    with keeping(request.param):
        yield request.param


BODY = b'{"id":"c1","text":"hello"}'
OTHER = b'{"id":"c1","text":"another"}'
LAST = chunked(b"data: last\n\n") + b"0\r\n\r\n"


async def test_a_run_and_its_first_viewer() -> None:
    async with ground() as g:
        reader = await g.ask()
        peer, head = await g.taken()
        assert b"accept-encoding: identity" in head.lower()
        await peer.send(
            EVENT_HEAD.replace(
                b"\r\n\r\n",
                b"\r\nX-Kept: yes\r\nSet-Cookie: a=1\r\nVary: Origin\r\nETag: x\r\nCache-Control: public\r\n"
                b"Set_Cookie: b=2\r\n\r\n",
            )
        )
        status, fields = await reader.head()
        assert status == 200
        assert fields["content-type"] == "text/event-stream"
        assert fields["cache-control"] == "no-store, no-transform"
        assert fields["x-accel-buffering"] == "no"
        assert fields["incremental"] == "?1"
        assert fields["content-location"] == "/at/7"
        assert fields["x-kept"] == "yes"
        assert fields["set-cookie"] == "a=1"  # of who began
        assert not fields.keys() & {"vary", "etag"}
        assert len(fields["relay-run"]) == 22
        await peer.send(event("one") + event("two"))
        await reader.until(2)
        assert reader.data == ["one", "two"]
        assert reader.ids == [f"{reader.run}-1", f"{reader.run}-2"]
        later = await g.read()
        assert "set-cookie" not in later.fields
        assert "set_cookie" not in fields.keys() | later.fields.keys()
        assert later.run == reader.run
        await later.until(2)
        await peer.send(LAST)
        for each in (reader, later):
            await each.rest()
            assert each.data == ["one", "two", "last"]
            assert each.ended == "clean"


async def test_a_reader_that_comes_back_gets_the_rest_and_the_upstream_is_asked_once() -> None:
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + event(2) + event(3))
        await reader.until(2)
        reader.close()
        await peer.send(event(4))
        again = await g.read(cursor=f"{reader.run}-2")
        await peer.send(LAST)
        await again.rest()
        assert again.data == ["3", "4", "last"]
        assert again.ids[0] == f"{reader.run}-3"


async def test_the_cursor_may_stand_in_the_query() -> None:
    async with ground() as g:
        reader, peer = await g.begun(path="/logs/7?tail=5")
        await peer.send(event(1) + event(2))
        await reader.until(2)
        again = await g.read(path=f"/logs/7?tail=5&lastEventId={reader.run}-1")
        await again.until(1)
        assert again.data == ["2"]


async def test_two_that_come_before_the_head_share_one_request() -> None:
    async with ground() as g:
        first = await g.ask()
        peer, _ = await g.taken()
        second = await g.ask()
        await settle(lambda: any(run.viewers + run.elsewhere == 2 for run in g.runs))
        await peer.send(EVENT_HEAD + LAST)
        for each in (first, second):
            await each.head()
            assert await each.rest()
            assert each.data == ["last"]


async def test_another_target_is_another_candidate() -> None:
    async with ground() as g:
        _, _ = await g.begun(path="/logs/7?a=1")
        _, _ = await g.begun(path="/logs/7?a=2")
        assert len(g.runs) == 2


@pytest.mark.parametrize("who", ["begun", "joined"])
async def test_what_is_no_stream_goes_to_all_who_wait_as_it_is(who: str) -> None:
    async with chat() as g:
        first = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        readers = [first]
        if who == "joined":
            readers.append(await g.ask("POST", "/chat", body=BODY))
            await settle(lambda: any(run.viewers + run.elsewhere == 2 for run in g.runs))
        await peer.send(
            b"HTTP/1.1 422 No\r\nContent-Type: application/json\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\n{}"
        )
        for each in readers:
            status, fields = await each.head()
            assert status == 422
            assert await each.body() == b"{}"
            assert fields["cache-control"] == "no-store, no-transform"
            assert ("set-cookie" in fields) == (who == "begun")
        await settle(lambda: not g.streams and not g.runs)


async def test_a_second_message_that_is_refused_leaves_the_first_alone() -> None:
    async with chat() as g:
        first, peer = await g.begun("POST", "/chat", body=BODY)
        refused = await g.ask("POST", "/chat", body=OTHER)
        other, _ = await g.taken()
        await other.send(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n")
        assert (await refused.head()).status == 422
        joined = await g.read("GET", "/chat/c1/stream")
        assert joined.run == first.run
        await peer.send(LAST)
        await joined.rest()


async def test_who_repeats_himself_joins_and_is_not_billed_twice() -> None:
    async with chat() as g:
        first, peer = await g.begun("POST", "/chat", body=BODY)
        await peer.send(event(1))
        again = await g.read("POST", "/chat", body=BODY)
        assert again.run == first.run
        await again.until(1)
        line = await g.line(at="start", how="join")
        assert line["run"] == first.run
        await peer.send(LAST)
        await again.rest()
        newer, _ = await g.begun("POST", "/chat", body=BODY)  # what has ended is asked again
        assert newer.run != first.run


async def test_what_has_ended_clean_is_replayed_where_the_route_keeps_repeats() -> None:
    async with chat('repeats = "kept"\n') as g:
        first, peer = await g.begun("POST", "/chat", body=BODY)
        await peer.send(LAST)
        await first.rest()
        again = await g.read("POST", "/chat", body=BODY)
        assert await again.rest()
        assert (again.run, again.data) == (first.run, ["last"])


async def test_a_newer_run_takes_the_key_and_the_older_goes_on() -> None:
    async with chat() as g:
        old, old_peer = await g.begun("POST", "/chat", body=BODY)
        new, new_peer = await g.begun("POST", "/chat", body=OTHER)
        joined = await g.read("GET", "/chat/c1/stream")
        assert joined.run == new.run
        resumed = await g.read("GET", "/chat/c1/stream", cursor=f"{old.run}-1")
        assert resumed.run == old.run
        await old_peer.send(event(1) + LAST)
        await new_peer.send(LAST)
        assert [e.data for e in await resumed.rest()] == ["last"]
        await old.rest()
        assert old.data == ["1", "last"]


async def test_finished_and_seen_to_the_end() -> None:
    """A POST is over for good: 204 at its address, a comment and a clean end for the POST that asks again."""
    async with chat() as g:
        reader, peer = await g.begun("POST", "/chat", body=BODY)
        await peer.send(LAST)
        await reader.rest()
        cursor = f"{reader.run}-1"
        done = await g.read("GET", "/chat/c1/stream", cursor=cursor)
        assert (done.status, done.fields["cache-control"]) == (204, "no-store, no-transform")
        posted = await g.read("POST", "/chat", body=BODY, cursor=cursor)
        assert posted.status == 200
        assert await posted.rest() == []
        assert (posted.payload, posted.ended) == (b":\n", "clean")
        replayed = await g.read("GET", "/chat/c1/stream")
        await replayed.rest()
        assert replayed.data == ["last"]


async def test_live_only_has_nothing_to_say_of_what_has_ended() -> None:
    async with chat("live_only = true\n") as g:
        assert (await g.read("GET", "/chat/c1/stream")).status == 204
        reader, peer = await g.begun("POST", "/chat", body=BODY)
        joined = await g.read("GET", "/chat/c1/stream")
        await peer.send(LAST)
        assert [e.data for e in await joined.rest()] == ["last"]
        await reader.rest()
        assert (await g.read("GET", "/chat/c1/stream")).status == 204


async def test_a_get_without_a_marker_is_asked_again() -> None:
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(LAST)
        await reader.rest()
        again, _ = await g.begun(cursor=f"{reader.run}-1")
        assert again.run != reader.run


async def test_a_finished_job_is_replayed_and_then_204() -> None:
    async with ground(route='complete_when = "[DONE]"') as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await reader.rest()
        again = await g.read()
        await again.rest()
        assert again.data == ["1", "[DONE]"]
        assert (await g.read(cursor=f"{reader.run}-2")).status == 204


@pytest.mark.parametrize("dialect", ["plain", "named", "openai", "anthropic", "ai-sdk"])
async def test_a_truncation_never_becomes_a_clean_end_by_reconnecting(dialect: str) -> None:
    async with ground(route=f'dialect = "{dialect}"\nafter_error = "abort"') as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + b"c\r\ndata: half an")
        await reader.until(1)
        peer.close()
        await reader.rest()
        assert reader.ended == "cut"
        assert reader.ids[-1] == f"{reader.run}-end"
        said = reader.payload.partition(b"-1\n\n")[2]
        assert b"half" not in said
        for cursor in (f"{reader.run}-1", f"{reader.run}-9"):
            late = await g.read("GET", "/at/7", cursor=cursor)
            await late.rest()
            assert (late.payload, late.ended) == (said, "cut")
        whole = await g.read("GET", "/at/7", cursor=f"{reader.run}-0")
        assert whole.status in (200, 404)


async def test_a_silent_upstream_has_the_code_that_it_has_on_any_route() -> None:
    """1. the upstream says one event 2. and no more 3. the reader is told `upstream_silent`, not a refusal's code."""
    async with ground(route='event_idle = "100ms"') as g:
        reader, peer = await g.begun()
        await peer.send(event(1))
        await reader.rest()
        assert reader.codes == ["upstream_silent"]


async def test_a_stop_ends_everything_below_the_key() -> None:
    async with chat() as g:
        reader, peer = await g.begun("POST", "/chat", body=BODY)
        await peer.send(event(1))
        await reader.until(1)
        stopped = await g.read("DELETE", "/chat/c1/stream")
        assert (stopped.status, stopped.fields["cache-control"]) == (204, "no-store, no-transform")
        await peer.ended()
        await reader.rest()
        assert reader.codes == ["stopped"]
        assert (await g.read("DELETE", "/chat/c1/stream")).status == 204
        assert (await g.read("DELETE", "/chat/c2/stream")).status == 404
        line = await g.line(at="run")
        assert line["ending"] == "stopped"


async def test_a_stop_before_the_head() -> None:
    async with ground(LOGS + "stop = true\n") as g:
        waiting = await g.ask()
        peer, _ = await g.taken()
        assert (await g.read("DELETE", "/at/7")).status == 204
        assert (await waiting.head()).status == 204
        await peer.ended()


async def test_a_stop_before_the_head_of_a_post() -> None:
    async with chat() as g:
        waiting = await g.ask("POST", "/chat", body=BODY)
        peer, _ = await g.taken()
        assert (await g.read("DELETE", "/chat/c1/stream")).status == 204
        await waiting.head()
        await waiting.rest()
        assert (waiting.status, waiting.codes, waiting.ended) == (200, ["stopped"], "clean")
        await peer.ended()


async def test_a_stop_of_one_run_by_its_id() -> None:
    async with chat() as g:
        old, old_peer = await g.begun("POST", "/chat", body=BODY)
        _, new_peer = await g.begun("POST", "/chat", body=OTHER)
        assert (await g.read("DELETE", f"/chat/c1/stream?run={old.run}")).status == 204
        await old_peer.ended()
        await new_peer.send(LAST)


async def test_a_stop_that_the_route_does_not_know_is_405() -> None:
    async with ground() as g:
        await g.begun()
        assert (await g.read("DELETE", "/at/7")).status == 405


async def test_an_eventsource_that_reconnects_after_a_stop_begins_nothing() -> None:
    async with ground(LOGS + "stop = true\n") as g:
        reader, peer = await g.begun()
        await peer.send(event(1))
        await reader.until(1)
        assert (await g.read("DELETE", "/at/7")).status == 204
        await reader.rest()
        assert (await g.read(cursor=reader.ids[-1])).status == 204


@pytest.mark.parametrize("where", ["/logs/7", "/at/7"])
async def test_a_cursor_that_names_nothing(where: str) -> None:
    """Of a run that is gone, malformed, ahead, ten kilobytes, somebody else's: never upstream, never silently."""
    async with ground() as g:
        for cursor in (
            "A" * 22 + "-5",
            "A" * 22 + "-07",
            "A" * 22 + "-../../x",
            "A" * 22 + "-" + "9" * 9000,
        ):
            if where == "/at/7":
                assert (await g.read(path=where, cursor=cursor)).status == 404
                continue
            reader = await g.ask(path=where, cursor=cursor)
            peer, head = await g.taken()
            assert b"last-event-id" not in head.lower()
            await peer.send(EVENT_HEAD + LAST)
            await reader.head()
            await reader.rest()
            assert reader.codes == ["gap"]
            assert reader.data[1:] == ["last"]


async def test_a_post_with_a_cursor_never_begins_a_run() -> None:
    async with chat() as g:
        gone = await g.read("POST", "/chat", body=BODY, cursor="A" * 22 + "-5")
        await gone.rest()
        assert (gone.codes, gone.ended) == (["run_gone"], "clean")
        assert not g.runs


async def test_a_foreign_last_event_id_goes_to_the_upstream_as_it_came() -> None:
    async with ground() as g:
        _ = await g.ask(cursor="their-own-17")
        _, head = await g.taken()
        assert b"last-event-id: their-own-17" in head.lower()


@pytest.mark.parametrize("cursor", ["", "-1"])
async def test_an_empty_cursor_is_none(cursor: str) -> None:
    async with ground() as g:
        _ = await g.ask(cursor=cursor)
        _, head = await g.taken()
        assert b"last-event-id" not in head.lower()


async def test_what_was_trimmed_is_a_gap() -> None:
    async with ground(LOGS + 'log = "300B"\n') as g:
        reader, peer = await g.begun()
        for number in range(1, 21):
            await peer.send(event(number))
        await reader.until(20)
        again = await g.read(cursor=f"{reader.run}-2")
        await peer.send(LAST)
        await again.rest()
        assert again.codes == ["gap"]
        first = int(OURS.fullmatch(again.ids[1])[2])  # type: ignore[index]
        assert f'"first":"{reader.run}-{first}"' in again.data[0]
        assert again.data[1:] == [*map(str, range(first, 21)), "last"]
        silent = await g.read(path="/at/7")
        await silent.rest()
        assert not silent.codes


async def test_a_hole_is_the_end_of_a_dialect_that_cannot_bear_it() -> None:
    async with ground(LOGS + 'log = "300B"\n', route='dialect = "ai-sdk"') as g:
        reader, peer = await g.begun()
        for number in range(1, 21):
            await peer.send(event(number))
        await reader.until(20)
        for again in (await g.read(cursor=f"{reader.run}-2"), await g.read(path="/at/7")):
            await again.rest()
            assert (len(again.events), again.codes, again.ended) == (1, ["error"], "clean")


async def test_nobody_watches_and_the_upstream_is_closed_in_time() -> None:
    async with ground(LOGS + 'unwatched = "50ms"\n') as g:
        reader, peer = await g.begun()
        await peer.send(event(1))
        await reader.until(1)
        reader.close()
        await peer.ended()
        line = await g.line(at="run")
        assert (line["ending"], line["viewers"], line["events"]) == ("unwatched", 1, 1)
        assert float(str(line["unwatched_ms"])) >= 40


async def test_with_nothing_unwatched_the_upstream_stops_with_its_last_viewer() -> None:
    async with ground(LOGS + 'unwatched = "0s"\n') as g:
        first, peer = await g.begun()
        second = await g.read()
        first.close()
        await peer.send(event(1))
        await second.until(1)
        second.close()
        await peer.ended()


async def test_a_run_goes_on_while_somebody_watches_wherever_that_is() -> None:
    """1. A run has a reader where it was begun, and one at another relay, if there is one. 2. The first leaves. 3. The run
    goes on, and stops with the last."""
    async with ground(LOGS + 'unwatched = "0s"\n') as g:
        first, peer = await g.begun(at=0)
        second = await g.read(at=-1)
        await settle(lambda: g.runs[0].viewers + g.runs[0].elsewhere == 2)
        first.close()
        await settle(lambda: g.runs[0].viewers + g.runs[0].elsewhere == 1)
        await peer.send(event(1))
        await second.until(1)
        second.close()
        await peer.ended()


async def test_what_is_gone_in_a_moment_is_joined_without_a_hole() -> None:
    """Readers join a flood at every relay in turn, at any moment of it."""
    async with ground() as g:
        first, peer = await g.begun()
        readers = [first]

        async def flood() -> None:
            for number in range(1, 3001):
                await peer.send(event(number))
            await peer.send(LAST)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for count in range(100, 2501, 200):
                await first.until(count)
                readers.append(await g.read(path="/at/7"))
            for reader in readers:
                nursery.start_soon(reader.rest)
        for reader in readers:
            assert reader.data == [*map(str, range(1, 3001)), "last"]
            assert reader.ids == [f"{first.run}-{n}" for n in range(1, 3002)]


async def test_a_reader_that_leaves_before_the_head_counts_as_unwatched() -> None:
    async with ground(LOGS + 'unwatched = "0s"\n') as g:
        waiting = await g.ask()
        peer, _ = await g.taken()
        waiting.close()
        await peer.ended()
        await settle(lambda: not len(g.relay.worker.feeds.book))


async def test_without_a_principal_nobody_is_somebody() -> None:
    async with chat() as g:
        refused = await g.read("POST", "/chat", body=BODY, user=None)
        assert refused.status == 403
        assert b"no_principal" in await refused.body()


async def test_what_is_foreign_is_not_found() -> None:
    async with chat() as g:
        reader, peer = await g.begun("POST", "/chat", body=BODY)
        await peer.send(event(1))
        await reader.until(1)
        answers = []
        for method, cursor in (("GET", None), ("GET", f"{reader.run}-1"), ("DELETE", None)):
            for key in ("c1", "c9"):
                eve = await g.read(method, f"/chat/{key}/stream", user="eve", cursor=cursor)
                answers.append((eve.status, await eve.body()))
        assert len(set(answers)) == 1
        assert answers[0][0] == 404
        stolen = await g.read("POST", "/chat", body=BODY, user="eve", cursor=f"{reader.run}-0")
        await stolen.rest()
        assert stolen.codes == ["run_gone"]
        await peer.send(LAST)
        await reader.rest()
        assert reader.data == ["1", "last"]


async def test_a_key_must_be_fit_for_an_address() -> None:
    async with chat() as g:
        for key in ("..", "a/../b", "x" * 257, "\\u0000"):
            refused = await g.read("POST", "/chat", body=b'{"id":"%b"}' % key.encode())
            assert refused.status == 400, key
            assert b"bad_key" in await refused.body()


async def test_an_event_that_is_too_large_ends_the_run() -> None:
    async with ground(route='limits = { max_event = "1KiB" }') as g:
        reader, peer = await g.begun()
        await peer.send(event(1) + chunked(b"data: " + b"x" * 5000))
        await reader.rest()
        assert reader.codes == ["event_too_large"]
        assert reader.data[0] == "1"


async def test_comments_and_empty_blocks_are_not_logged() -> None:
    async with ground() as g:
        reader, peer = await g.begun()
        await peer.send(
            chunked(
                b": ping\n\n", b"id: up-7\n\n", b"id: up-8\ndata: a\n\n", b":\n\ndata: b\r\n\r\n"
            )
        )
        await reader.until(2)
        assert reader.ids == [f"{reader.run}-1", f"{reader.run}-2"]
        assert b"id: up-8\ndata: a\nid: %b-1\n\n" % reader.run.encode() in reader.payload
        assert b"data: b\r\nid: %b-2\r\n\r\n" % reader.run.encode() in reader.payload
        assert b"ping" not in reader.payload


async def test_relay_asks_a_broken_upstream_again_behind_its_last_id() -> None:
    async with ground(LOGS + "reconnect = 2\n") as g:
        reader, peer = await g.begun()
        await peer.send(chunked(b"id: up-1\ndata: a\n\n") + b"30\r\nid: up-2\ndata: ha")
        await reader.until(1)
        peer.close()
        again, head = await g.taken()
        assert b"last-event-id: up-1\r\n" in head.lower()
        await again.send(EVENT_HEAD + chunked(b"id: up-2\ndata: b\n\n") + b"0\r\n\r\n")
        await reader.rest()
        assert (reader.data, reader.ended) == (["a", "b"], "clean")
        assert reader.ids == [f"{reader.run}-1", f"{reader.run}-2"]


async def test_too_many_viewers_are_told_so() -> None:
    async with ground(LOGS + "viewers = 2\n") as g:
        await g.begun(at=0)
        await g.read(at=0)
        third = await g.read(at=0)  # counted in each process
        assert (third.status, "retry-after" in third.fields) == (429, True)


async def test_runs_finish_in_a_drain_and_what_is_left_is_lost(store: str) -> None:
    if store != "memory":
        pytest.skip("there viewers are sent to those who share the store")
    async with ground(server='[timeouts]\ndrain = "1s"\n') as g:
        finishing, peer = await g.begun(path="/logs/1")
        lasting, _ = await g.begun(path="/logs/2")
        g.relay.server.stop()
        await peer.send(LAST)
        await finishing.rest()
        assert (finishing.data, finishing.ended) == (["last"], "clean")
        await lasting.rest()
        assert (lasting.codes, lasting.ended) == (["lost"], "cut")
        with trio.fail_after(10):
            await g.relay.stopped.wait()


async def test_nothing_is_left_behind() -> None:
    """Runs that begin, are joined, left, stopped, broken and forgotten leave no task, socket or descriptor."""
    async with ground(LOGS + 'unwatched = "0s"\nstop = true\nkeep = "0s"\n') as g:
        for relay in g.relays:
            if relay.worker.feeds.elsewhere is not None:
                store: Any = relay.worker.feeds.elsewhere.store
                await store.swept.wait()  # it has files or sockets open
        before = g.relay.inventory()
        for number in range(30):
            reader, peer = await g.begun(path=f"/logs/{number}")
            joined = await g.read(path=f"/logs/{number}")
            await peer.send(event(1))
            await joined.until(1)
            match number % 4:
                case 0:
                    await peer.send(LAST)
                case 1:
                    peer.close()
                case 2:
                    await g.read("DELETE", f"/at/{number}")
            for each in (reader, joined):
                if number % 4 < 3:
                    await each.rest()
                each.close()
        for relay in g.relays:
            for client in relay.clients:
                client.close()
        await settle(lambda: not g.streams and not g.runs)
        await g.relay.nothing_left(before)
        for relay in g.relays:
            assert relay.worker.feeds.book.bytes == 0
            assert not relay.worker.feeds.elsewhere


async def test_head_begins_nothing() -> None:
    async with ground() as g:
        assert (await g.read("HEAD", "/at/7")).status == 404
        reader, _ = await g.begun()
        head = await g.read("HEAD", "/at/7")
        assert (head.status, head.run) == (200, reader.run)
        assert len(g.runs) == 1


async def test_no_key_and_no_principal_in_the_log() -> None:
    async with chat() as g:
        reader, peer = await g.begun("POST", "/chat", body=b'{"id":"se-cret"}', user="prin-cipal")
        await peer.send(LAST)
        await reader.rest()
        for at in ("start", "run", "end"):
            line = await g.line(at=at)
            assert "se-cret" not in str(line)
            assert "prin-cipal" not in str(line)
            assert line["run"] == reader.run


CORS = (
    'cors = { origins = ["https://app.example"], credentials = true, headers = ["Content-Type"] }'
)
ORIGIN = "Origin: https://app.example\r\n"


async def test_a_page_of_another_origin_may_resume_and_stop() -> None:
    async with chat(route=CORS) as g:
        asked = await g.read(
            "OPTIONS",
            "/chat/c1/stream",
            fields=ORIGIN
            + "Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: last-event-id\r\n",
        )
        assert asked.status == 204
        assert asked.fields["access-control-allow-methods"] == "DELETE, GET, HEAD"
        assert asked.fields["access-control-allow-headers"] == "content-type, last-event-id"
        reader = await g.ask("POST", "/chat", body=BODY, fields=ORIGIN)
        peer, _ = await g.taken()
        await peer.send(EVENT_HEAD + event(1))
        _, fields = await reader.head()
        assert fields["access-control-expose-headers"] == "relay-run, content-location, location"
        missing = await g.read("GET", "/chat/c9/stream", fields=ORIGIN)
        assert (missing.status, missing.fields["access-control-allow-origin"]) == (
            404,
            "https://app.example",
        )


async def test_a_body_that_is_too_large_to_be_looked_at_is_forwarded_all_the_same() -> None:
    async with chat('max_body = "16B"\n') as g:
        reader = await g.ask("POST", "/chat", body=BODY)
        peer, head = await g.upstream.request()
        assert await peer.exactly(len(BODY)) == BODY
        await peer.send(EVENT_HEAD + LAST)
        _, fields = await reader.head()
        await reader.rest()
        assert reader.data == ["last"]
        assert "relay-run" not in fields
        assert b"content-length: %d\r\n" % len(BODY) in head.lower()


async def test_a_coded_body_cannot_be_looked_at() -> None:
    async with chat() as g:
        refused = await g.read("POST", "/chat", body=BODY, fields="Content-Encoding: gzip\r\n")
        assert refused.status == 415


async def test_a_chunked_body_is_looked_at_and_goes_on_counted() -> None:
    async with chat() as g:
        peer = await g.relay.client()
        await peer.send(
            b"POST /chat HTTP/1.1\r\nHost: x\r\nCookie: user=ann\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert (await peer.head()).startswith(b"HTTP/1.1 100 ")
        await peer.send(chunked(BODY[:7], BODY[7:]) + b"0\r\n\r\n")
        up, head = await g.taken()
        assert b"content-length: %d\r\n" % len(BODY) in head.lower()
        assert b"transfer-encoding" not in head.lower()
        assert b"expect" not in head.lower()
        await up.send(EVENT_HEAD + LAST)
        assert b"content-location: /chat/c1/stream" in (await peer.head()).lower()


async def test_a_reader_of_http_1_0_gets_events_without_framing() -> None:
    async with ground() as g:
        peer = await g.relay.client()
        await peer.send(b"GET /logs/7 HTTP/1.0\r\n\r\n")
        up, _ = await g.taken()
        await up.send(EVENT_HEAD + event(1))
        await peer.head()
        await peer.until(b"-1\n\n")
        [run] = g.runs
        await settle(lambda: len(run.fanout) == 1)
        await up.send(event(2) + LAST)  # now it stands at the tail
        body = await peer.rest()
        assert body.count(b"data: ") == 2
        assert b"\r\n" not in body


async def test_a_key_with_a_slash_in_it() -> None:
    """1. The address of the stream is what its client was told. 2. Decoded it would be a path of the catch-all
    route, but no server besides relay ever reads it."""
    more = '[[routes]]\npath = "/chat/{rest...}"\nsource = "local"'
    async with chat(more=more) as g:
        first, peer = await g.begun("POST", "/chat", body=b'{"id":"team/1;v=2"}')
        await peer.send(event(1))
        address = first.fields["content-location"]
        assert address == "/chat/team%2F1%3Bv%3D2/stream"
        again = await g.read("GET", address)
        await again.until(1)
        assert (again.status, again.run) == (200, first.run)
        await peer.send(LAST)
        await again.rest()


async def test_runs_and_their_viewers_are_seen_and_stopped() -> None:
    async with chat() as g, admin(g.relay) as desk:
        first, peer = await g.begun("POST", "/chat", body=BODY, at=0)
        joined = await g.read("GET", "/chat/c1/stream", at=0)
        await peer.send(event(1))
        await first.until(1)
        await joined.until(1)
        streams = await desk.streams()
        [run] = [row for row in streams if row["kind"] == "run"]
        viewers = [row for row in streams if row["run"] == first.run and row["kind"] != "run"]
        assert (run["id"], run["viewers"], run["events"]) == (first.run, 2, 1)
        assert {row["path"] for row in viewers} == {"/chat", "/chat/{key}/stream"}
        text = (await desk.ask("/metrics")).body.decode()
        for line in (
            'relay_runs_active{route="/chat"} 1.0',
            'relay_viewers{route="/chat"} 2.0',
            'relay_joins_total{how="begin",route="/chat"} 1.0',
            'relay_joins_total{how="join",route="/chat"} 1.0',
        ):
            assert line in text
        [one] = [row["id"] for row in viewers if row["method"] == "GET"]
        assert (await desk.ask(f"/streams/{one}", method="DELETE")).status == 200
        await joined.rest()
        assert joined.ended == "cut"
        assert (await desk.ask(f"/streams/{first.run}", method="DELETE")).status == 200
        await first.rest()
        assert first.codes == ["stopped"]
        await peer.ended()


@pytest.mark.parametrize("dialect", ["plain", "openai"])
async def test_a_reconnection_time_goes_to_those_who_read_just_now(dialect: str) -> None:
    async with ground(route=f'dialect = "{dialect}"') as g:
        reader, peer = await g.begun()
        await peer.send(event(1))
        await reader.until(1)
        await settle(lambda: len(g.runs[0].fanout) == 1)
        await peer.send(chunked(b"retry: 1500\n\n") + LAST)
        await reader.rest()
        assert (b"retry: 1500\n" in reader.payload) == (dialect == "plain")
        assert reader.data == ["1", "last"]
        later = await g.read(path="/at/7")
        await later.rest()
        assert b"retry" not in later.payload
