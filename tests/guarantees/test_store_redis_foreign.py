"""What stands in Redis under relay's names and is not what relay wrote costs that run, and nobody else."""

from __future__ import annotations

import secrets

import pytest
import trio

from relay.flows.event_log import End
from relay.observing.ending import COMPLETE
from relay.stores.store import Sealed
from relay.stores.written import as_json, written_end
from tests.guarantees.redis_server import shared_redis
from tests.guarantees.redis_setup import nodes
from tests.guarantees.resume_setup import event
from tests.harness import LIMIT

END = as_json(written_end(Sealed(End(clean=True), COMPLETE, 0, 0.0))).decode()
TOLD = ["XADD", "wake:PROCESS", "*", "e", "RUN"]
FOREIGN: dict[str, list[list[str]]] = {
    "a card that is none": [["HSET", "head:RUN", "card", "[]"]],
    "a card of another version": [["HSET", "head:RUN", "card", '{"version":9}']],
    "fields that split the answer": [["HSET", "head:RUN", "fields", r'[["a","b\r\nc: d"]]']],
    "fields that are deep": [["HSET", "head:RUN", "fields", "[" * 100_000]],
    "an end that is none": [["HSET", "head:RUN", "sealed", "{}"]],
    "an end that is none, and its owner is told": [["HSET", "head:RUN", "sealed", "{}"], TOLD],
    "an end at no event": [["HSET", "head:RUN", "sealed", END], TOLD],
    "a head of another kind": [["DEL", "head:RUN"], ["SET", "head:RUN", "x"]],
    "events of another kind": [["DEL", "run:RUN"], ["SET", "run:RUN", "x"]],
    "the runs of a key of another kind": [["DEL", "below:KEY"], ["SET", "below:KEY", "x"]],
    "a key of another kind": [["DEL", "key:KEY"], ["SET", "key:KEY", "x"]],
    "a size below zero": [["XADD", "run:RUN", "9-0", "d", "-6\r\n-6\r\n"]],
    "no chunk": [["XADD", "run:RUN", "9-0", "d", "data: 9\n\n"]],
    "another field": [["XADD", "run:RUN", "9-0", "x", "y"]],
    "a second head": [["XADD", "run:RUN", "9-0", "h", "nonsense"]],
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_is_not_ours_costs_that_run_alone(name: str) -> None:
    """
    1. A run of one node; another node reads it.
    2. Somebody writes something else under a name of relay's.
    3. Who asks the other node for that run gets an answer, and no split one; its readers at the owner go on.
    4. Another run of the same nodes is read as ever, and no fault was met.
    """
    server, prefix = shared_redis(), secrets.token_hex(4) + ":"
    async with nodes(server.url, streams=f'prefix = "{prefix}"\n') as (a, b):
        first, peer = await a.begun()
        await peer.send(event(1))
        await first.until(1)
        away = await b.read()
        await away.until(1)
        run = server.cli("KEYS", f"{prefix}head:*").removeprefix(f"{prefix}head:")
        key = server.cli("HGET", f"{prefix}head:{run}", "key")
        process = server.cli("HGET", f"{prefix}head:{run}", "process")
        names = {"RUN": run, "KEY": key, "PROCESS": process}
        for command, place, *values in FOREIGN[name]:
            kind, _, whose = place.partition(":")
            words = [names.get(value, value) for value in values]
            server.cli(command, f"{prefix}{kind}:{names[whose]}", *words)
        with trio.fail_after(LIMIT):
            asked = await b.read(path="/at/7")
        assert asked.status in (200, 404, 503)
        assert "c" not in asked.fields
        await peer.send(event(2))
        await first.until(2)
        other, its = await a.begun(path="/logs/8")
        joined = await b.read(path="/at/8")
        await its.send(event("x"))
        await other.until(1)
        await joined.until(1)
        for node in (a, b):
            elsewhere = node.relay.worker.feeds.elsewhere
            assert elsewhere is not None
            assert "fault" not in elsewhere.store.errors
        for reader in (first, away, asked, other, joined):
            reader.close()
