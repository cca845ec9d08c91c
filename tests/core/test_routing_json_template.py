"""A JSON value with holes: what it becomes, in one step or in several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.reading.expressions import compile_expression
from relay.routing.json_template import Expression, JsonTemplate


def compiled(root: str, rest: str | None) -> Expression | None:
    if root not in ("a", "b"):
        raise ValueError("is not known")
    return None if rest is None else compile_expression(rest)


def parse(value: object) -> JsonTemplate:
    return JsonTemplate.parse(value, compiled)


A = {"x": 1, "list": [{"n": "one"}, {"n": "two"}], "text": "Grüße", "yes": True, "none": None}
ROWS = [
    # What is written, and what it becomes with {"a": A, "b": "B"}
    ("plain", "plain"),
    ("", ""),
    (1, 1),
    (True, True),
    (1.5, 1.5),
    ([], []),
    ({}, {}),
    ("{b}", "B"),
    ("{a}", A),
    ("{a.x}", 1),
    ("{a.yes}", True),
    ("{a.none}", None),
    ("{a.missing.deeper}", None),
    ("{a.list[*].n}", ["one", "two"]),
    ("{a.length(list)}", 2),
    ("{a.text} und {b}", "Grüße und B"),
    ("{a.x}{a.x}", "11"),
    (" {a.x}", " 1"),
    ("no: {a.none}.", "no: ."),
    ("{a.list[0]}!", '{"n":"one"}!'),
    ("{a.yes}!", "true!"),
    ("{{b}}", "{b}"),
    ("{{{b}}}", "{B}"),
    ("{{", "{"),
    ({"k": ["{b}", {"deep": "{a.x}"}], "c": "d"}, {"k": ["B", {"deep": 1}], "c": "d"}),
    ({"{b}": "names are names"}, {"{b}": "names are names"}),
]


@pytest.mark.parametrize(("written", "value"), ROWS)
def test_what_it_becomes(written: object, value: object) -> None:
    roots = {"a": A, "b": "B"}
    template = parse(written)
    assert template.value(roots) == value
    for first in ("a", "b"):
        partly = template.with_known({first: roots[first]})
        assert partly.roots == template.roots - {first}
        assert partly.value(roots) == value


def test_what_stands_in_a_value_is_no_placeholder() -> None:
    template = parse({"x": "{b}", "y": "-{b}-"}).with_known({"b": "{a}"})
    assert template.roots == frozenset()
    assert template.value({}) == {"x": "{a}", "y": "-{a}-"}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{", 'a "{" or "}" without its other half: written twice it stands for itself'),
        ("a}b", 'a "{" or "}" without its other half: written twice it stands for itself'),
        ("{}", "{} is no placeholder"),
        ("{A}", "{A} is no placeholder"),
        ("{c}", "{c} is not known"),
        (["{c.x}"], "{c.x} is not known"),
        ("{a.}", "{a.} it is empty"),
        ("{a.x[}", "{a.x[} it ends too early"),
        ("{a.nothing(@)}", "{a.nothing(@)} there is no function nothing()"),
    ],
)
def test_what_is_wrong(written: object, problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(written)
    assert str(caught.value) == problem


def test_further_members_do_not_replace_its_own() -> None:
    for own in ({"type": "m", "x": "{b}"}, {"type": "m", "x": "B"}):
        template = parse(own).over({"x": 1, "y": 2, "type": 3})
        assert template.value({"b": "B"}) == {"type": "m", "x": "B", "y": 2}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_any_value_with_its_braces_doubled_is_itself(value: object) -> None:
    def doubled(each: object) -> object:
        if isinstance(each, dict):
            return {name: doubled(inner) for name, inner in each.items()}
        if isinstance(each, list):
            return [doubled(inner) for inner in each]
        return each.replace("{", "{{").replace("}", "}}") if isinstance(each, str) else each

    assert parse(doubled(value)).value({}) == value


@given(JSON)
def test_any_value_in_a_hole_is_itself(value: object) -> None:
    assert parse({"v": "{a}"}).value({"a": value}) == {"v": value}
