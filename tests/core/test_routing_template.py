"""Templates: each value stays in its place, whatever it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.routing.pattern import decode
from relay.routing.template import Template, TemplateError, query_value


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("/", b"/"),
        ("/v1/x?y=1&z", b"/v1/x?y=1&z"),
        ("/v1/é?q=é", b"/v1/%C3%A9?q=%C3%A9"),
        # Parameters of the route: raw in the path, encoded anew in the query.
        ("/v1/{id}/logs", b"/v1/a%2Fb/logs"),
        ("/v1/{path.id}/logs", b"/v1/a%2Fb/logs"),
        ("/{rest}", b"/x/y%20z/"),
        ("/v1/events/{path}", b"/v1/events/file.123"),
        ("/v1?id={id}", b"/v1?id=a%2Fb"),
        ("/v1?rest={rest}", b"/v1?rest=x%2Fy%20z%2F"),
        ("/{odd}", b"/a%20%3F%23%00\xff"),
        # Everything else is encoded everywhere.
        ("/q/{query.q}", b"/q/a%26b%20c%2Fd"),
        ("/q?x={query.q}&y={query.empty}", b"/q?x=a%26b%20c%2Fd&y="),
        ("/s?u={body.user_id}&m={reply.message_id}", b"/s?u=u%26x%3D1&m=42"),
        ("/s/{body.user_id}", b"/s/u%26x%3D1"),
        ("/s/{body.deep.er}/{body.yes}/{body.half}", b"/s/%C3%BC/true/0.5"),
        ("/s?x={body.nothing-here}", b"/s?x="),
        ("/{id}?a={id}?b", b"/a%2Fb?a=a%2Fb?b"),
    ],
)
def test_render(text: str, target: bytes) -> None:
    rendered = Template.parse(text).render(
        path={
            "id": b"a%2Fb",
            "rest": b"x/y%20z/",
            "path": b"file.123",
            "odd": b"a ?#\x00\xff",
        },
        query=b"q=a%26b+c/d&q=second&empty&x=1",
        body={
            "user_id": "u&x=1",
            "deep": {"er": "ü"},
            "yes": True,
            "half": 0.5,
            "nothing-here": "",
        },
        reply={"message_id": 42},
    )
    assert rendered == target


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'it starts with "/"'),
        ("v1", 'it starts with "/"'),
        ("http://x/", 'it starts with "/"'),
        ("/a b", "' ' cannot stand in it"),
        ("/a#b", "'#' cannot stand in it"),
        ("/a\nb", "'\\n' cannot stand in it"),
        ("/a%2", '"%" must be followed by two hex digits'),
        ("/{a", 'a "{" or "}" without its other half'),
        ("/a}", 'a "{" or "}" without its other half'),
        ("/{}", "{} is no placeholder: a route parameter, query.x, body.x or reply.x"),
        ("/{a b}", "{a b} is no placeholder: a route parameter, query.x, body.x or reply.x"),
        (
            "/{cookie.x}",
            "{cookie.x} is no placeholder: a route parameter, query.x, body.x or reply.x",
        ),
        ("/{body.}", "{body.} is no placeholder: a route parameter, query.x, body.x or reply.x"),
        ("/{rest...}", "here the rest is written {rest}, without the dots"),
        ("/{query.a.b}", "{query.a.b}: query has names without dots"),
        ("/{path.a.b}", "{path.a.b}: path has names without dots"),
        ("/a/../b", "a dot segment is refused"),
        ("/a/%2E%2e", "a dot segment is refused"),
    ],
)
def test_refuse(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Template.parse(text)
    assert str(caught.value) == problem


def test_names_are_full_names() -> None:
    template = Template.parse("/{id}/{path.x}?a={query.q}&b={body.c.d}&e={reply.f}")
    assert template.names == {"path.id", "path.x", "query.q", "body.c.d", "reply.f"}
    assert template.has_query
    assert not Template.parse("/{id}").has_query
    assert str(template) == template.text


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("/{id}", "path.id", "has no value"),
        ("/{query.q}", "query.q", "has no value"),
        ("/{query.empty}", "query.empty", "is empty"),
        ("/{body.x}", "body.x", "has no value"),
        ("/{body.null}", "body.null", "has no value"),
        ("/{body.text.x}", "body.text.x", "has no value"),
        ("/?x={body.list}", "body.list", "is no string, number or boolean"),
        ("/?x={body.object}", "body.object", "is no string, number or boolean"),
        ("/{body.empty}", "body.empty", "is empty"),
        ("/?x={body.lone}", "body.lone", "is not valid Unicode"),
        ("/{reply.x}", "reply.x", "has no value"),
    ],
)
def test_an_error_names_the_placeholder_and_never_the_value(
    text: str, name: str, problem: str
) -> None:
    body = {
        "null": None,
        "text": SECRET,
        "list": [SECRET],
        "object": {"a": SECRET},
        "empty": "",
        "lone": SECRET + "\ud800",
    }
    with pytest.raises(TemplateError) as caught:
        Template.parse(text).render(path={}, query=b"empty=", body=body, reply=[SECRET])
    assert caught.value.name == name
    assert str(caught.value) == f"{{{name}}} {problem}"


@pytest.mark.parametrize(
    "value", ["..", ".", "../admin", "a/../b", "..\\admin", "..;x", "a/..;x=1/b", "..;/admin"]
)
def test_no_value_makes_a_dot_segment_for_any_server(value: str) -> None:
    with pytest.raises(TemplateError, match="dot segment"):
        Template.parse("/v1/{body.x}/logs").render(body={"x": value})
    Template.parse("/v1?x={body.x}").render(body={"x": value})


@pytest.mark.parametrize(
    "raw", [b"..", b"%2e%2E", b".%2e", b"a/../b", b"a%2F..%2Fb", b"..%5Cb", b"x/..;y/z"]
)
def test_no_parameter_of_the_route_makes_a_dot_segment(raw: bytes) -> None:
    with pytest.raises(TemplateError, match="dot segment"):
        Template.parse("/v1/{rest}").render(path={"rest": raw})


def test_dots_inside_a_segment_are_only_dots() -> None:
    template = Template.parse("/v1/{body.x}")
    for value in ("file.123", "a..b", "...", ".hidden"):
        assert template.render(body={"x": value}) == b"/v1/" + value.encode()


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"", None),
        (b"a=1&b=2", b"2"),
        (b"b", b""),
        (b"b=", b""),
        (b"b=1&b=2", b"1"),
        (b"%62=x+y%2B", b"x y+"),
        (b"b=a=b", b"a=b"),
        (b"bb=1", None),
    ],
)
def test_query_value(query: bytes, value: bytes | None) -> None:
    assert query_value(query, "b") == value


JSON_TEXT = st.text() | st.sampled_from(["a/b", "..", "a?b#c", "x\r\nHost: y", " ", "%2e%2e"])
TARGET = re.compile(rb"/[!-\"$->@-~\x80-\xff]*(\?[!-\"$-~\x80-\xff]*)?")


@given(JSON_TEXT, JSON_TEXT, st.binary(), st.binary())
def test_a_rendered_target_is_always_one_target_of_the_same_shape(
    first: str, second: str, raw: bytes, query: bytes
) -> None:
    template = Template.parse("/v1/{body.a}/x/{rest}?q={reply.b}&r={query.c}&s={rest}&end")
    try:
        target = template.render(
            path={"rest": raw}, query=b"c=" + query, body={"a": first}, reply={"b": second}
        )
    except TemplateError:
        return
    assert TARGET.fullmatch(target)
    path, _, query_out = target.partition(b"?")
    segments = path.split(b"/")
    assert segments[1] == b"v1"
    assert decode(segments[2]) == first.encode()
    assert segments[3] == b"x"
    assert [pair.partition(b"=")[0] for pair in query_out.split(b"&")] == [b"q", b"r", b"s", b"end"]
    assert query_value(query_out, "q") == second.encode()
