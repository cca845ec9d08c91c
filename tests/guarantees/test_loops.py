"""The promise: a request that comes back to the relay that sent it ends there, with a 508, and not a hundred requests
deep. Real processes: the workers of one relay know each other's requests, another relay's are none of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guarantees.relay_processes import relay, upstream
from tests.harness import RawPeer, route_to
from tests.interop.processes import free_port, start_relay

GET = b"GET / HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n\r\n"


async def answer_of(port: int) -> bytes:
    client = await RawPeer.connect(port)
    await client.send(GET)
    answer = await client.rest()
    client.close()
    return answer


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_a_relay_that_is_its_own_upstream(workers: int, unix: bool, tmp_path: Path) -> None:
    """The request goes out once, is seen when it comes back, and is not sent again."""
    port = free_port()
    address = f"unix:{tmp_path}/relay.sock" if unix else f"127.0.0.1:{port}"
    url = address if unix else f"http://{address}"
    listen = f"127.0.0.1:{port}"
    more = f'[server]\nlisten = ["{listen}", "unix:{tmp_path}/relay.sock"]\nworkers = {workers}\n'
    with start_relay(route_to(url, more=more)) as server:
        for _ in range(10):  # whichever worker the kernel gives it to
            answer = await answer_of(port)
            assert answer.startswith(b"HTTP/1.1 508 ")
            assert b'"code": "loop_detected"' in answer
        server.wait_for_record(lambda record: record["at"] == "end")
    ends = [record for record in server.records if record["at"] == "end"]
    assert len(ends) == 20
    assert sum(record["ending"] == "refused" for record in ends) == 10


async def test_two_relays_that_send_to_each_other() -> None:
    ports = free_port(), free_port()
    texts = [
        route_to(f"http://127.0.0.1:{there}", more=f'[server]\nlisten = "127.0.0.1:{here}"\n')
        for here, there in (ports, ports[::-1])
    ]
    with start_relay(texts[0]), start_relay(texts[1]):
        assert (await answer_of(ports[0])).startswith(b"HTTP/1.1 508 ")


async def test_a_relay_behind_a_relay_is_no_loop() -> None:
    """Both have the same name in Via."""
    async with upstream() as up:
        with relay(up) as inner:
            text = route_to(inner.url, more='[server]\nlisten = "${LISTEN}"\n')
            with start_relay(text) as outer:
                client = await RawPeer.connect(outer.port)
                await client.send(GET)
                peer, head = await up.request()
                assert head.lower().count(b"via: 1.1 relay-") == 2
                await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert (await client.head()).startswith(b"HTTP/1.1 204 ")
