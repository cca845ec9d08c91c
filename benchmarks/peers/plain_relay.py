"""The baseline: the plain Trio + h11 relay that one writes in an afternoon.

Every chunk goes through h11 on both sides and through SocketStream; a child task watches for the
client's end.

Usage: python -m benchmarks.peers.plain_relay LISTEN ORIGIN
"""

import sys
from functools import partial

import h11
import trio

READ = 65536  # bytes
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade"}
idle: list[tuple[trio.SocketStream, h11.Connection]] = []  # upstream connections kept alive


async def next_event(stream: trio.SocketStream, conn: h11.Connection) -> h11.Event:
    """The next h11 event of that side."""
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            conn.receive_data(await stream.receive_some(READ))
        elif isinstance(event, h11.Event):
            return event
        else:  # PAUSED: nothing to come in this cycle
            return h11.ConnectionClosed()


def passed_on(fields: h11._headers.Headers) -> list[tuple[bytes, bytes]]:
    """The end-to-end fields, as they were framed."""
    kept = [(name, value) for name, value in fields if name not in HOP_BY_HOP]
    if any(name == b"transfer-encoding" for name, _ in fields):
        kept.append((b"transfer-encoding", b"chunked"))
    return kept


async def upload(
    client: trio.SocketStream, ours: h11.Connection, up: trio.SocketStream, theirs: h11.Connection
) -> None:
    """The request body, event by event."""
    while True:
        event = await next_event(client, ours)
        if isinstance(event, (h11.Data, h11.EndOfMessage)):
            await up.send_all(theirs.send(event) or b"")
        if not isinstance(event, h11.Data):
            return


async def watch(client: trio.SocketStream, scope: trio.CancelScope) -> None:
    """End the exchange when the client leaves; pipelined bytes are left in the kernel."""
    while True:
        await trio.lowlevel.wait_readable(client.socket)
        try:
            gone = not await client.socket.recv(1, trio.socket.MSG_PEEK)
        except OSError:
            gone = True
        if gone:
            scope.cancel()
        await trio.sleep(0.05)


async def exchange(
    client: trio.SocketStream, ours: h11.Connection, request: h11.Request, port: int
) -> bool:
    """One request and its response; tells whether the client connection goes on."""
    up, theirs = (
        idle.pop()
        if idle
        else (await trio.open_tcp_stream("127.0.0.1", port), h11.Connection(h11.CLIENT))
    )
    fields = [*passed_on(request.headers), (b"x-forwarded-for", b"127.0.0.1")]
    head = h11.Request(method=request.method, target=request.target, headers=fields)
    await up.send_all(theirs.send(head) or b"")
    reusable = False
    try:
        async with trio.open_nursery() as nursery:

            async def client_side() -> None:
                await upload(client, ours, up, theirs)
                await watch(client, nursery.cancel_scope)

            nursery.start_soon(client_side)
            while True:
                event = await next_event(up, theirs)
                if isinstance(event, h11.Response):
                    event = h11.Response(
                        status_code=event.status_code, headers=passed_on(event.headers)
                    )
                if isinstance(event, (h11.Response, h11.Data, h11.EndOfMessage)):
                    await client.send_all(ours.send(event) or b"")
                if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    break
            nursery.cancel_scope.cancel()
        if ours.our_state is h11.DONE and ours.their_state is h11.DONE:
            ours.start_next_cycle()
            reusable = theirs.our_state is h11.DONE and theirs.their_state is h11.DONE
            return True
        return False
    finally:
        if reusable:
            theirs.start_next_cycle()
            idle.append((up, theirs))
        else:
            await trio.aclose_forcefully(up)


async def connection(port: int, client: trio.SocketStream) -> None:
    """A client connection, request after request."""
    ours = h11.Connection(h11.SERVER)
    try:
        while isinstance(request := await next_event(client, ours), h11.Request):
            if not await exchange(client, ours, request, port):
                break
    except* (trio.BrokenResourceError, h11.ProtocolError, OSError):
        pass  # either side broke: the connection ends here
    finally:
        await trio.aclose_forcefully(client)


async def main(listen: int, origin: int) -> None:
    serve = partial(connection, origin)
    await trio.serve_tcp(serve, listen, host="127.0.0.1", backlog=4096)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
