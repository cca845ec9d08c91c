"""Where lines go: never in the way of a stream.

    write ─► the backlog, bounded ─► a thread of the log's own ─► the descriptor

Whoever reads a log may stop reading, die, or have a full disk. A write to a pipe or to a terminal
then waits, and nothing can tell beforehand: between poll and write another process may fill the
pipe, and O_NONBLOCK must not be set on a descriptor that others share. So a thread writes, and it
alone waits.

Rules
  * `write` never waits and never raises for the reader's sake. Where the backlog is full it costs
    one comparison.
  * The backlog is bounded in bytes (MAX_HELD). What comes beyond is dropped and counted, and one
    message tells how many lines that were, once the log has caught up.
  * Lines keep their order. They are written in pieces of whole lines of at most PIPE_BUF bytes,
    which the kernel never mixes with those of another process (pipe(7)); a longer line may be.
  * A descriptor that fails (the disk is full, the reader is gone) is said to fail once, and is
    tried again every RETRY seconds; meanwhile the backlog waits.
  * The thread owns its descriptor and closes it when it ends. One that is stuck in a write is left
    behind with its descriptor: neither a reload nor the end of the process waits for it.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue

from relay.observing.log_file import LogFile, end_of_piece

DELAY = 0.02  # seconds a line may wait for company
MAX_HELD = 8 * 1024 * 1024  # bytes; about 20,000 lines of the access log
RETRY = 1.0  # seconds between two tries of a descriptor that fails
LAST = 1.0  # seconds that the last lines have
_LINE = 96  # bytes a line costs beside its text: the head of a str, its place in the deque
_BATCH = 64 * 1024  # bytes taken from the backlog at once: to join more would hold up the loop
_LOOK = 0.1  # seconds between two looks, while the descriptor takes nothing, at whether to go on
_STANDARD = 2  # the last of the standard descriptors, which stay open
_HAND_OVER = 1.0  # seconds a writer waits for its predecessor, which may be stuck

logger = logging.getLogger("relay")


class LineLog:
    """Lines for one descriptor after the other; None: for nobody, and then nothing is written here.

    Resource handling: takes each descriptor over, unless it is a standard one (0 to 2); `close`
    ends it.
    """

    __slots__ = (
        "_accepted",
        "_bound",
        "_lines",
        "_lock",
        "_lost",
        "_name",
        "_refused",
        "_settled",
        "_told",
        "_writer",
        "idle",
        "taken",
    )

    def __init__(
        self, fd: int | None, name: str = "the access log", path: str | None = None
    ) -> None:
        """`path`: where `fd` is opened anew, if that is a file."""
        self._name = name  # in messages
        self._lines: deque[str] = deque()
        self._bound = MAX_HELD
        # The backlog is what was accepted less what was settled. Only `write` counts the one, only
        # writers the other: so `write` needs no lock.
        self._accepted = 0
        self._settled = 0
        self.taken = 0  # by a writer, settled or not
        self._refused = 0  # lines, by `write`
        self._lost = 0  # lines, by a writer
        self._told = 0  # lines, of those two, that a message told of
        self._lock = threading.Lock()  # between writers: one that was left behind may come back
        self.idle = True  # the writer waits to be woken
        self._writer = _Writer(self, fd, path)

    @property
    def dropped(self) -> int:
        """Lines that were not written and never will be."""
        return self._refused + self._lost

    @property
    def held(self) -> int:
        """Bytes of the backlog, with what it costs to keep a line."""
        return self._accepted - self._settled

    def write(self, lines: str) -> None:
        """Queue one line, or several at once, newline included. Not for two threads at once."""
        size = _LINE + (len(lines) if lines.isascii() else 4 * len(lines))  # see _cost
        if self._accepted - self._settled + size > self._bound:
            self._refused += lines.count("\n")
            return
        self._accepted += size
        self._lines.append(lines)
        if self.idle:
            self.idle = False
            self._writer.wake()

    def reopen(self) -> None:
        """Open the file anew, before the next line is written."""
        self._writer.reopen()

    def move(self, fd: int | None, path: str | None = None) -> None:
        """Write there from now on. What the old descriptor did not take goes there too; where there
        is no new one, the old one has LAST seconds for it."""
        before = self._writer
        if fd is not None and fd == before.fd <= _STANDARD:
            return  # it was not opened anew; and one thread that is stuck with it is enough
        if fd is None:
            before.end(LAST)
        else:
            before.retire(self._accepted)
        self._writer = _Writer(self, fd, path, before)
        if fd is not None:
            self.idle = False
            self._writer.wake()

    def close(self, within: float = LAST) -> None:
        """Take no more lines; wait for those that are held to be written, for so many seconds."""
        self._bound = 0
        self._writer.end(within)
        self._writer.join(within)
        self.lose()
        self._lost += self._writer.unwritten()
        if self.dropped > self._told:
            logger.warning("%s: lines lost at the end: %d", self._name, self.dropped - self._told)
            self._told = self.dropped

    def forget(self) -> None:
        """In a child process: put down the parent's log, whose thread is not here."""
        self._bound = 0
        self._lines.clear()
        self._writer.close()

    # -- for its writers ---------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """There are lines to be taken."""
        return bool(self._lines)

    def sleeps(self, idle: bool) -> None:
        """Whether the writer must be woken for a line."""
        self.idle = idle

    def take(self, until: float) -> tuple[bytes, int]:
        """The next lines, and what they cost; none beyond `until` bytes of all that was taken."""
        found: list[str] = []
        size = 0
        while self._lines and size < _BATCH and self.taken < until:
            found.append(self._lines.popleft())
            cost = _cost(found[-1])
            size += cost
            self.taken += cost
        return "".join(found).encode("utf-8", "backslashreplace"), size

    def settle(self, size: int, lost: int = 0) -> None:
        """Lines that cost `size` are written, or (`lost` of them) dropped."""
        with self._lock:
            self._settled += size
            self._lost += lost

    def give_back(self, rest: bytes, size: int) -> None:
        """Of what was taken for `size`, another writer writes the rest."""
        text = rest.decode("utf-8", "replace")
        self.settle(size - _cost(text))
        self.taken -= _cost(text)
        self._lines.appendleft(text)

    def lose(self) -> None:
        """Drop what is held: its time is over."""
        with suppress(IndexError):  # two may be at it
            while True:
                lines = self._lines.popleft()
                self.taken += _cost(lines)
                self.settle(_cost(lines), lines.count("\n"))

    def tell(self, failed: str = "") -> None:
        """The log has caught up: tell what was dropped since that was last told."""
        dropped, self._told = self.dropped - self._told, self.dropped
        if dropped or failed:
            why = failed or "nobody took them"
            logger.warning("%s takes lines again; %d were dropped (%s)", self._name, dropped, why)

    def tell_not_reopened(self, why: str) -> None:
        logger.error("%s cannot be opened anew (%s): the old file goes on", self._name, why)

    def tell_failed(self, why: str) -> None:
        then = "lines are kept for a while, then dropped and counted"
        logger.error("%s cannot be written (%s): %s", self._name, why, then)


