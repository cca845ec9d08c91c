"""A text cut into pieces a reader can show one by one, without a character or a word broken.

Rules
  * The pieces joined are the text, character by character.
  * A piece has at most `limit` characters (code points) and ends behind a run of white space, which
    stays with it.
  * A word longer than `limit` stands alone, and whole: half a word, or half a URL, is worse than a
    long piece.
  * A cut is never inside a grapheme cluster (Unicode UAX #29): a combining mark behind a space
    belongs to that space, so there is no cut between them (docs/decisions/0005).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final, Protocol

# White space but the spaces whose point is that there is no break at them (U+00A0, U+2007, U+202F).
_SPACES: Final = re.compile(r"[^\S\u00a0\u2007\u202f]+")


class _Cluster(Protocol):
    def __call__(self, text: str, start: int) -> int:
        """The end of the grapheme cluster that starts at `start`."""


def cut(text: str, limit: int) -> list[str]:
    """The pieces of `text`; [] for "". See `pieces`."""
    return list(pieces(text, limit))


def pieces(text: str, limit: int) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters, cut at spaces; cost linear in the text.

    A piece above the limit has no space in it: it is one word. The rare piece that begins with a
    space follows such a word, or one of exactly `limit` characters, or a run of spaces too long.

    Args:
        limit: in characters (code points), at least 1.

    Yields:
        The pieces, none of them empty, as they are asked for.

    Raises: ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError("a piece has at least one character")
    start = 0  # of the piece that is being filled; what is behind it so far fits into the limit
    for word, spaces, end in _units(text):
        if word > start and end - start > limit:
            yield text[start:word]
            start = word
        if spaces - start > limit:  # the word alone
            yield text[start:spaces]
            start = spaces
        while end - start > limit:  # the cut is in the run of spaces
            stop = start + limit
            if text[stop - 1] == "\r" and text[stop] == "\n":  # one cluster
                stop += 1 if limit == 1 else -1
            yield text[start:stop]
            start = stop
    if start < len(text):
        yield text[start:]


def _units(text: str) -> Iterator[tuple[int, int, int]]:
    """Each word with the spaces behind it: where the word begins, where it ends, where they end.

    The first word is empty if the text begins with spaces. All three are cluster boundaries.
    """
    word = 0
    plain = text.isascii()
    for run in _SPACES.finditer(text):
        spaces, end = run.span()
        if not plain:
            spaces, end = _whole_clusters(text, spaces, end)
            if spaces >= end:
                continue
        yield word, spaces, end
        word = end
    if word < len(text):
        yield word, len(text), len(text)


def _whole_clusters(text: str, spaces: int, end: int) -> tuple[int, int]:
    """The run of spaces without those at its ends that are in a cluster with a neighbour.

    Between spaces themselves only CR LF is a cluster, and rules over more than two characters
    (flags, emoji sequences) have no space in them, so looking at each end is enough.
    """
    if spaces and text[spaces - 1] > "\x7f" and _cluster()(text, spaces - 1) > spaces:
        spaces += 1
    if end < len(text) and text[end] > "\x7f" and _cluster()(text, end - 1) > end:
        end -= 1
    return spaces, end


def prepare() -> None:
    """Load what a text beyond ASCII needs, before there is one."""
    _cluster()


@functools.cache
def _cluster() -> _Cluster:
    """Made where it is needed: importing `regex` costs a megabyte and 20 ms."""
    import regex

    pattern = regex.compile(r"\X")

    def end(text: str, start: int) -> int:
        found = pattern.match(text, start)
        return found.end() if found else start

    return end
