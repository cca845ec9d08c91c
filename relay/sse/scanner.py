"""Where events end in a byte stream, without keeping a byte of it (WHATWG HTML §9.2.5 and §9.2.6).

Words: a *line* ends with LF, CR or CRLF, in any mix. A *block* is what stands before a blank line.
A *boundary* is the offset just behind a blank line. A block with a `data` line is an *event*: a
reader dispatches it; the other blocks (comments, `id:` or `retry:` alone) are silent.

Rules
  * Whatever the split of the stream, the boundaries and the counts are the same. Only the LF of a
    CRLF whose CR ended a blank line may come one read later: the boundary is at the CR, because the
    event is whole there, and the LF is a boundary again. Bytes put between the two make that LF a
    blank line of its own, which says nothing.
  * So at every offset that `feed` returns one may cut the stream and put whole blocks of one's own
    there.
  * Each byte is looked at a fixed number of times. Of an unfinished line at most the five bytes
    that say whether it is a `data` line are kept: an event of 16 MiB in pieces of 1 KiB costs
    16,384 times the same.
  * The typical reads (one block, or several that begin with `data:`, with LF) cost two or three
    searches in C and no walk.
  * Of any read at most _WALKED blocks are walked through one by one. The blocks behind them are
    counted together, in C: 64 KiB of comments of three bytes would otherwise be 20,000 turns.
"""

from __future__ import annotations

import re
from typing import Final

_LF: Final = 0x0A
_CR: Final = 0x0D
_BOM: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data:"
_KNOWN: Final = len(_DATA)  # so many bytes of a line decide whether it is a data line
_DATA_HEADS: Final = (b"data", b"data:")  # what the first _KNOWN bytes of a data line are
_DATA_STARTS: Final = (b"data:", b"data\n", b"data\r")  # a block whose first line is one
_LINE_ENDS: Final = b"\r\n"
# Atomic groups: without them the CRLF of one line end would match as CR and then LF.
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END_RUN: Final = re.compile(rb"[\r\n]+")
_DATA_LINE: Final = re.compile(rb"[\r\n]data[:\r\n]")  # any line of a block but its first

# With LF line ends and a LF in front, one match per block that has a data line: from that line to
# the end of the block. The LF of the blank line stays: the data line of the next block needs it.
_EVENT: Final = re.compile(rb"\ndata(?=[:\n]).*?\n(?=\n)", re.DOTALL)
_BLOCK: Final = re.compile(rb"[^\n]\n(?=\n)")  # one match per block, at its end

_WALKED: Final = 4  # blocks; from about here on counting them together is cheaper (measured)


