"""Pieces of a text: nothing lost, nothing broken, none too long but a word of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.sse import cut

ACUTE = "\u0301"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
PREPEND = "\u0600"  # ARABIC NUMBER SIGN: in one cluster with what follows


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("", 5, []),
        ("abc", 5, ["abc"]),
        ("aa bb cc", 5, ["aa ", "bb cc"]),
        ("aa bb cc", 6, ["aa bb ", "cc"]),
        ("aa bb cc", 3, ["aa ", "bb ", "cc"]),
        ("aaa bbb", 3, ["aaa", " ", "bbb"]),
        ("one verylongword two", 6, ["one ", "verylongword", " two"]),
        ("verylongword", 4, ["verylongword"]),
        ("verylongword ", 4, ["verylongword", " "]),
        ("a    b", 3, ["a  ", "  b"]),
        ("  a", 2, ["  ", "a"]),
        ("a b c", 1, ["a", " ", "b", " ", "c"]),
        ("line one\nline two", 10, ["line one\n", "line two"]),
        ("a\r\nb", 2, ["a", "\r\n", "b"]),
        ("a\r\nb", 1, ["a", "\r\n", "b"]),
        ("10\u00a0km or so", 6, ["10\u00a0km ", "or so"]),
        (f"ab {ACUTE}cd ef", 4, [f"ab {ACUTE}cd", " ef"]),
        (f"a {FAMILY} b", 4, ["a ", FAMILY, " b"]),
        (f"{PREPEND} abc d", 3, [f"{PREPEND} abc", " d"]),
        ("日本語の文章です", 3, ["日本語の文章です"]),
    ],
)
def test_cut(text: str, limit: int, pieces: list[str]) -> None:
    assert cut(text, limit) == pieces


def test_a_piece_has_a_character() -> None:
    with pytest.raises(ValueError, match="at least one"):
        cut("a", 0)


ALPHABET = [
    "a",
    "bc",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\r",
    "\u00a0",
    ACUTE,
    FAMILY,
    PREPEND,
    "ä",
    "\u200d",
]
texts = st.lists(st.sampled_from(ALPHABET) | st.characters(), max_size=40).map("".join)


@settings(deadline=None, max_examples=400)
@example(f"{PREPEND} {ACUTE} {ACUTE}\r\n{ACUTE}", 1)
@given(texts, st.integers(1, 12))
def test_any_text(text: str, limit: int) -> None:
    pieces = cut(text, limit)
    assert "".join(pieces) == text
    assert all(pieces)
    ends = {match.end() for match in regex.finditer(r"\X", text)}
    at = 0
    for piece in pieces:
        at += len(piece)
        assert at in ends, "inside a grapheme cluster"
        if len(piece) > limit:  # one word: nothing in it at which it could have been cut
            for space in regex.finditer(r"[^\S\u00a0\u2007\u202f]", piece):
                cluster = next(m for m in regex.finditer(r"\X", piece) if m.end() > space.start())
                assert len(cluster[0]) > 1


def test_a_piece_is_closed_only_when_the_next_word_does_not_fit() -> None:
    text = "the quick brown fox jumps over the lazy dog " * 20
    for limit in range(6, 40):
        for left, right in pairwise(cut(text, limit)):
            assert left.endswith(" ")
            assert len(left) + right.index(" ") + 1 > limit
