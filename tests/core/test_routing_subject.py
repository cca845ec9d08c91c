"""Whose a stream is, and which one: placeholders on what a request says."""

from __future__ import annotations

import pytest

from relay.routing.subject import Subject, Values

VALUES = Values(
    params={"id": b"a%2Fb"},
    query=b"q=x+y&empty=",
    payload=b'{"id": "c1"}',
    body={"id": "c1", "n": 7, "deep": {"x": True}, "none": None, "list": [], "lone": "\ud800"},
    fields=[
        (b"x-tenant", b" t1 "),
        (b"x-two", b"a"),
        (b"x-two", b"b"),
        (b"cookie", b"a=1; session=s=1;b=2"),
        (b"cookie", b"b=3"),
    ],
    auth=[(b"x-user-id", b"u9")],
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{id}", ("a/b",)),
        ("{query.q}", ("x y",)),
        ("{body.id}", ("c1",)),
        ("{body.n}", ("7",)),
        ("{body.deep.x}", ("true",)),
        ("{header.X-Tenant}/{body.id}", ("t1", "/", "c1")),
        ("{cookie.session}", ("s=1",)),
        ("{auth.X-User-Id}", ("u9",)),
        ("{body}", ("fb4a11cb3b1da67fe1dbbd6a8fb7e0d5cb8a0d8bc4f9a8ba57ea0b11a1b6c9a1",)),
        # What is missing
        ("{other}", None),
        ("{query.empty}", None),
        ("{body.none}", None),
        ("{body.list}", None),
        ("{body.lone}", ("\ud800",)),
        ("{body.id.x}", None),
        ("{header.x-two}", None),  # which of the two counts?
        ("{cookie.b}", None),
        ("{cookie.SESSION}", None),
        ("{auth.x-other}", None),
        ("x{body.id}{body.none}", None),
    ],
)
def test_values(text: str, parts: tuple[str, ...] | None) -> None:
    found = Subject.parse(text).parts(VALUES)
    if text == "{body}":
        assert found is not None and len(found[0]) == 64
        assert found != Subject.parse(text).parts(Values(payload=b"{}"))
    else:
        assert found == parts


def test_no_body_has_no_hash() -> None:
    assert Subject.parse("{body}").parts(Values()) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "{",
        "{}",
        "{a.b}",
        "{body.}",
        "{header.}",
        "{header.a b}",
        "a{body}\n",
        "{query.a.b}",
    ],
)
def test_what_is_no_subject(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Subject.parse(text)
