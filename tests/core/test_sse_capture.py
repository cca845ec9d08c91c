"""What a stream said: which events are read, which value counts, and what any of it may cost at most."""

from __future__ import annotations

import json
from itertools import pairwise

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.reading.expressions import compile_expression, words_of
from relay.sse import capture
from relay.sse.capture import Capture, Plan, Value, Wanted, Watch
from relay.sse.completion import Completion


def plan(**expressions: str) -> Plan:
    return Plan.of(
        Wanted(name, compile_expression(text), words_of(text)) for name, text in expressions.items()
    )


def event(value: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def captured(found: Plan, *wholes: bytes) -> dict[str, Value]:
    said = Capture(found)
    for whole in wholes:
        said.see(whole)
    return dict(said.values)


USAGE = plan(input_tokens="usage.prompt_tokens", model="model")


def test_the_last_value_that_is_not_null_counts() -> None:
    stream = [
        {"model": "a", "usage": None},
        {"model": "b", "usage": {"prompt_tokens": 7}},
        {"model": "c", "usage": {"prompt_tokens": None}},
        {"model": None},
    ]
    assert captured(USAGE, *map(event, stream)) == {"model": "c", "input_tokens": 7}


_SAID = [{}, {"a": None}, {"a": 1}, {"b": "x"}, {"a": 2, "b": None}, {"a": 3, "b": "y"}, {"c": "a"}]


@given(st.lists(st.sampled_from(_SAID), max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_whatever_the_reads_it_is_what_one_by_one_would_find(
    stream: list[dict[str, object]], cuts: list[int]
) -> None:
    """Events come alone or many in one read: the values are those of a loop that reads every one."""
    expected: dict[str, object] = {}
    for value in stream:
        for name in ("a", "b"):
            if value.get(name) is not None:
                expected[name] = value[name]
    borders = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    wholes = [b"".join(map(event, stream[a:b])) for a, b in pairwise(borders)]
    assert captured(plan(a="a", b="b"), *wholes) == expected


def test_an_event_without_a_word_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(capture, "json_of", read.append)
    said = Capture(plan(n="usage.prompt_tokens"))
    for text in ("hello", "usage", "prompt_tokens here"):
        said.see(event(text))
    assert not said.values
    assert read == [event("prompt_tokens here")]


def test_a_member_of_every_event_costs_few_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand events say the model: one in sixteen is read."""
    count = 0
    real = capture.json_of

    def counted(block: bytes) -> object:
        nonlocal count
        count += 1
        return real(block)

    monkeypatch.setattr(capture, "json_of", counted)
    stream = [event({"model": f"m{n}"}) for n in range(1000)]
    assert captured(plan(model="model"), *stream) == {"model": "m999"}
    assert count <= 1000 // 16 + 1


BAD = [
    b"data: {model\n\n",
    b'data: {"model": NaN}\n\n',
    b'data: {"model": 1e999}\n\n',
    b'data: ["model"]\n\n',
    b"event: model\n\n",
    b": model\n\n",
    b"data: model\n\n",
    b'data: {"model": ' + b"[" * 500 + b"]" * 500 + b"}\n\n",
    b'data: {"model": ' + b'"x",\ndata: "model":' * 2000 + b'"x"}\n\n',
    b'data: {"model": {"a": 1}}\n\n',
    b'data: {"model": [1]}\n\n',
    b"data: {%b}\n\n" % b",".join(b'"m%d":[],"model":1' % n for n in range(60_000)),
    b'data: {"model": %d}\n\n' % 2**63,
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_event_is_passed_over(bad: bytes) -> None:
    """Not JSON, nested too deeply, of too many lines or values, or a value that is none: the one before it counts."""
    assert captured(plan(model="model"), event({"model": "good"}), bad) == {"model": "good"}


def test_what_is_kept_is_short() -> None:
    said = captured(plan(a="a", b="b", c="c"), event({"a": "x" * 5000, "b": "\ud800", "c": True}))
    assert said == {"a": "x" * 256 + "…", "b": "?", "c": True}


def test_a_large_event_is_not_read() -> None:
    large = event({"model": "x", "text": "y" * capture.LARGEST_EVENT})
    small = event({"model": "z", "text": "y" * 1000})
    assert captured(plan(model="model"), small, large) == {"model": "z"}


def test_little_is_held() -> None:
    said = Capture(plan(model="model"))
    most = 0
    for _ in range(1000):
        said.see(event({"model": "x", "text": "y" * 30_000}))
        most = max(most, said.held)
    assert most <= 64 * 1024


def test_a_capture_beside_a_marker_changes_nothing_of_it() -> None:
    for when in (b"eof", b"[DONE]", b"event:done"):
        plain, watching = Completion(when), Watch(when, Capture(USAGE))
        for whole in (b"data: [DON\n\n", b"event: done\ndata: 1\n\n", b"data: [DONE]\n\n"):
            plain.see(whole)
            watching.see(whole)
            assert (plain.seen, plain.asks) == (watching.seen, watching.asks)


WORDS = {
    "usage.prompt_tokens": {b"prompt_tokens"},
    "model": {b"model"},
    "a.b[0].c": {b"c"},
    "a[*].b": {b"a"},
    "a || b": {b"a", b"b"},
    "not_null(a.b, c)": {b"b", b"c"},
    "response.usage.n || usage.n": {b"n"},
    "length(a)": {b"a"},
    "type(a)": set(),
    "a.type(@)": set(),
    "{x: a}.x": set(),
    "a == b": set(),
    "`1`": set(),
    '"ü/name"': {b"name"},
    '"ü"': set(),
}


@pytest.mark.parametrize(("text", "words"), WORDS.items())
def test_words(text: str, words: set[bytes]) -> None:
    assert set(words_of(text)) == words


_PARTS = ["a", "b.c", "a.b", "a[0]", "b[*].a", "*.a", "length(a)", "to_string(b)", "`1`", "a == b"]
_PARTS += [
    "{x: a}",
    "[a, b]",
    "a[?b].c",
    "@",
    "a[]",
    "type(@)",
    "keys(b)",
    "not_null(a, c)",
    "a[1:]",
]
_JSON = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["a", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(_PARTS),
    st.sampled_from(["{}.{}", "{} || {}", "{} && {}", "{} | {}", "{}"]),
    st.sampled_from(_PARTS),
    _JSON,
)
def test_what_has_no_word_says_nothing(left: str, shape: str, right: str, value: object) -> None:
    """The promise that lets events pass unread: no word in the text, no value in the event."""
    text = shape.format(left, right)
    try:
        jmespath.compile(text)
    except jmespath.exceptions.JMESPathError:
        return
    words = words_of(text)
    raw = json.dumps(value).encode()
    if words and not any(word in raw for word in words):
        assert compile_expression(text)(value) is None
