"""A TLS upstream on the engine: `ssl.SSLSocket`, driven by the same step as a plain socket.

Rules
  * Edge-triggered, and one record may hide behind another: a short read proves nothing. `readable`
    becomes false when a recv wanted more bytes, or when neither OpenSSL nor the kernel holds any:
    OpenSSL without read-ahead takes from the kernel no byte behind the record it is in. Asking both
    costs 1 µs, a recv that wants more 4 µs, and one of them would follow every event.
  * A read may want to write and a write may want to read (KeyUpdate; renegotiation is switched off
    in `upstreams.dial`): the other direction's readiness then counts for it.
  * An end of the connection without close_notify is a truncation and therefore `Gone`, never b"":
    on a body that lasts until the close it would otherwise make a cut answer look whole (RFC 9112
    §9.8).
  * OpenSSL wants a write that it could not finish repeated with the same bytes. We hand it one
    record at a time, and whoever got a short count offers the rest again, so that holds.
"""

from __future__ import annotations

import select
import ssl

import trio

from relay.observing.ending import Side
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import READ_SIZE, Gone

RECORD = 16 * 1024  # bytes of plaintext in the largest TLS record (RFC 8446 §5.1)

# Every recv lands here first, as in SocketWire: allocating a record for each small event costs
# more.
_BUFFER = bytearray(RECORD)
_VIEW = memoryview(_BUFFER)


class TlsWire(SocketWire):
    """A connected, non-blocking `ssl.SSLSocket` with `suppress_ragged_eofs=False`.

    Resource handling: owns the socket, like SocketWire. `close` sends no close_notify, because it never waits; the
        upstream misses nothing, because every request had a length of its own.
    """

    __slots__ = ("_asked_write", "_kernel", "_read_needs_write", "_write_needs_read", "tls")

    def __init__(self, sock: ssl.SSLSocket, engine: Engine, alarms: Alarms) -> None:
        super().__init__(sock, engine, alarms, Side.UPSTREAM)
        self.tls = sock  # the same object as `sock`, by its own type
        self._kernel = select.poll()  # this socket alone, never waited on
        self._kernel.register(self.fd, select.POLLIN)
        self._asked_write = False  # what want_write was last told
        self._read_needs_write = False
        self._write_needs_read = False

    async def handshake(self) -> None:
        """Finish the handshake.

        Raises: OSError (ssl.SSLError is one). Cancellation: the wire is dead afterwards.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self.closed:
                raise OSError("closed during the TLS handshake")
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.readable = False
                self._reader = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_read)
            except ssl.SSLWantWriteError:
                await self._wait_writable()
            else:
                break
        self.readable = True  # the first record may have come in with the handshake's last

    def recv_nowait(self, limit: int = READ_SIZE) -> bytes | None:
        """What is there, at most one record: bytes, b"" after close_notify, None for nothing yet.

        Raises: Gone, also for an end without close_notify.
        """
        try:
            size = self.tls.recv_into(_BUFFER, min(limit, RECORD))
        except ssl.SSLWantReadError:
            self.readable = False
            return None
        except ssl.SSLWantWriteError:
            self.readable = False
            self._read_needs_write = True
            self._want_write_for_either()
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except OSError:
            raise Gone from None
        self.readable = self.tls.pending() > 0 or bool(self._kernel.poll(0))
        return _VIEW[:size].tobytes()

    def pending(self) -> int:
        """Bytes that are decrypted and not yet received; no epoll tells of them."""
        return self.tls.pending()

    def send_nowait(self, data: bytes | memoryview) -> int:
        """How many bytes were taken, whole records at a time. Raises: Gone."""
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += self.tls.send(view[sent : sent + RECORD])
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLWantReadError:
            self._write_needs_read = True
        except OSError:
            raise Gone from None
        return sent

    def want_write(self, wanted: bool) -> None:
        self._asked_write = wanted
        self._want_write_for_either()

    def _want_write_for_either(self) -> None:
        super().want_write(self._asked_write or self._read_needs_write)

    def half_close(self) -> None:
        """Does nothing.

        Half-closing TLS is sending close_notify, and `SSLSocket.unwrap`, the only way to it, reads
        and throws away what the other end is still sending. A plain shutdown instead would be an
        attack in the peer's eyes. A tunnel over TLS therefore ends when the upstream closes, or
        with its idle clock.
        """

    def ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT and self._read_needs_write:
            self._read_needs_write = False
            self._want_write_for_either()
            mask |= select.EPOLLIN
        if mask & select.EPOLLIN and self._write_needs_read:
            self._write_needs_read = False
            mask |= select.EPOLLOUT
        super().ready(mask)
