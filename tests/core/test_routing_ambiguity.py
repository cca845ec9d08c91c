"""A path that some other server reads as one of another route is refused; all others are taken as their
bytes stand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.routing.ambiguity import MAX_READ, MAX_READINGS, Unreadable, has_other_readings, readings
from relay.routing.pattern import Kind, Pattern
from relay.routing.table import Ambiguous, Found, MethodNotAllowed, NotFound, RouteTable

Written = tuple[str, str]  # "GET,POST" or "" for all, pattern

GUARDED: list[Written] = [
    ("", "/{rest...}"),
    ("", "/internal/{rest...}"),
    ("", "/files/{name...}"),
    ("", "/items/{id}"),
    ("GET", "/items/{id}/parts"),
    ("", "/admin"),
]


def table(routes: list[Written], *, strict: bool = True) -> RouteTable[str]:
    rows = [
        (Pattern.parse(path), frozenset(methods.encode().split(b",")) if methods else None, path)
        for methods, path in routes
    ]
    return RouteTable(rows, strict=strict)


def refused(found: object) -> bool:
    return isinstance(found, Ambiguous)


@pytest.mark.parametrize(
    "path",
    [
        b"/internal%2Fx",
        b"/internal%2fx",
        b"/%69nternal%2Fx",
        b"//internal/x",
        b"///internal///x",
        b"/%2Finternal/x",
        b"/%2f%2finternal%2fx",
        b"/internal%5Cx",
        b"/internal\\x",
        b"\\internal\\x".replace(b"\\", b"/\\", 1),
        b"/internal;v=1/x",
        b"/;/internal/x",
        b"/internal%3Bv=1/x",
        b"/internal%252Fx",
        b"/%252569nternal/x",
        b"/internal%25%32%46x",
        b"//host/internal/x",
        b"/\\host/internal/x",
        b"/%2Fhost/internal/x",
        b"///host/internal/x",  # WHATWG: any number of slashes, of either kind, before the host
        b"/////host:80/internal/x",
        b"/\\/host/internal/x",
        b"/%2F/host%2Finternal/x",
        b"/admin;jsessionid=1",
        b"//admin",
        b"/%2561dmin",
        b"/items/1%2Fparts",
        b"/items//1",
        b"/x/%252e%252e/admin",
        b"/x/%25%32%65./admin",
        b"/x/..%253Ba/admin",
        b"/files/" + b"a/" * 3000 + b"%252e%252e/x",
        b"/" + b"/" * 8000 + b"internal/x",
        b"/" + b";x/" * 4000 + b"internal/x",
        b"/" + b"%2F" * 5000 + b"internal/x",
    ],
)
def test_refused(path: bytes) -> None:
    assert refused(table(GUARDED).find(b"GET", path))
    assert not refused(table(GUARDED, strict=False).find(b"GET", path))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/files/a%2Fb", "/files/{name...}"),
        (b"/files/a//b;v=1/c%5Cd%252F", "/files/{name...}"),
        (b"/files/%252e%252ex", "/files/{name...}"),
        (b"/internal/x%2F;y", "/internal/{rest...}"),
        (b"/items/a%20b%C3%A4", "/items/{id}"),
        (b"/items/1;v=2", "/items/{id}"),
        (b"/items/100%25", "/items/{id}"),
        (b"/%61dmin", "/admin"),
        (b"/%69nternal/x", "/internal/{rest...}"),
        (b"/x/internal%2Fx", "/{rest...}"),
        (b"/x;y/z", "/{rest...}"),
        (b"/a//b", "/{rest...}"),
        (b"/proxy/https%3A%2F%2Fexample.org%2Fa", "/{rest...}"),
        (b"/files/" + b"a%252F;x%5C//" * 900, "/files/{name...}"),
        (b"/files/" + b"x" * 5000, "/files/{name...}"),
        (b"/files/" + b"%C3%A4" * 600 + b"%2Fx" * 50, "/files/{name...}"),
    ],
)
def test_taken_as_it_stands(path: bytes, route: str) -> None:
    found = table(GUARDED).find(b"GET", path)
    assert isinstance(found, Found)
    assert found.value == route
    assert b"/".join(found.params.values()) in path


def test_a_segment_with_a_slash_in_it_where_nothing_else_could_be_meant() -> None:
    only = table([("", "/{package}"), ("", "/{package}/{version}/meta")])
    assert only.find(b"GET", b"/@scope%2Fname") == Found(
        "/{package}", {"package": b"@scope%2Fname"}
    )


def test_a_route_that_would_refuse_the_method_is_another_route() -> None:
    """POST /items/1/parts is a 405; spelled otherwise it is not sent as one more item."""
    routes = [row for row in GUARDED if row[1] != "/{rest...}"]
    assert isinstance(table(routes).find(b"POST", b"/items/1/parts"), MethodNotAllowed)
    assert refused(table(routes).find(b"POST", b"/items/1%2Fparts"))


def test_one_route_has_no_other() -> None:
    one = table([("", "/{rest...}")])
    for path in (b"//x", b"/a%2Fb;c", b"/%252e%252e/x"):
        assert isinstance(one.find(b"GET", path), Found)


def test_what_matches_nothing_as_it_stands() -> None:
    """It is refused all the same, and the answer says why: a doubled slash is a slip of the client's."""
    routes = [("", "/api/{rest...}"), ("", "/admin")]
    assert refused(table(routes).find(b"GET", b"//api/x"))
    assert isinstance(table(routes).find(b"GET", b"//nothing/x"), NotFound)


