"""Relays ("nodes") that share one Redis, with one upstream behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.guarantees.resume_setup import LOGS, ROUTE, Ground
from tests.harness import Upstream, running


def store(url: str, more: str = "") -> str:
    return f'[streams]\nstore = "{url}"\n{more}'


@asynccontextmanager
async def nodes(
    url: str,
    resume: str = LOGS,
    *,
    path: str = "/logs/{id}",
    method: str = "GET",
    streams: str = "",
    count: int = 2,
) -> AsyncIterator[list[Ground]]:
    """Relays with one store and one upstream."""
    upstream = await Upstream.open()
    try:
        config = store(url, streams) + ROUTE.format(
            url=upstream.url, path=path, method=method, route="", resume=resume, more=""
        )
        async with trio.open_nursery() as nursery:
            grounds: list[Ground] = []

            async def one(task_status: trio.TaskStatus[Ground]) -> None:
                async with running(config) as relay:
                    task_status.started(Ground([relay], upstream))
                    await trio.sleep_forever()

            for _ in range(count):
                grounds.append(await nursery.start(one))
            yield grounds
            nursery.cancel_scope.cancel()
    finally:
        upstream.close()


def certificates(folder: Path) -> tuple[str, str, str]:
    """A server's certificate, its key, and the authority to trust: paths."""
    import trustme

    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem")
