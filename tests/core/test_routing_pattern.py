"""Patterns: what is written, what is refused and why, what comes before what."""

from __future__ import annotations

import pytest

from relay.routing.pattern import Kind, Pattern, decode


@pytest.mark.parametrize(
    ("text", "kinds", "names"),
    [
        ("/", "L", ("",)),
        ("/api", "L", ("",)),
        ("/api/", "LL", ("", "")),
        ("/api/{id}", "LN", ("", "id")),
        ("/{a}/{b}", "NN", ("a", "b")),
        ("/api/{rest...}", "LR", ("", "rest")),
        ("/{rest...}", "R", ("rest",)),
        ("/a//b", "LLL", ("", "", "")),
        ("/a.b~c/{_x1}", "LN", ("", "_x1")),
    ],
)
def test_parse(text: str, kinds: str, names: tuple[str, ...]) -> None:
    pattern = Pattern.parse(text)
    assert "".join("LNR"[segment.kind] for segment in pattern.segments) == kinds
    assert pattern.names == names
    assert pattern.parameters == {name for name in names if name}
    assert pattern.has_rest == kinds.endswith("R")
    assert str(pattern) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'a path starts with "/"'),
        ("api", 'a path starts with "/"'),
        ("/a?b", "'?' cannot stand in a path"),
        ("/a#b", "'#' cannot stand in a path"),
        ("/a b", "' ' cannot stand in a path"),
        ("/a\\b", "'\\\\' cannot stand in a path"),
        ("/a%2", '"%" must be followed by two hex digits'),
        ("/a%zz", '"%" must be followed by two hex digits'),
        ("/a/../b", '".." as a segment never matches: relay refuses dot segments'),
        ("/%2e", '"%2e" as a segment never matches: relay refuses dot segments'),
        ("/a{b}", 'a parameter is a whole segment: "a{b}" is not'),
        ("/{a}b", 'a parameter is a whole segment: "{a}b" is not'),
        ("/a}", 'a parameter is a whole segment: "a}" is not'),
        ("/{}", '"{}" is no parameter: a name is letters, digits and "_", no digit first'),
        ("/{1a}", '"{1a}" is no parameter: a name is letters, digits and "_", no digit first'),
        ("/{a-b}", '"{a-b}" is no parameter: a name is letters, digits and "_", no digit first'),
        ("/{a}{b}", '"{a}{b}" is no parameter: a name is letters, digits and "_", no digit first'),
        ("/{a...}/b", "{a...} must be the last segment"),
        ("/{a...}/", "{a...} must be the last segment"),
        ("/{a}/{a}", "{a} stands twice"),
        ("/{a}/{a...}", "{a} stands twice"),
    ],
)
def test_refuse(text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Pattern.parse(text)
    assert str(caught.value) == problem


ELSEWHERE = [
    ("/b/*", "{rest...}"),
    ("/*", "{rest...}"),
    ("/b/**", "{rest...}"),
    ("/b/*path", "{path...}"),
    ("/b/*/c", "{name}"),
    ("/c/:id", "{id}"),
    ("/c/:id/d", "{id}"),
    ("/c/:id([0-9]+)", "{id}"),
    ("/c/:path*", "{path...}"),
    ("/d/<id>", "{id}"),
    ("/d/<int:id>", "{id}"),
    ("/d/<path:rest>", "{rest...}"),
    ("/e/[id]", "{id}"),
    ("/e/[...slug]", "{slug...}"),
    ("/f/{rest:path}", "{rest...}"),
    ("/f/{rest:.*}", "{rest...}"),
    ("/f/{id:int}", "{id}"),
    ("/f/{*rest}", "{rest...}"),
    ("/f/{**}", "{rest...}"),
]


@pytest.mark.parametrize(("text", "meant"), ELSEWHERE)
def test_what_means_a_parameter_elsewhere(text: str, meant: str) -> None:
    """Taken as it stands it would match nothing that anybody asks for."""
    with pytest.raises(ValueError, match="did you mean") as caught:
        Pattern.parse(text)
    assert f'did you mean "{meant}"?' in str(caught.value)
    parts = text.split("/")
    parts[min(2, len(parts) - 1)] = meant
    assert Pattern.parse("/".join(parts)).parameters


@pytest.mark.parametrize(
    "text", ["/v1/models:run", "/a*b", "/%2A", "/%3Aid", "/:", "/a/b:c", "/x(y)"]
)
def test_the_same_characters_in_a_path(text: str) -> None:
    assert not Pattern.parse(text).parameters


def test_the_more_specific_pattern_comes_first() -> None:
    ordered = ["/a", "/a/b", "/a/b/{x...}", "/a/{x}", "/a/{x}/c", "/a/{x...}", "/{x}/b", "/{x...}"]
    parsed = [Pattern.parse(text) for text in reversed(ordered)]
    assert [p.text for p in sorted(parsed, key=lambda p: p.segments)] == ordered


def test_patterns_of_one_shape_are_equal_whatever_their_names_and_escapes() -> None:
    assert Pattern.parse("/a/{x}").segments == Pattern.parse("/%61/{y}").segments
    assert Pattern.parse("/a%2Fb").segments != Pattern.parse("/a/b").segments
    assert Pattern.parse("/é").segments == Pattern.parse("/%c3%A9").segments
    assert Pattern.parse("/a").segments[0].kind is Kind.LITERAL


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (b"%61%2F%2f", b"a//"),
        (b"%2561", b"%61"),
        (b"%zz%", b"%zz%"),
        (b"%ff", b"\xff"),
    ],
)
def test_decode_once(raw: bytes, plain: bytes) -> None:
    assert decode(raw) == plain
