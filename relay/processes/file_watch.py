"""`relay serve --watch`: a reload whenever the file changes, for development.

    a thread: the file's time, size and inode, four times a second ─► once they rest, SIGHUP to this process

Rules
  * It does what a person would: it sends the signal. So a file with a mistake is refused as by any reload, and what was
    running goes on; the next change is another try.
  * An editor writes a file in several steps, or puts another one in its place. The signal comes when two looks saw the same.
  * The thread holds nothing, so a fork of the supervisor does not mind it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

LOOK = 0.25  # seconds between two looks: a change is taken within half a second

logger = logging.getLogger("relay")

Seen = tuple[int, int, int]


class FileWatch:
    """One file. Make it before the file is read, so that no change is missed."""

    __slots__ = ("_path", "_taken")

    def __init__(self, path: str) -> None:
        self._path = path
        self._taken = self._look()

    def start(self) -> None:
        threading.Thread(target=self._run, name="relay watch", daemon=True).start()

    def _run(self) -> None:
        # Signals are for the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        before = self._taken
        while True:
            time.sleep(LOOK)
            now = self._look()
            if now is not None and now == before != self._taken:
                self._taken = now
                logger.info("%s has changed", self._path)
                os.kill(os.getpid(), signal.SIGHUP)
            before = now

    def _look(self) -> Seen | None:
        """What tells one state of it from another; None while it is not there."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
