"""What comes before the first request: the PROXY header, which says who the client is.

Rule: with `proxy_protocol = "on"` every connection of a trusted peer begins with a PROXY header and none of another peer
does; nothing is guessed (section 5 of the protocol's text). What is malformed is closed without an answer: whoever is
there may not speak HTTP.
"""

from __future__ import annotations

import trio

from relay.http import proxy_header
from relay.wires.wire import Wire


async def read_proxy_header(
    wire: Wire, within: float
) -> tuple[proxy_header.ProxyHeader | None, bytes] | None:
    """Take the header off a connection.

    Args:
        within: seconds until it must be whole.
    Returns: the header (None: the balancer's own connection) and the bytes behind it; None where the peer closed before.
    Raises: Fault, Expired, Gone.
    """
    wire.read_by = trio.current_time() + within
    data = b""
    while True:
        more = await wire.receive()
        if not more:
            return None
        data += more
        parsed = proxy_header.parse(data)
        if parsed is not None:
            header, used = parsed
            return header, data[used:]
