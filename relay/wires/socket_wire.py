"""A plain non-blocking socket on the engine: the wire of every TCP and unix connection on Linux.

State of the read side, each arrow with the function that does it:

    quiet ──ready(EPOLLIN)──► readable ──recv_nowait (short read)──► quiet
    any ──ready(EPOLLRDHUP)──► hung up (what was received before can still be read)
    any ──close──► closed

Edge-triggered: `readable` stays true until a recv came back short or empty, and the bytes that nobody wants yet stay
in the kernel. That is the backpressure and the bound of read-ahead; a hang-up is reported all the same, because the
kernel tells it apart from data (EPOLLRDHUP).

State of the write side:

    whole ──post, send (short write)──► torn ──all of it written──► whole
    torn ──Gone, cancelled, given up──► torn for good: only the read side is still of use

A write that fails says nothing of what the other end had said before; that is read to its end all the same.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from math import inf

import outcome
import trio

from relay.observing.ending import Side
from relay.wires.alarms import Alarms, Entry
from relay.wires.dead_links import unacknowledged, unread, watch_client
from relay.wires.engine import Engine
from relay.wires.splice import TAKE
from relay.wires.wire import READ_SIZE, Expired, Gone

AT_ONCE = 16  # reads in a row without a turn for the others: half a millisecond of an upload
_READS_A_TAKE = TAKE // READ_SIZE
_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_HALF = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_FULL = select.EPOLLHUP | select.EPOLLERR
_OUT = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

# What sendfile says of the file and not of the socket: it cannot be sent like this, or its disk is broken.
_OF_THE_FILE = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.EBADF))

# Every recv of the process lands here first: a 100-byte event is copied instead of READ_SIZE being allocated for it.
BUFFER = bytearray(READ_SIZE)
VIEW = memoryview(BUFFER)


class SocketWire:
    """A connected non-blocking socket, registered for its whole life.

    Resource handling: owns the socket; `close` is the only end.
    """

    __slots__ = (
        "_alarms",
        "_at_once",
        "_engine",
        "_posted",
        "_reader",
        "_unacknowledged",
        "_write_by",
        "_writer",
        "closed",
        "entry",
        "fd",
        "half_close_kept",
        "hung_up",
        "on_gone",
        "on_readable",
        "on_writable",
        "owner",
        "read_by",
        "readable",
        "reset",
        "side",
        "sock",
        "torn",
        "unread_within",
        "wants_write",
        "write_within",
    )

    def __init__(
        self, sock: socket.socket, engine: Engine, alarms: Alarms, side: Side = Side.CLIENT
    ) -> None:
        self.sock = sock
        self.side = side
        self.fd = sock.fileno()
        self._engine = engine
        self._alarms = alarms
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self.wants_write = False
        self.torn = False  # a write is halfway, or has ended there
        self._posted: memoryview | None = None  # what the kernel has not taken of `post`
        self._at_once = 0
        self._write_by = inf
        self._unacknowledged = 0  # when the writer began to wait, or had made progress last
        self.closed = False
        self.readable = False
        self.hung_up = False
        self.reset = False  # a write was told so, and reading will only find an end
        self.half_close_kept = False  # True: only a full close counts as a hang-up
        self.on_gone: Callable[[], None] | None = None
        self.on_readable: Callable[[], None] | None = None  # a step, in place of a reading task
        self.on_writable: Callable[[], None] | None = None
        self.owner: Callable[[Exception], None] | None = None  # whom a crashing step ends
        self.entry: Entry | None = None
        self.read_by = inf
        self.write_within = inf
        # The `write` that the kernel goes by (wires.dead_links); -1: none
        self.unread_within = -1.0
        engine.add(self, self.fd)

    # -- reading ---------------------------------------------------------------------------------------------

    def recv_nowait(self, limit: int = READ_SIZE) -> bytes | None:
        """What is there: bytes, b"" at the end of the stream, None for nothing yet. Raises: Gone."""
        try:
            size = self.sock.recv_into(BUFFER, limit)
        except BlockingIOError:
            self.readable = False
            return None
        except OSError:
            raise Gone from None
        if not size and self.reset:
            raise Gone
        if size < limit and not self.hung_up:
            self.readable = False
        return VIEW[:size].tobytes()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self.closed:
                raise Gone
            if self.readable:
                self._at_once += 1
                if self._at_once >= AT_ONCE:
                    self._at_once = 0
                    await trio.lowlevel.checkpoint()
                    continue
                data = self.recv_nowait()
                if data is not None:
                    return data
            await self._wait_readable()

    async def pass_on(self, target: SocketWire, limit: int) -> tuple[int, bytes]:
        """Like `receive`, but the bytes go to `target` unseen; both are plain sockets.

        Returns: how many came (0: the end, however it came about), and those that `target` did not take.
        Raises: Gone (of `target`), Expired.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self.closed:
                return 0, b""
            if self.readable:
                self._at_once += _READS_A_TAKE
                if self._at_once >= AT_ONCE:
                    self._at_once = 0
                    await trio.lowlevel.checkpoint()
                    continue
                try:
                    return self._engine.pipe.move(self.sock, target.sock, limit)
                except BlockingIOError:
                    self.readable = False
                except OSError:
                    return 0, b""
                except Gone as gone:
                    target.reset = gone.args == (errno.ECONNRESET,)
                    raise
            await self._wait_readable()

    async def _wait_readable(self) -> None:
        if self.read_by != inf:
            self._alarms.arm(self, self.read_by)
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort_read)

    def read_until(self, due: float) -> None:
        """Set `read_by` for whoever is reading just now too."""
        self.read_by = due
        if self._reader is not None:
            self._alarms.arm(self, due)

    def _abort_read(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    # -- writing ---------------------------------------------------------------------------------------------

    def send_nowait(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took. Raises: Gone."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.reset = error.errno == errno.ECONNRESET  # EPIPE: it had ended before
            raise Gone from None

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed or self.torn:
            raise Gone
        self.torn = True
        sent = self.send_nowait(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                await self._wait_writable()
                rest = rest[self.send_nowait(rest) :]
        self.torn = False

    def post(self, data: bytes) -> None:
        """Send all of `data` without waiting: the engine writes what the kernel does not take now. `torn` tells whether it
        is still on its way, or failed; nothing else is sent before `flushed` has returned."""
        self.torn = True
        try:
            sent = self.send_nowait(data)
        except Gone:
            return
        if sent < len(data):
            self._posted = memoryview(data)[sent:]
            self.want_write(True)
        else:
            self.torn = False

    async def flushed(self) -> None:
        """Wait until what was posted is written. Raises: Gone, Expired."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._posted is not None:
            await self._wait_writable()
        if self.torn:
            raise Gone

    def _write_posted(self) -> None:
        posted = self._posted
        assert posted is not None
        try:
            posted = posted[self.send_nowait(posted) :]
        except Gone:
            self._posted = None
        else:
            self._posted = posted or None
            self.torn = self._posted is not None
        self.want_write(self._posted is not None)

    async def send_file(self, fd: int, at: int, limit: int) -> int:
        """Up to `limit` bytes of a regular file, from the kernel to the kernel. The disk is waited for here and now.

        Returns: how many went out; 0 at the end of the file.
        Raises: Gone, Expired; OSError where the file cannot be read like this.
        """
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913 # it waits, or has sent
            if self.closed:
                raise Gone
            try:
                return os.sendfile(self.fd, fd, at, limit)
            except BlockingIOError:
                await self._wait_writable()
            except OSError as error:
                if error.errno in _OF_THE_FILE:
                    raise
                raise Gone from None

    async def _wait_writable(self) -> None:
        if self.write_within != inf:
            self._write_by = trio.current_time() + self.write_within
            self._unacknowledged = self.unacknowledged()
            self._alarms.arm(self, self._write_by)
        self._writer = trio.lowlevel.current_task()
        self.want_write(True)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort_write)
        finally:
            self._write_by = inf
            self.want_write(self._posted is not None)
        if self.closed:
            raise Gone

    def _abort_write(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def want_write(self, wanted: bool) -> None:
        """Whether `on_writable`, or a writing task, is to be told when the kernel takes bytes again."""
        if wanted != self.wants_write and not self.closed:
            self.wants_write = wanted
            self._engine.want_write(self.fd, wanted)

    def unacknowledged(self) -> int:
        """Bytes that the kernel took and the other end has not: whether they become fewer tells a slow reader from one
        that stopped, because the socket says `writable` only when a third of its buffer is free."""
        return unacknowledged(self.fd)

    def unread(self) -> int:
        """Bytes that have come in and were not read; the end of the stream does not count as one. It
        costs a third of a read that finds nothing."""
        return unread(self.fd)

    def bound_unread(self, write: float) -> None:
        """Have the kernel give up on a client whose link is dead, by the `write` of the route it is on now."""
        if write != self.unread_within:
            self.unread_within = write
            try:
                watch_client(self.sock, write)
            except OSError:
                pass  # it is gone already: whoever reads or writes will see it

    def half_close(self) -> None:
        """Tell the other end that nothing more will be written (tunnels)."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # already gone: whoever reads will see it

    # -- called by the engine and the alarms -----------------------------------------------------------------

    def ready(self, mask: int) -> None:
        if mask & _READ:
            self.readable = True
            self.hung_up = self.hung_up or bool(mask & _HALF)
            if self.on_readable is not None:
                self.on_readable()
            elif self._reader is not None:
                self._wake_reader(outcome.Value(None))
            if self.on_gone is not None and mask & (_FULL if self.half_close_kept else _HALF):
                gone, self.on_gone = self.on_gone, None
                gone()
        if mask & _OUT and not self.closed:
            if self._posted is not None:
                self._write_posted()
            if self.on_writable is not None:
                self.on_writable()
            elif self._writer is not None:
                self._wake_writer(outcome.Value(None))

    def ring(self, now: float) -> float:
        if now >= self.read_by and self._reader is not None:
            self._wake_reader(outcome.Error(Expired(self.side)))
        if now >= self._write_by and self._writer is not None:
            left = self.unacknowledged()
            if left < self._unacknowledged:
                self._unacknowledged = left
                self._write_by = now + self.write_within
            else:
                self._wake_writer(outcome.Error(Expired(self.side)))
        due = self.read_by if self._reader is not None else inf
        if self._writer is not None:
            due = min(due, self._write_by)
        return due

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self.read_by += seconds
        if self._writer is not None:
            self._write_by = min(self._write_by + seconds, now + self.write_within)

    def crash(self, error: Exception) -> None:
        """A step on this wire raised: hand the error to the stream it belongs to."""
        if self.owner is None:
            raise error
        self.owner(error)

    def _wake_reader(self, how: outcome.Outcome[None]) -> None:
        task, self._reader = self._reader, None
        assert task is not None
        trio.lowlevel.reschedule(task, how)

    def _wake_writer(self, how: outcome.Outcome[None]) -> None:
        task, self._writer = self._writer, None
        assert task is not None
        trio.lowlevel.reschedule(task, how)

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._posted = None
        self.on_gone = self.on_readable = self.on_writable = self.owner = None
        self._engine.discard(self.fd)
        self._alarms.forget(self)
        self.sock.close()
        if self._reader is not None:
            self._wake_reader(outcome.Value(None))
        if self._writer is not None:
            self._wake_writer(outcome.Value(None))
