"""A run of another process in a directory, as it is read here.

    open: say so to its owner ─► what there is, in slices ─► woken: what came ─► the end ─► closed

Rules
  * The end is looked at before the events: what its owner wrote before the end is then there.
  * Whoever is woken reads until nothing is left; a wake that comes while it reads is not lost, as it looks once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from relay.stores.dir_files import Files
from relay.stores.dir_segments import SegmentReader
from relay.stores.store import Reader, Sealed


class Tail:
    """See store.Tail."""

    def __init__(
        self,
        files: Files,
        identity: bytes,
        process: str,
        reader: Reader,
        left: Callable[[Tail], None],
    ) -> None:
        """process: its owner's."""
        self.identity = identity
        self.process = process
        self.over = False  # all is said
        self._files = files
        self._reader = reader
        self._left = left
        self._segments = SegmentReader(files, identity)
        self._headed = False
        self._loading = False

    async def load(self) -> None:
        """All that there is. Raises: OSError."""
        self._loading = True
        try:
            while self._step():  # noqa: ASYNC110 # each turn works
                await trio.lowlevel.checkpoint()
        finally:
            self._loading = False

    def pull(self) -> bool:
        """A slice of what came. Returns: whether there may be more. Raises: OSError."""
        return not self._loading and self._step()

    def _step(self) -> bool:
        if self.over:
            return False
        files, identity = self._files, self.identity
        sealed = files.end(identity)
        if not self._headed:
            fields = files.fields(identity)
            if fields is not None:
                self._headed = True
                self._reader.head(fields)
        first, events = self._segments.read()
        if sealed is not None and first + len(events) - 1 > sealed.last:
            events = events[: max(0, sealed.last + 1 - first)]
            if not events:
                self._end(sealed)
                return False
        if events:
            self._reader.take(first, events)
            return True
        if sealed is not None:
            self._end(sealed)
        elif files.card(identity) is None:
            end, ending = self._reader.last_words()
            self._end(Sealed(end, ending, self._segments.next - 1, time.time()))
        return False

    def _end(self, sealed: Sealed) -> None:
        self.over = True
        self._segments.close()
        self._reader.ended(sealed)

    def lost(self, seal: Callable[[bytes, Sealed], Sealed | None], keep: float) -> None:
        """Its owner is dead. Raises: OSError."""
        while self._step():
            pass
        if not self.over:
            end, ending = self._reader.last_words()
            last = self._segments.next - 1
            seal(self.identity, Sealed(end, ending, last, time.time() + keep))
            while self._step():
                pass

    def fail(self) -> None:
        """It cannot be read any more."""
        if not self.over:
            end, ending = self._reader.last_words()
            self._end(Sealed(end, ending, self._segments.next - 1, time.time()))

    def close(self) -> None:
        self._segments.close()
        self._left(self)
