"""A client's path, where it has a literal in it that is not to be printed."""

from __future__ import annotations

import pytest

from relay.config.values.filled import Filled
from relay.routing.pattern import Pattern
from relay.routing.printed_paths import shown

HIDDEN = Pattern.parse(Filled("/hook/s3cr3t-token/{id}", "/hook/${TOKEN}/{id}")).hidden


def test_what_of_a_pattern_is_hidden() -> None:
    assert {b"s3cr3t-token"} == HIDDEN
    assert Pattern.parse("/hook/s3cr3t/{id}").hidden == frozenset()
    assert Pattern.parse(Filled("/a/b/c", "/${X}/c")).hidden == {b"a", b"b"}
    assert Pattern.parse(Filled("/v-x%41/{id}", "/v-${X}/{id}")).hidden == {b"v-xA"}


@pytest.mark.parametrize(
    ("path", "printed"),
    [
        (b"/hook/s3cr3t-token/1", b"/hook/***/1"),
        (b"/hook/s3cr3t-token", b"/hook/***"),
        (b"//hook//s3cr3t-token/", b"//hook//***/"),
        (b"/hook/%733cr3t-token/1", b"/hook/***/1"),
        (b"/hook%2Fs3cr3t-token%2F1", b"/***"),
        (b"/hook/%2573%33cr3t-token", b"/hook/***"),
        (b"/hook/s3cr3t-token;v=1/x", b"/hook/***/x"),
        (b"/hook/my-s3cr3t-token-too", b"/hook/***"),
        (b"/hook/x?y=s3cr3t-token", b"/hook/***"),
        (b"/hook/other/1", b"/hook/other/1"),
    ],
)
def test_shown(path: bytes, printed: bytes) -> None:
    assert shown(path, HIDDEN) == printed
    assert shown(path, frozenset()) == path


def test_a_short_literal_hides_itself_alone() -> None:
    assert shown(b"/api/capital", frozenset((b"api",))) == b"/***/capital"