@pytest.mark.parametrize("size", [MAX_READ // 4, MAX_READ * 4])
@pytest.mark.parametrize(
    "unit",
    [
        b"%2F",
        b";",
        b"/",
        b"\\",
        b"%25",
        b"/;/",
        b"%252F;x%5C//",
        b"//a",
        b"%2F;",
        b"%",
        b"%2",
        b"/\\",
    ],
)
def test_the_work_is_bounded(unit: bytes, size: int) -> None:
    """Whatever stands in a path: a bounded number of readings, of a bounded part of it."""
    path = (b"/files/" + unit * size)[:size]
    table(GUARDED).find(b"GET", path)
    with suppress(Unreadable):
        assert len(readings(path[:MAX_READ])) <= MAX_READINGS


# -- any table, any path, any server ---------------------------------------------------------------


def merge(path: bytes) -> bytes:
    out = bytearray()
    for byte in path:
        if byte != 47 or out[-1:] != b"/":
            out.append(byte)
    return bytes(out)


def drop_parameters(path: bytes) -> bytes:
    return b"/".join(segment.split(b";")[0] for segment in path.split(b"/"))


def drop_authority(path: bytes) -> bytes:
    if path[:2] != b"//":
        return path
    at = path.find(b"/", 2)
    return path[at:] if at >= 0 else b"/"


SERVERS: dict[str, Callable[[bytes], bytes]] = {
    "nginx": lambda path: merge(unquote_to_bytes(path)),
    "wsgi": unquote_to_bytes,
    "nginx, then wsgi": lambda path: unquote_to_bytes(merge(unquote_to_bytes(path))),
    "servlet": lambda path: unquote_to_bytes(drop_parameters(path)),
    "servlet, late": lambda path: merge(drop_parameters(unquote_to_bytes(path))),
    "node": lambda path: unquote_to_bytes(drop_authority(path.replace(b"\\", b"/"))),
    "iis": lambda path: merge(unquote_to_bytes(path).replace(b"\\", b"/")),
    "merged, then decoded": lambda path: unquote_to_bytes(merge(path)),
    "all": lambda path: drop_authority(
        drop_parameters(unquote_to_bytes(unquote_to_bytes(path)).replace(b"\\", b"/"))
    ),
}


def route_of(routes: list[str], segments: list[bytes]) -> str | None:
    """The most specific route of decoded segments, by trying every one."""
    fitting = []
    for text in routes:
        pattern = Pattern.parse(text)
        wanted = pattern.segments[:-1] if pattern.has_rest else pattern.segments
        if len(segments) < len(wanted) + pattern.has_rest:
            continue
        if len(segments) > len(wanted) and not pattern.has_rest:
            continue
        if all(
            got == want.text if want.kind is Kind.LITERAL else got != b""
            for got, want in zip(segments, wanted, strict=False)
        ):
            fitting.append((pattern.segments, text))
    return min(fitting)[1] if fitting else None


PIECES = [
    "a",
    "b",
    "%61",
    "%2F",
    "/",
    "/",
    "//",
    "\\",
    "%5C",
    ";",
    ";x",
    "%3B",
    "%25",
    "%252F",
    "%2561",
]
PATHS = st.lists(st.sampled_from([*PIECES, "a", "b", "/a", "/b"]), max_size=7)
PATTERNS = st.lists(
    st.sampled_from(
        [
            "/{rest...}",
            "/a",
            "/a/{rest...}",
            "/a/b",
            "/a/{x}",
            "/{x}",
            "/{x}/b",
            "/b/a/{rest...}",
            "/a/b/a",
        ]
    ),
    min_size=1,
    max_size=5,
    unique=True,
)


@given(PATTERNS, PATHS, st.sampled_from(sorted(SERVERS)))
@example(["/{rest...}", "/a/{rest...}"], ["a", "%2F", "b"], "wsgi")
def test_whatever_a_server_reads_it_is_the_same_route(
    routes: list[str], pieces: list[str], server: str
) -> None:
    """If one reads it as of another route, it is refused; what is not refused is the route of its bytes."""
    path = ("/" + "".join(pieces)).encode()
    found = table([("", text) for text in routes]).find(b"GET", path)
    here = route_of(routes, [unquote_to_bytes(segment) for segment in path[1:].split(b"/")])
    read = SERVERS[server](path)
    there = route_of(routes, read[1:].split(b"/")) if read.startswith(b"/") else None
    if there not in (None, here) and len(routes) > 1:
        assert refused(found)
    elif isinstance(found, Found):
        assert found.value == here
    elif isinstance(found, NotFound):
        assert here is None


@given(PATTERNS, PATHS)
def test_an_honest_path_is_never_refused(routes: list[str], pieces: list[str]) -> None:
    """Nothing in it that anyone reads differently, or one route only."""
    path = ("/" + "".join(pieces)).encode()
    found = table([("", text) for text in routes]).find(b"GET", path)
    if not has_other_readings(path) or len(routes) == 1:
        assert not refused(found)
