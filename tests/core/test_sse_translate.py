"""Translation as a table: the broker's vocabulary into the client's, and everything that can be
odd."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sse import (
    Event,
    EventParser,
    Rule,
    Translation,
    TranslationError,
    Translator,
    serialise,
)
from relay.sse.translate import Expression
from tests.core.sse_oracle import interpret


def path(text: str) -> Expression:
    return jmespath.compile(text).search


BROKER = Translation(
    "broker",
    (
        Rule("queued", data={"type": "status", "state": "queued"}),
        Rule("processing", data={"type": "progress"}),
        Rule("done", data={"type": "complete"}, last=True),
        Rule("error", data={"type": "error"}, last=True),
        Rule("ping", drop=True),
    ),
)


def translate(translation: Translation, stream: bytes) -> list[Event]:
    return Translator(translation).feed(EventParser(silent=True).feed(stream))


def one(rule: Rule, event: Event) -> Event:
    (out,) = Translator(Translation("t", (rule,))).feed([event])
    return out


def test_the_broker_line_by_line() -> None:
    """Design §6.4, with a heartbeat, an id alone and an event nobody knows."""
    stream = (
        b'event: queued\nid: 1\ndata: {"position": 2}\n\n'
        b":\n\n"
        b'event: processing\ndata: {"text": "Hel"}\n\n'
        b"id: 2\n\n"
        b"event: ping\ndata: {}\n\n"
        b"event: surprise\nid: 3\ndata: {}\n\n"
        b'event: done\nretry: 9\ndata: {"response": "Hello"}\n\n'
        b'event: queued\ndata: {"position": 0}\n\n'
    )
    translator = Translator(BROKER)
    assert translator.has_last
    out = translator.feed(EventParser(silent=True).feed(stream))
    assert translator.complete
    assert b"".join(map(serialise, out)).decode() == (
        'data: {"type":"status","state":"queued","position":2}\nid: 1\n\n'
        'data: {"type":"progress","text":"Hel"}\n\n'
        "id: 2\n\n"
        "id: 3\n\n"
        'data: {"type":"complete","response":"Hello"}\nretry: 9\n\n'
    )
    assert translator.feed([Event("{}", "queued")]) == []


@pytest.mark.parametrize(
    ("data", "carried"),
    [
        ('{"a": 1, "b": null}', {"a": 1, "b": None}),
        ('{"kind": "theirs"}', {}),
        ("plain text", {"data": "plain text"}),
        ('"text"', {"data": "text"}),
        ("3", {"data": 3}),
        ("[1, 2]", {"data": [1, 2]}),
        ("null", {"data": None}),
        ("", {}),
        ("NaN", {"data": "NaN"}),
        ('{"a": Infinity}', {"data": '{"a": Infinity}'}),
        ("1e999", {"data": "1e999"}),
        ('{"a": 1', {"data": '{"a": 1'}),
        ("two\nlines", {"data": "two\nlines"}),
        ("[" * 100_000, {"data": "[" * 100_000}),
        ("9" * 5000, {"data": "9" * 5000}),
        ('{"a": "ä€😀\\u2028\\u0085"}', {"a": "ä€😀\u2028\x85"}),
        ('{"a": "\\ud800"}', {"a": "\ud800"}),
    ],
)
def test_what_is_carried(data: str, carried: dict[str, object]) -> None:
    out = one(Rule("message", data={"kind": "ours"}), Event(data))
    assert out.data is not None
    assert out.data.splitlines() == [out.data]
    assert json.loads(out.data) == {"kind": "ours", **carried}
    assert interpret(serialise(out)).events[0].data == out.data


def test_members_win_in_order() -> None:
    rule = Rule(
        "message",
        data={"a": "literal", "b": "literal"},
        fields={"b": path("x"), "n": path("length(list)"), "none": path("length(x)")},
    )
    out = one(rule, Event('{"a": 0, "b": 0, "c": 0, "x": 5, "list": [1, 2]}'))
    assert json.loads(out.data or "") == {
        **{"a": "literal", "b": 5, "c": 0, "x": 5, "list": [1, 2]},
        **{"n": 2, "none": None},
    }


def test_without_carry() -> None:
    rule = Rule("message", data={"type": "x"}, fields={"y": path("b")}, carry=False)
    assert one(rule, Event('{"a": 1, "b": 2}')).data == '{"type":"x","y":2}'


def test_the_type_is_the_rules() -> None:
    event = Event("{}", "theirs", "7", 10, ("comment",))
    assert one(Rule("theirs"), event) == Event("{}", "", "7", 10)
    assert one(Rule("theirs", event="ours"), event) == Event("{}", "ours", "7", 10)


@pytest.mark.parametrize(
    ("expression", "data", "matches"),
    [
        ("state == 'x'", '{"state": "x"}', True),
        ("state == 'x'", '{"state": "y"}', False),
        ("n", '{"n": 0}', True),
        ("n", '{"n": ""}', False),
        ("n", '{"n": []}', False),
        ("n", '{"n": {}}', False),
        ("n", '{"n": false}', False),
        ("n", '{"n": null}', False),
        ("n", "{}", False),
        ("n", "not json", False),
        ("data == 'text'", "text", True),
        ("length(n) > `1`", '{"n": 5}', False),
        ("nope(n)", '{"n": 5}', False),
        ("max_by(n, &a)", '{"n": [{"a": 1}, {"a": "x"}]}', False),
    ],
)
def test_jmespath_truth(expression: str, data: str, matches: bool) -> None:
    rule = Rule(expression, when=path(expression))
    out = Translator(Translation("t", (rule,))).feed([Event(data, "any")])
    assert bool(out) is matches


def test_the_first_rule_counts() -> None:
    translation = Translation(
        "t", (Rule("a", data={"r": 1}), Rule("x", when=path("x"), data={"r": 2}), Rule("b"))
    )
    stream = b'event: a\ndata: {"x": 1}\n\nevent: b\ndata: {"x": 1}\n\nevent: b\ndata: {}\n\n'
    assert [json.loads(e.data or "") for e in translate(translation, stream)] == [
        {"r": 1, "x": 1},
        {"r": 2, "x": 1},
        {},
    ]


def test_message_is_the_default_type() -> None:
    stream = b"data: {}\n\nevent: message\ndata: {}\n\nevent: other\ndata: {}\n\n"
    assert len(translate(Translation("t", (Rule("message"),)), stream)) == 2


def test_unmatched_may_pass() -> None:
    event = Event("as it is", "foo", "1", 2, ("c",))
    passing = Translation("t", BROKER.rules, unmatched="pass")
    assert Translator(passing).feed([event]) == [event]
    assert Translator(BROKER).feed([event]) == [Event(id="1", retry=2)]


def test_a_dropped_event_may_be_the_last() -> None:
    translator = Translator(Translation("t", (Rule("end", drop=True, last=True),)))
    assert translator.feed([Event("", "end"), Event("", "end", "1")]) == []
    assert translator.complete


def test_no_last_rule() -> None:
    assert not Translator(Translation("t", (Rule("a"),))).has_last


def test_a_literal_that_is_not_json() -> None:
    with pytest.raises(TranslationError, match=r"^a: what the rule makes is not JSON$"):
        one(Rule("a", data={"x": b"bytes"}), Event("{}", "a"))


def doubled(event: Event) -> Iterator[Event]:
    yield event
    yield Event(f"again {event.data}", id=event.id)


def failing(event: Event) -> Iterator[Event]:
    yield event
    raise KeyError("secret of " + (event.data or ""))


def bad_id(event: Event) -> list[Event]:
    return [Event("a", id="1\n2")]


def no_event(event: Event) -> list[object]:
    return ["text"]


def test_a_function() -> None:
    out = translate(Translation("f", function=doubled), b"data: a\nid: 1\n\nid: 2\n\ndata: b\n\n")
    assert [(event.data, event.id) for event in out] == [
        ("a", "1"),
        ("again a", "1"),
        (None, "2"),
        ("b", None),
        ("again b", None),
    ]


@pytest.mark.parametrize(
    ("function", "kind"), [(failing, KeyError), (bad_id, ValueError), (no_event, TypeError)]
)
def test_a_function_that_fails(function: object, kind: type[Exception]) -> None:
    translation = Translation("f", function=function)  # type: ignore[arg-type]
    with pytest.raises(TranslationError) as caught:
        translate(translation, b"data: hush\n\n")
    assert isinstance(caught.value.__cause__, kind)
    assert str(caught.value) == f"{caught.value.name}: failed with {kind.__name__}"
    assert caught.value.name.startswith("tests.core.test_sse_translate:")


members = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["queued", "processing", "ping", "", "nobody"]),
            members.map(json.dumps) | st.text(),
        ),
        max_size=6,
    )
)
def test_every_output_parses_and_the_order_is_kept(given_events: list[tuple[str, str]]) -> None:
    upstream = [
        Event(data, kind, id=str(number)) for number, (kind, data) in enumerate(given_events)
    ]
    out = Translator(BROKER).feed(upstream)
    assert [event.id for event in out] == [event.id for event in upstream]
    reading = interpret(b"".join(map(serialise, out)))
    kinds = {"queued": "status", "processing": "progress"}
    expected = [kinds[kind] for kind, _ in given_events if kind in kinds]
    assert [json.loads(event.data)["type"] for event in reading.events] == expected
