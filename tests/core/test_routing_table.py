"""The table: which route takes a request, and that it is what a plain reading of the rules says."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.routing.pattern import Kind, Pattern, decode
from relay.routing.table import Found, MethodNotAllowed, NotFound, RouteTable, find_ties

Written = tuple[str, str]  # "GET,POST" or "" for all, pattern

ROUTES: list[Written] = [
    ("", "/{all...}"),
    ("GET", "/api/v1/workloads/{id}/logs"),
    ("", "/api/{rest...}"),
    ("POST", "/api/chat/stream"),
    ("GET", "/things/{id}"),
    ("POST,PUT", "/things/{name}"),
    ("GET", "/things/new"),
    ("", "/v1/models:run"),
    ("", "/admin"),
    ("DELETE", "/only/{x}"),
]


def parsed(methods: str) -> frozenset[bytes] | None:
    return frozenset(methods.encode().split(b",")) if methods else None


def table(routes: Sequence[Written]) -> RouteTable[str]:
    return RouteTable((Pattern.parse(path), parsed(methods), path) for methods, path in routes)


@pytest.mark.parametrize(
    ("method", "path", "route", "params"),
    [
        ("GET", b"/", "/{all...}", {"all": b""}),
        ("GET", b"/x/y/", "/{all...}", {"all": b"x/y/"}),
        ("GET", b"//x", "/{all...}", {"all": b"/x"}),
        ("GET", b"/api", "/{all...}", {"all": b"api"}),
        ("GET", b"/api/", "/api/{rest...}", {"rest": b""}),
        ("GET", b"/api/x/y", "/api/{rest...}", {"rest": b"x/y"}),
        ("GET", b"/api/v1/workloads/w/logs", "/api/v1/workloads/{id}/logs", {"id": b"w"}),
        ("HEAD", b"/api/v1/workloads/w/logs", "/api/v1/workloads/{id}/logs", {"id": b"w"}),
        ("GET", b"/api/v1/workloads/a%2Fb/logs", "/api/v1/workloads/{id}/logs", {"id": b"a%2Fb"}),
        ("GET", b"/api/v1/workloads//logs", "/api/{rest...}", {"rest": b"v1/workloads//logs"}),
        # The method is part of the match, so the catch-all serves what the route above it does not.
        ("POST", b"/api/v1/workloads/w/logs", "/api/{rest...}", {"rest": b"v1/workloads/w/logs"}),
        ("GET", b"/api/chat/stream", "/api/{rest...}", {"rest": b"chat/stream"}),
        ("POST", b"/api/chat/stream", "/api/chat/stream", {}),
        ("GET", b"/things/new", "/things/new", {}),
        ("PUT", b"/things/new", "/things/{name}", {"name": b"new"}),
        ("GET", b"/things/7", "/things/{id}", {"id": b"7"}),
        ("POST", b"/things/7", "/things/{name}", {"name": b"7"}),
        # No encoding slips past a literal into the catch-all …
        ("GET", b"/%61dmin", "/admin", {}),
        ("GET", b"/%61%64%6D%69%6e", "/admin", {}),
        ("GET", b"/v1/models%3Arun", "/v1/models:run", {}),
        ("POST", b"/api/ch%61t/stream", "/api/chat/stream", {}),
        # … while an encoded slash is no slash, and nothing is decoded twice.
        ("GET", b"/api%2Fchat", "/{all...}", {"all": b"api%2Fchat"}),
        ("GET", b"/%2561dmin", "/{all...}", {"all": b"%2561dmin"}),
        ("GET", b"/ADMIN", "/{all...}", {"all": b"ADMIN"}),
        ("GET", b"/admin/", "/{all...}", {"all": b"admin/"}),
    ],
)
def test_find(method: str, path: bytes, route: str, params: dict[str, bytes]) -> None:
    for seed in range(3):  # whatever the order they were given in
        routes = random.Random(seed).sample(ROUTES, len(ROUTES))
        assert table(routes).find(method.encode(), path) == Found(route, params)


@pytest.mark.parametrize(
    "path",
    [b"", b"*", b"api/x", b"/..", b"/a/../admin", b"/./x", b"/%2e%2e/admin", b"/x/%2E", b"/.%2e"],
)
def test_dot_segments_and_what_is_no_path_match_nothing(path: bytes) -> None:
    assert table(ROUTES).find(b"GET", path) == NotFound()
    assert table(ROUTES).find_path(path) == NotFound()


def test_a_hidden_file_and_dots_inside_a_segment_are_no_dot_segments() -> None:
    for path in (b"/.well-known/x", b"/a..b", b"/...", b"/..a", b"/%2e%2ea"):
        assert isinstance(table(ROUTES).find(b"GET", path), Found)


def test_method_not_allowed_names_the_methods_of_every_route_with_that_path() -> None:
    only = table([("GET", "/a/{x}"), ("POST,PUT", "/a/{y}"), ("DELETE", "/a/b"), ("", "/c")])
    allow = (b"DELETE", b"GET", b"HEAD", b"POST", b"PUT")
    assert only.find(b"PATCH", b"/a/b") == MethodNotAllowed(allow)
    assert only.find(b"PATCH", b"/a/c") == MethodNotAllowed((b"GET", b"HEAD", b"POST", b"PUT"))
    assert only.find(b"GET", b"/x") == NotFound()


def test_head_goes_to_the_route_that_names_it() -> None:
    both = table([("GET", "/a/{x}"), ("HEAD", "/a/{y}")])
    assert both.find(b"HEAD", b"/a/1") == Found("/a/{y}", {"y": b"1"})


def test_a_preflight_finds_the_most_specific_route_by_path() -> None:
    assert table(ROUTES).find_path(b"/only/1") == Found("/only/{x}", {"x": b"1"})
    assert table(ROUTES).find_path(b"/things/new") == Found("/things/new", {})
    assert table([("GET", "/a")]).find_path(b"/b") == NotFound()


@pytest.mark.parametrize(
    ("routes", "ties"),
    [
        ([("GET", "/a"), ("POST", "/a")], []),
        ([("GET", "/a"), ("HEAD", "/a")], []),
        ([("GET", "/a"), ("GET,POST", "/a")], [(0, 1)]),
        ([("", "/a"), ("GET", "/a")], [(0, 1)]),
        ([("", "/a/{x}"), ("", "/b"), ("", "/a/{y}")], [(0, 2)]),
        ([("", "/{x...}"), ("", "/{x}")], []),
        ([("", "/a"), ("", "/%61")], [(0, 1)]),
        ([("", "/a"), ("", "/a"), ("", "/a")], [(0, 1), (0, 2)]),
    ],
)
def test_ties(routes: list[Written], ties: list[tuple[int, int]]) -> None:
    rows = [(Pattern.parse(path), parsed(methods)) for methods, path in routes]
    assert find_ties(rows) == ties
    if ties:
        with pytest.raises(ValueError, match=r"routes 0 and . tie"):
            table(routes)
    else:
        table(routes)


SEGMENTS = st.sampled_from(["a", "b", "%61", "a%2Fb", "", "{x}", "c"])
PATHS = st.lists(st.sampled_from(["a", "b", "c", "%61", "%62", "", "a%2Fb", "."]), max_size=5)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    segments = draw(st.lists(SEGMENTS, min_size=1, max_size=4))
    named = [f"{{x{i}}}" if text == "{x}" else text for i, text in enumerate(segments)]
    return "/" + "/".join([*named, *draw(st.sampled_from([[], ["{rest...}"]]))])


def matches(pattern: Pattern, path: bytes) -> bool:
    """The rules of a pattern, read plainly."""
    segments = [decode(segment) for segment in path[1:].split(b"/")]
    if any(segment in (b".", b"..") for segment in segments):
        return False
    wanted = pattern.segments[:-1] if pattern.has_rest else pattern.segments
    if len(segments) < len(wanted) + pattern.has_rest:
        return False
    if len(segments) > len(wanted) and not pattern.has_rest:
        return False
    return all(
        segment == want.text if want.kind is Kind.LITERAL else segment != b""
        for segment, want in zip(segments, wanted, strict=False)
    )


STANDARD = "DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT"
METHODS = st.sampled_from(["", "GET", "POST", "GET,POST"])


@given(st.lists(st.tuples(METHODS, patterns()), max_size=8), PATHS)
def test_the_walk_finds_what_trying_every_route_in_order_finds(
    written: list[Written], segments: list[str]
) -> None:
    routes: list[Written] = []
    for each in written:
        rows = [(Pattern.parse(path), parsed(methods)) for methods, path in [*routes, each]]
        if not find_ties(rows):
            routes.append(each)
    path = ("/" + "/".join(segments)).encode()
    found = table(routes).find(b"POST", path)
    fitting = sorted(
        (
            (Pattern.parse(text), methods)
            for methods, text in routes
            if matches(Pattern.parse(text), path)
        ),
        key=lambda row: row[0].segments,
    )
    taking = [pattern for pattern, methods in fitting if not methods or "POST" in methods]
    methods = {method for _, names in fitting for method in (names or STANDARD).split(",")}
    methods |= {"HEAD"} if "GET" in methods else set()
    assert table(routes).allowed(path) == tuple(sorted(method.encode() for method in methods))
    if taking:
        assert isinstance(found, Found)
        assert found.value == taking[0].text
        assert found.params.keys() == taking[0].parameters
    else:
        assert isinstance(found, MethodNotAllowed if fitting else NotFound)
