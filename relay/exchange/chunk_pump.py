"""The pump of a body that is chunked on both sides: its large chunks go from socket to socket, unseen.

    line before a large chunk ─► recv ─► pipe ─┐
    what is in it ──────────────────► splice ──┴─► client        (one step: four calls for a chunk, and no copy)

Rules
  * What is small goes the pump's usual way: four calls for each chunk cost more than to copy 32 KiB twice.
  * The client's chunks follow the upstream's where they are large, so a read may end in the middle of one of the client's.
    Whatever comes next ends it first (`ChunksFlow`); an upstream that breaks there leaves a body that is not whole.
"""

from __future__ import annotations

from typing import Final

from relay.exchange.epoll_pump import EpollPump
from relay.exchange.transfer import Transfer
from relay.flows.chunks_flow import ChunksFlow
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from relay.wires.splice import TAKE
from relay.wires.wire import READ_SIZE, Gone

_AT_ONCE: Final = 4  # chunks of a turn; of 64 KiB, as many servers write them, they are TAKE bytes


class ChunkPump(EpollPump):
    """Moves one body between two sockets without TLS."""

    __slots__ = ("_flow", "_target")

    def __init__(
        self,
        transfer: Transfer,
        flow: ChunksFlow,
        upstream: SocketWire,
        client: SocketWire,
        engine: Engine,
        alarms: Alarms,
    ) -> None:
        super().__init__(transfer, upstream, client, engine, alarms)
        self._flow = flow
        self._target = client  # the same wire as `_client`, known to be a socket

    def ready(self, mask: int) -> None:
        if self._flow.followed:
            self._upstream.ready(mask)  # which calls `_read`
        else:
            super().ready(mask)

    def _read(self) -> None:
        transfer = self._transfer
        if not self._flow.followed or transfer.asked is not None:
            super()._read()
        elif self._rest is None and not self._asked_turn and transfer.ending is None:
            self._follow()

    def _follow(self) -> None:
        for _ in range(_AT_ONCE):
            line = self._line()
            if line is None or not self._move_behind(line):
                return
        self._ask_turn()

    def _line(self) -> bytes | None:
        """What the client gets before the next piece that is spliced; b"": it is in the middle of a chunk. None: no such
        piece is next, and what came went another way."""
        flow = self._flow
        if flow.large:
            return flow.open()
        data = self._received(flow.between())
        if not data:
            if data is not None:
                self._took(data)  # the upstream's end
            return None
        line = flow.open()
        at = flow.follow(data)
        line += data[:at]
        if flow.large:
            return line
        self._usual(line, data[at:])
        return None

    def _usual(self, line: bytes, data: bytes) -> None:
        """No large chunk is next: `line` goes out as it came, and the rest the usual way."""
        transfer = self._transfer
        transfer.passed(self._flow, 0, self._engine.now)
        self._out(line)
        if data and transfer.ending is None:
            self._took(data)
        else:
            self._go_on()

    def _move_behind(self, line: bytes) -> bool:
        """The line of a large chunk and what is there of it. Returns: whether to go on."""
        transfer, flow = self._transfer, self._flow
        pipe, upstream, client = self._engine.pipe, self._upstream.sock, self._target.sock
        try:
            size, rest = pipe.move_behind(line, upstream, client, flow.wanted(TAKE))
        except Gone:
            transfer.left(unsent=True)
            self._client_gone()
            return False
        transfer.sent += len(line)
        transfer.passed(flow, size, self._engine.now)
        if rest:
            self._wait_for_client(memoryview(rest))
            return False
        if size:
            return True
        data = self._received(READ_SIZE)  # nothing is there, or it cannot be spliced
        if data is not None:
            self._took(data)
        return False