class BoundaryScanner:
    """Finds the boundaries of one event stream as its bytes come in.

    Attributes:
        events: blocks with a `data` line so far: what an EventSource dispatches.
        comments: blocks that dispatched nothing so far: comments, and `id:`, `event:` or `retry:`
            without data.
        first: the offset just behind the first boundary of the last `feed`, if that one began inside a
            block; 0 if there was none.
        between: nothing of a block has come since the last boundary (true before the first byte and
            after the BOM).
        progressed: whether the last `feed` ended an event (comments do not count).
        bom: the stream starts with a byte order mark. It is part of the first bytes that a caller
            forwards, never split from itself; who has put bytes of its own in front of it must drop
            it, because it would be text.
    """

    __slots__ = (
        "_cr",
        "_data",
        "_fresh",
        "_line",
        "between",
        "bom",
        "comments",
        "events",
        "first",
        "progressed",
    )

    def __init__(self) -> None:
        self.events = 0
        self.comments = 0
        self.between = True
        self.first = 0
        self.progressed = False
        self.bom = False
        self._fresh = True  # a byte order mark may still come; means nothing once there was a block
        # The rest is about the unfinished block and is empty while `between`.
        # How its unfinished line begins, at most _KNOWN bytes; b"": at the start of a line
        self._line = b""
        self._data = False  # it has a data line among its finished lines
        self._cr = False  # its last byte is a CR: a LF that follows belongs to it

    @property
    def blocks(self) -> int:
        """Blocks with at least one line so far."""
        return self.events + self.comments

    def feed(self, data: bytes) -> int:
        """Look at the next bytes of the stream, in any split.

        Returns:
            The offset in `data` just behind its last boundary; 0 if there is none. What is before
            it (with the bytes held back from earlier calls) is whole blocks, what is behind it is
            to be held.
        """
        # Integers where they do: `13 in data` costs a sixth of `b"\r" in data`.
        if self.between and data and data[-1] == _LF and _CR not in data and data[0] != _BOM[0]:
            size = len(data)
            if data.find(b"\n\n") == size - 2:
                ends = 1 if data[:5] == _DATA or b"\ndata:" in data else 0
            else:
                ends = data.count(b"\n\n") if data[-2] == _LF and data[:5] == _DATA else 0
                if ends and data.count(b"\n\ndata:") != ends - 1:
                    ends = 0
            if ends:
                self.events += ends
                self.progressed = True
                return size
        events = self.events
        offset = self._walk(data)
        self.progressed = self.events != events
        return offset

    def _walk(self, data: bytes) -> int:
        """Block by block, for everything that is not the typical read."""
        pos = boundary = 0
        if self._fresh and data:
            if self.events:  # the typical read does not stop to say so
                self._fresh = False
            else:
                pos = boundary = self._skip_bom(data)
        blank = _blank_line(data)
        if not self.between and not self._fresh:
            pos = self._finish_line(data, pos)
        size = len(data) if not self._fresh else 0
        self.first = walked = 0
        while pos < size:
            if data[pos] in _LINE_ENDS:  # a run of blank lines, each of them a boundary
                blanks = _LINE_END_RUN.match(data, pos)
                pos = boundary = blanks.end() if blanks else size
                if not self.between:
                    self._end_block()
                    self.first = pos
                continue
            end = _block_end(data, pos, blank)
            if end < 0:
                self._hold(data, pos)
                break
            self._data = self._data or _has_data(data, pos, end)
            self._end_block()
            pos = boundary = end
            walked += 1
            if walked == 1:
                self.first = self.first or end
            elif walked == _WALKED:
                pos = boundary = self._count(data, end)
        return boundary

    def _count(self, data: bytes, pos: int) -> int:
        """Count all the whole blocks from `pos`, which is behind a boundary. Returns: the last boundary."""
        end = last_boundary(data, pos - 1, len(data))
        if end <= pos:
            return pos
        lines = data[pos:end]
        if _CR in lines:
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks = lines.count(b"\n\n")
        if lines[:5] == _DATA and lines.count(b"\n\ndata:") == blocks - 1:
            events = blocks
        else:
            events = len(_EVENT.findall(b"\n" + lines))
            if lines[0] == _LF or b"\n\n\n" in lines:
                blocks = len(_BLOCK.findall(lines))
        self.events += events
        self.comments += blocks - events
        return end

    def _skip_bom(self, data: bytes) -> int:
        """The first bytes of the stream: how many of `data` belong to a byte order mark that is now
        whole.
        """
        seen = self._line + data[:3]
        if seen.startswith(_BOM):
            skipped = 3 - len(self._line)
            self._line = b""
            self._fresh = False
            self.bom = self.between = True
            return skipped
        if _BOM.startswith(seen):
            self._line = seen
            self.between = False
        else:
            self._fresh = False  # what looked like a mark is the beginning of a line
        return 0

    def _finish_line(self, data: bytes, pos: int) -> int:
        """Bring the unfinished line to its end. Returns where the next line starts; the size of
        `data` if nowhere.
        """
        size = len(data)
        if self._cr and pos < size:
            self._cr = False
            return pos + 1 if data[pos] == _LF else pos
        if not self._line or pos == size:
            return pos
        end, cr = data.find(b"\n", pos), data.find(b"\r", pos)
        if end < 0 or 0 <= cr < end:
            end = cr
        head = self._line
        if len(head) < _KNOWN:
            stop = pos + _KNOWN - len(head)
            head += data[pos:stop] if end < 0 else data[pos : min(stop, end)]
        if end < 0:
            self._line = head
            return size
        if head in _DATA_HEADS:
            self._data = True
        self._line = b""
        if data[end] == _LF:
            return end + 1
        if end + 1 == size:
            self._cr = True
            return size
        return end + 2 if data[end + 1] == _LF else end + 1

    def _hold(self, data: bytes, pos: int) -> None:
        """Remember what matters of an unfinished block, of which `data[pos:]` has come."""
        last = max(data.rfind(b"\n", pos), data.rfind(b"\r", pos))
        self.between = False
        if last >= 0:
            self._data = self._data or _has_data(data, pos, last + 1)
            self._line = data[last + 1 : last + 1 + _KNOWN]
            self._cr = last + 1 == len(data) and data[last] == _CR
        else:
            self._line = data[pos : pos + _KNOWN]

    def _end_block(self) -> None:
        if self._data:
            self.events += 1
            self._data = False
        else:
            self.comments += 1
        self.between = True


def _blank_line(data: bytes) -> bytes | None:
    """A line end and a blank line, as they are in all of `data`; None if of several kinds."""
    if _CR not in data:
        return b"\n\n"
    returns = data.count(b"\r")
    crlf = data.count(b"\r\n") == returns == data.count(b"\n")
    return b"\r\n\r\n" if crlf else None


def _block_end(data: bytes, pos: int, blank: bytes | None) -> int:
    """Just behind the blank line that ends the block whose lines start at `pos`; -1 if it has not
    come.
    """
    if blank is None:
        found = _BLANK.search(data, pos)
        return found.end() if found else -1
    end = data.find(blank, pos)
    return end + len(blank) if end >= 0 else -1


def last_boundary(data: bytes, start: int, end: int) -> int:
    """Just behind the last blank line that is in `data[start:end]` with the line end before it; -1 if there is none.

    (The LF of a CRLF belongs to it, also where it is at `end`.)
    """
    found = data.rfind(b"\n\n", start, end)
    if _CR in data:
        found = max(found, data.rfind(b"\r\r", start, end), data.rfind(b"\n\r", start, end))
    if found < 0:
        return -1
    found += 2
    return found + 1 if data[found - 1] == _CR and data[found : found + 1] == b"\n" else found


def _has_data(data: bytes, pos: int, end: int) -> bool:
    """Whether one of the lines in `data[pos:end]`, all of them finished, is a data line."""
    return (
        data.startswith(_DATA_STARTS, pos, end)
        or data.find(b"\ndata:", pos, end) >= 0
        or _DATA_LINE.search(data, pos, end) is not None
    )
