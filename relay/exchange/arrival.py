"""What comes before the first request: the PROXY header, and the count of connections.

    accepted ─► (PROXY header: who the client is) ─► (one too many: 429) ─► heads

Rule: with `proxy_protocol = "on"` every connection of a trusted peer begins with a PROXY header and
none of another peer does; nothing is guessed (section 5 of the protocol's text). What is malformed
is closed without an answer: whoever is there may not speak HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from relay.exchange import admission
from relay.http import proxy_header
from relay.http.fault import Fault
from relay.http.forwarded import is_trusted
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired

if TYPE_CHECKING:
    from relay.exchange.connection import Connection

_LINGER = 0.5  # seconds for a request on its way, whose reset would destroy the refusal


def is_plain(connection: Connection) -> bool:
    """Whether there is nothing to do here, as by default."""
    worker = connection.worker
    if not isinstance(connection.wire, SocketWire):
        return True  # inside an ASGI server a "connection" is one request
    return not (worker.admission.counts_connections or worker.config.server.proxy_protocol)


async def arrive(connection: Connection) -> bool:
    """Find out who the client is, and count it; False: the connection is over.

    Raises: Gone.
    """
    worker = connection.worker
    trusted = is_trusted(connection.peer, worker.config.server.trusted_proxies)
    if trusted and worker.config.server.proxy_protocol:
        try:
            if not await _read_header(connection):
                return False
        except Expired:
            return False
        except Fault as fault:
            ending = Ending(Side.CLIENT, Phase.HEAD, Cause.BAD_REQUEST, fault.message)
            connection.note(ending)
            return False
        trusted = is_trusted(connection.peer, worker.config.server.trusted_proxies)
    if trusted or connection.peer is None or not worker.admission.counts_connections:
        return True
    if not worker.admission.connect(connection.peer, trio.current_time()):
        await connection.refuse(admission.too_many_connections())
        await connection.linger(_LINGER)
        return False
    connection.counted = connection.peer
    return True


async def _read_header(connection: Connection) -> bool:
    """Take the header off the connection. Raises: Fault, Expired, Gone."""
    wire = connection.wire
    wire.read_by = trio.current_time() + connection.worker.config.timeouts.request_head
    data = b""
    while True:
        more = await wire.receive()
        if not more:
            return False
        data += more
        parsed = proxy_header.parse(data)
        if parsed is not None:
            break
    header, used = parsed
    connection.pending = data[used:]
    if header is not None:  # None: the balancer's own connection
        connection.peer = header.source
        if header.tls:
            connection.scheme = b"https"
    return True
