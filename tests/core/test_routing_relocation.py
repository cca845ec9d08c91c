"""An upstream's own address becomes a path on relay, and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.routing.pattern import Pattern
from relay.routing.relocation import Kept, Own, kept, relocated
from relay.routing.template import Template

OWN = (Own(b"http", b"127.0.0.1:8080", b""), Own(b"https", b"Up.example", b""))
BASED = (Own(b"http", b"up:81", b"/base"),)
AS_IT_CAME = Kept(b"", b"")
MOVED = Kept(b"/two", b"/one")


@pytest.mark.parametrize(
    ("route", "template", "path", "target", "expected"),
    [
        ("/{rest...}", None, b"/a/b", b"/a/b?x", AS_IT_CAME),
        ("/a", None, b"/a", b"/a", AS_IT_CAME),
        ("/two/{rest...}", "/one/{rest}", b"/two/a/b", b"/one/a/b?x", MOVED),
        ("/two/{rest...}", "/one/{rest}", b"/two/", b"/one/", MOVED),
        ("/two/{rest...}", "/one/{path.rest}", b"/two/one/", b"/one/one/", MOVED),
        ("/two/{rest...}", "/{rest}", b"/two/x", b"/x", Kept(b"/two", b"")),
        ("/{rest...}", "/one/{rest}", b"/x", b"/one/x", Kept(b"", b"/one")),
        ("/{u}/{rest...}", "/v/{u}/{rest}?u={u}", b"/7/x", b"/v/7/x?u=7", Kept(b"/7", b"/v/7")),
        ("/two/{rest...}", "/one/{rest}/x", b"/two/a", b"/one/a/x",
         Kept(b"/two/a", b"/one/a/x", alone=True)),
        ("/two/{rest...}", "/one?p={rest}", b"/two/a", b"/one?p=a",
         Kept(b"/two/a", b"/one", alone=True)),
        ("/two/{rest...}", "/one-{rest}", b"/two/a", b"/one-a",
         Kept(b"/two/a", b"/one-a", alone=True)),
        ("/a/{id}", "/b/{id}", b"/a/7", b"/b/7", Kept(b"/a/7", b"/b/7", alone=True)),
        ("/a/", "/", b"/a/", b"/", Kept(b"/a", b"", alone=True)),
    ],
)  # fmt: skip
def test_kept(route: str, template: str | None, path: bytes, target: bytes, expected: Kept) -> None:
    parsed = Template.parse(template) if template is not None else None
    assert kept(Pattern.parse(route), parsed, path, target) == expected


@pytest.mark.parametrize(
    ("value", "keeps", "becomes"),
    [
        (b"http://127.0.0.1:8080/x/", AS_IT_CAME, b"/x/"),
        (b"HTTP://127.0.0.1:8080/x?a=http://b/#c", AS_IT_CAME, b"/x?a=http://b/#c"),
        (b"http://127.0.0.1:8080", AS_IT_CAME, b"/"),
        (b"http://127.0.0.1:8080?x", AS_IT_CAME, b"/?x"),
        (b"//127.0.0.1:8080/x", AS_IT_CAME, b"/x"),
        (b"https://UP.example/x", AS_IT_CAME, b"/x"),
        (b"https://up.example:443/x", AS_IT_CAME, b"/x"),
        (b"https://up.example:/x", AS_IT_CAME, b"/x"),
        (b"http://127.0.0.1:8080/one/x", MOVED, b"/two/x"),
        (b"http://127.0.0.1:8080/one/", MOVED, b"/two/"),
        (b"http://127.0.0.1:8080/one", MOVED, b"/two"),
        (b"http://127.0.0.1:8080/one?x", MOVED, b"/two?x"),
        (b"http://127.0.0.1:8080/one/%2e%2E/x", MOVED, b"/two/%2e%2E/x"),
        # another path, host, port or scheme; no absolute address
        (b"http://127.0.0.1:8080/onex", MOVED, None),
        (b"http://127.0.0.1:8080/x", MOVED, None),
        (b"http://127.0.0.1:8080", MOVED, None),
        (b"/one/x", MOVED, None),
        (b"x", AS_IT_CAME, None),
        (b"", AS_IT_CAME, None),
        (b"http://127.0.0.1:8081/x", AS_IT_CAME, None),
        (b"http://127.0.0.1/x", AS_IT_CAME, None),
        (b"https://127.0.0.1:8080/x", AS_IT_CAME, None),
        (b"http://up.example/x", AS_IT_CAME, None),
        (b"http://user@127.0.0.1:8080/x", AS_IT_CAME, None),
        (b"http://127.0.0.1:8080.evil/x", AS_IT_CAME, None),
        (b"http:/127.0.0.1:8080/x", AS_IT_CAME, None),
        # what a browser would take for a host
        (b"http://127.0.0.1:8080//evil/x", AS_IT_CAME, b"/.//evil/x"),
        (b"http://127.0.0.1:8080/\\evil", AS_IT_CAME, None),
        (b"http://127.0.0.1:8080\\evil", AS_IT_CAME, None),
        (b"http://127.0.0.1:8080/\t/evil", AS_IT_CAME, None),
        (b"http://127.0.0.1:8080/one//evil", MOVED, b"/two//evil"),
        (b"http://127.0.0.1:8080/one//evil", Kept(b"", b"/one"), b"/.//evil"),
        # one resource alone
        (b"http://127.0.0.1:8080/b/7/", Kept(b"/a/7", b"/b/7", alone=True), b"/a/7/"),
        (b"http://127.0.0.1:8080/b/7?x", Kept(b"/a/7", b"/b/7", alone=True), b"/a/7?x"),
        (b"http://127.0.0.1:8080/b/7/c", Kept(b"/a/7", b"/b/7", alone=True), None),
        (b"http://127.0.0.1:8080/", Kept(b"/a", b"", alone=True), b"/a/"),
        (b"http://127.0.0.1:8080/x", Kept(b"/a", b"", alone=True), None),
    ],
)  # fmt: skip
def test_location(value: bytes, keeps: Kept, becomes: bytes | None) -> None:
    assert relocated(b"location", value, keeps, OWN) == (value if becomes is None else becomes)


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (b"http://up:81/base/x", b"/x"),
        (b"http://up:81/base", b"/"),
        (b"http://up:81/basement", b"http://up:81/basement"),
        (b"http://up:81/x", b"http://up:81/x"),
        (b"http://up:81/base//evil", b"/.//evil"),
    ],
)
def test_beneath_a_base_path(value: bytes, becomes: bytes) -> None:
    assert relocated(b"content-location", value, AS_IT_CAME, BASED) == becomes


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (b"5; url=http://127.0.0.1:8080/x", b"5; url=/x"),
        (b"0;URL=http://127.0.0.1:8080/x?y", b"0;URL=/x?y"),
        (b"5, url=http://127.0.0.1:8080/x", b"5, url=/x"),
        (b"5", b"5"),
        (b"5; url=http://elsewhere/x", b"5; url=http://elsewhere/x"),
        (b"5; url='http://127.0.0.1:8080/x'", b"5; url='http://127.0.0.1:8080/x'"),
        (b"http://127.0.0.1:8080/x", b"http://127.0.0.1:8080/x"),
    ],
)
def test_refresh(value: bytes, becomes: bytes) -> None:
    assert relocated(b"refresh", value, AS_IT_CAME, OWN) == becomes


PIECES = st.sampled_from(["http:", "//", "/", "127.0.0.1:8080", "\\", "\t", "evil", "@", "?", "#",
                          "one", "..", "%2f", ":", "HTTPS://up.example"])  # fmt: skip


@given(st.lists(PIECES, max_size=8), st.sampled_from([AS_IT_CAME, MOVED, Kept(b"", b"/one")]))
def test_what_is_changed_is_a_path_on_relay(pieces: list[str], keeps: Kept) -> None:
    value = "".join(pieces).encode()
    becomes = relocated(b"location", value, keeps, OWN)
    if becomes != value:
        assert becomes[:1] == b"/"
        assert becomes[1:2] not in (b"/", b"\\")
        assert not set(becomes) & set(b"\t\\")