class _Writer:
    """The thread of one descriptor; it starts with the first line. All calls but those of `_run`
    are those of the log's own thread."""

    __slots__ = (
        "_before",
        "_data",
        "_deadline",
        "_failed",
        "_fails",
        "_file",
        "_log",
        "_retired",
        "_thread",
        "_until",
        "_woken",
        "_written",
    )

    def __init__(
        self, log: LineLog, fd: int | None, path: str | None, before: _Writer | None = None
    ) -> None:
        self._log = log
        self._file = LogFile(fd, path)
        # Whose descriptor may take a line still: the last one that ran.
        self._before: _Writer | None = before
        if before is not None and before._thread is None:
            self._before = before._before
        self._data = b""  # what is being written
        self._written = 0  # bytes of it
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._deadline = inf  # for the last lines
        self._retired = False  # another writer goes on
        self._until = inf  # bytes, of all that is taken from the log: what comes then is another's
        self._fails = False  # the descriptor takes nothing
        self._failed = ""  # why it did not, until it has been told that this is over

    def wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="relay log", daemon=True)
            self._thread.start()
        else:
            self._woken.put(None)

    @property
    def fd(self) -> int:
        return self._file.fd

    def reopen(self) -> None:
        if self._file.reopen():
            self.wake()

    def retire(self, until: int) -> None:
        """Take lines until so many bytes were taken, and those only that are written at once."""
        if self._before is not None:
            self._before.retire(until)
        self._until = until
        self._retired = True
        self._stop()

    def end(self, within: float) -> None:
        """Write what there is, and end."""
        self._deadline = time.monotonic() + within
        self._stop()

    def _stop(self) -> None:
        if self._thread is None:
            self.close()
        else:
            self._woken.put(None)

    def join(self, within: float) -> None:
        """Wait for its end, but not for a thread that is stuck."""
        running = self._before if self._thread is None else self
        if running is not None and running._thread is not None:
            running._thread.join(within + 2 * _LOOK)

    def unwritten(self) -> int:
        """Lines that it is stuck with."""
        return self._data.count(b"\n", self._written)

    def close(self) -> None:
        self._file.close()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        # Signals are for the main thread. (And SIGTTOU, which stops a process that writes to its
        # terminal from the background, is not sent to a thread that blocks it.)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        before, self._before = self._before, None
        if before is not None:
            before.join(_HAND_OVER)
            before._until = 0
        try:
            while self._wait_for_lines():
                self._file.look(self._log.tell_not_reopened)
                self._write(*self._log.take(self._until))
            if not self._retired:
                self._log.lose()
        finally:
            self.close()

    def _wait_for_lines(self) -> bool:
        """Until there are some, and for DELAY more. False: this writer has come to its end."""
        log = self._log
        if not log.waiting and not self._fails:
            log.tell(self._failed)
            self._failed = ""
        if not log.waiting and not self._ending:
            log.sleeps(True)
            while not log.waiting and not self._ending:
                if self._file.reopens:
                    self._file.look(log.tell_not_reopened)
                else:
                    self._sleep(None)
            log.sleeps(False)
        if log.held < _BATCH and not self._ending:
            self._sleep(DELAY)
        return log.waiting and log.taken < self._until and time.monotonic() < self._deadline

    def _write(self, data: bytes, size: int) -> None:
        """Write it all, or up to where this writer ends."""
        self._data, self._written = data, 0
        while self._written < len(data) and self._write_piece():
            pass
        rest = data[data.rfind(b"\n", 0, self._written) + 1 :]
        self._data, self._written = b"", 0
        if self._retired and rest:
            self._until = 0
            self._log.give_back(rest, size)
        else:
            self._log.settle(size, rest.count(b"\n"))

    def _write_piece(self) -> bool:
        """Try to. False: this writer has come to its end."""
        data, start = self._data, self._written
        try:
            self._written += os.write(
                self.fd, data[start : end_of_piece(data, start, self._file.piece)]
            )
            self._fails = False
        except BlockingIOError:  # it is a descriptor of our own, or whoever shares it has set it so
            return self._wait_until_writable()
        except OSError as error:
            if error.errno == errno.EPIPE:  # what the reader took of a line died with it
                self._written = data.rfind(b"\n", 0, start) + 1
            return self._wait_for_another_try(error)
        return True

    def _wait_until_writable(self) -> bool:
        """False: this writer has come to its end first."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while not self._retired and time.monotonic() < self._deadline:
            if poll.poll(_LOOK * 1000):
                return True
        return False

    def _wait_for_another_try(self, error: OSError) -> bool:
        """False: this writer has come to its end first."""
        self._fails = True
        if self._ending:
            return False
        if not self._failed:
            self._failed = error.strerror or str(error)
            self._log.tell_failed(self._failed)
        self._sleep(RETRY)
        before = self.fd
        self._file.look(self._log.tell_not_reopened)
        # Half a line stays in the old file, and all of it comes into the new one
        if self.fd != before:
            self._written = self._data.rfind(b"\n", 0, self._written) + 1
        return not self._retired

    @property
    def _ending(self) -> bool:
        return self._retired or self._deadline < inf

    def _sleep(self, seconds: float | None) -> None:
        """Until it is woken."""
        try:
            self._woken.get(timeout=seconds)
        except Empty:
            return


def _cost(lines: str) -> int:
    """Bytes of memory; those of UTF-8 are not known yet, and four at most for each character."""
    return _LINE + (len(lines) if lines.isascii() else 4 * len(lines))
