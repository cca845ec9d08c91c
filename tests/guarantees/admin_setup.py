"""An admin listener beside a relay in the test's own process, and how it is asked."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from relay.admin.control import Control, LocalControl
from relay.admin.listener import serve_admin
from relay.config import loads
from tests.harness import RawPeer, Relay

Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass
class Response:
    """A whole response of the admin listener."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.json["error"]["code"])


class Admin:
    """The listener, as a client sees it. A connection for every request."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, path: str, method: str = "GET", fields: str = "") -> Response:
        peer = await RawPeer.connect(self.port)
        try:
            host = "" if "host:" in fields.lower() else f"Host: 127.0.0.1:{self.port}\r\n"
            await peer.send(f"{method} {path} HTTP/1.1\r\n{host}{fields}\r\n".encode())
            return await response(peer, method)
        finally:
            peer.close()

    async def metrics(self) -> dict[Sample, float]:
        """Every sample of a scrape, by name and labels."""
        text = (await self.ask("/metrics")).body.decode()
        return samples(text)

    async def streams(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("/streams")).json["streams"]
        return found


async def response(peer: RawPeer, method: str = "GET") -> Response:
    """The next response on a connection."""
    head = (await peer.head()).decode()
    first, *lines = head.rstrip().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    length = 0 if method == "HEAD" else int(fields["content-length"])
    return Response(int(first.split()[1]), fields, await peer.exactly(length))


def samples(text: str) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


@asynccontextmanager
async def admin(
    relay: Relay, token: str | None = None, control: Control | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Admin]:
    """An admin listener for `relay` until the block ends."""
    words = f'admin_token = "{token}"\n' if token is not None else ""
    config = loads(f'[server]\n{words}[[routes]]\npath = "/"\nsource = "local"\n', {})
    with socket.create_server((host, 0), backlog=128) as sock:
        async with trio.open_nursery() as nursery:
            reach = control or LocalControl(relay.server, 0.0)
            await nursery.start(serve_admin, sock, config, reach)
            yield Admin(sock.getsockname()[1])
            nursery.cancel_scope.cancel()
