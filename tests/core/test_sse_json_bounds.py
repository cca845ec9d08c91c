"""A JSON text is measured before anything of it is built: never less than what the parser would build."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sse import json_bounds
from relay.sse.json_bounds import MAX_DEPTH, MAX_VALUES, WINDOW, TooMuch, check

MEBIBYTE = 1 << 20
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def built(value: object) -> int:
    """How many values and names of members a JSON value is made of."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(built(each) for each in value.values())
    return 1 + sum(built(each) for each in value) if isinstance(value, list) else 1


def depth(value: object) -> int:
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max((depth(each) for each in inner), default=0)


def refuses(text: bytes) -> bool:
    try:
        check(text)
    except TooMuch:
        return True
    return False


@given(
    VALUES, st.integers(1, 60), st.integers(0, 6), st.booleans(), st.sampled_from([3, 64, WINDOW])
)
def test_more_than_is_read_is_always_refused(
    value: object, values: int, levels: int, escaped: bool, window: int
) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    text += b" " * (levels + 1)  # short texts are not looked at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "MAX_VALUES", values)
        patch.setattr(json_bounds, "MAX_DEPTH", levels)
        patch.setattr(json_bounds, "WINDOW", window)
        if built(value) > values or depth(value) > levels:
            assert refuses(text)
        elif 2 * built(value) <= values:  # `[]` counts twice
            assert not refuses(text)


@given(st.binary(max_size=300), st.sampled_from([1, 2, 7, WINDOW]))
def test_any_bytes_are_measured(text: bytes, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "WINDOW", window)
        patch.setattr(json_bounds, "MAX_DEPTH", 2)
        refuses(text)


MANY = {
    "empty arrays": b"[" + b"[]," * (MEBIBYTE // 3) + b"1]",
    "empty objects": b"[" + b"{}," * (MEBIBYTE // 3) + b"1]",
    "numbers": b"[" + b"1," * (MEBIBYTE // 2) + b"1]",
    "strings": b"[" + b'"",' * (MEBIBYTE // 3) + b"1]",
    "members": b"{" + b",".join(b'"%x":1' % n for n in range(MAX_VALUES)) + b"}",
    "with spaces": b"[" + b"1 \n, " * (MEBIBYTE // 5) + b"1]",
    "levels": b"[" * MEBIBYTE,
    "levels, closed": b"[" * 5000 + b"]" * 5000,
    "levels of objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_what_would_be_large_when_built_is_refused_unbuilt(text: bytes) -> None:
    tracemalloc.start()
    try:
        assert refuses(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


FEW = {
    "one long text": b'{"text": "' + b'a, [b]: {c} \\n \\" \\\\' * 50_000 + b'"}',
    "one text of backslashes": b'"' + b"\\\\" * MEBIBYTE + b'"',
    "an escape at each border": b'"' + b"x" * (WINDOW - 2) + b'\\"' * WINDOW + b'"',
    "spaces": b" " * MEBIBYTE + b"1",
    "as many as may be": b"[" + b"1," * (MAX_VALUES - 3) + b"1]",
    "as deep as may be": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
}


@pytest.mark.parametrize("text", FEW.values(), ids=FEW)
def test_what_is_long_and_small_is_read(text: bytes) -> None:
    check(text)
    json.loads(text)


@pytest.mark.parametrize("text", [b"", b"\\", b'"', b'"\\', b'"' + b"x" * 200 + b"\\"])
def test_what_does_not_end_is_the_parsers_affair(text: bytes) -> None:
    check(text * 100)
