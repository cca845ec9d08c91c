"""The kinds of pump: which one moves a body, and how a client sees that one was not whole."""

from __future__ import annotations

from relay.exchange.chunk_pump import ChunkPump
from relay.exchange.epoll_pump import EpollPump
from relay.exchange.transfer import Transfer
from relay.exchange.trio_pump import TrioPump
from relay.exchange.worker import Worker
from relay.feeds.socket_viewer import SocketViewer
from relay.feeds.stream_viewer import StreamViewer
from relay.feeds.viewer import Viewer
from relay.flows.chunks_flow import ChunksFlow
from relay.observing.ending import Cause
from relay.wires.client_wire import ClientWire, on_engine
from relay.wires.delayed_cut import Cut, reset
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Source

Pump = EpollPump | TrioPump | SocketViewer | StreamViewer


def pump_for(
    transfer: Transfer, upstream: Source, client: ClientWire, worker: Worker
) -> EpollPump | TrioPump:
    """The pump for a body: of the engine, where both ends are sockets on it."""
    if on_engine(upstream) and on_engine(client):
        flow = transfer.flow
        plain = type(upstream) is SocketWire and type(client) is SocketWire
        if plain and isinstance(flow, ChunksFlow):
            return ChunkPump(transfer, flow, upstream, client, worker.engine, worker.alarms)
        return EpollPump(transfer, upstream, client, worker.engine, worker.alarms)
    return TrioPump(transfer, upstream, client, worker.alarms)


def cut_of(body: Transfer | Viewer, client: ClientWire, unframed: bool) -> Cut:
    """How a client comes to see that its body is not whole: fewer bytes than promised, no last chunk, or else a reset. One
    that was told already needs none. One that has left, or stopped reading, is waited for no longer: it is reset here.
    """
    if body.ending is not None and body.ending.cause in (Cause.LEFT, Cause.STALLED):
        reset(client)
    return Cut.RESET if unframed and not body.told else Cut.UNFINISHED
