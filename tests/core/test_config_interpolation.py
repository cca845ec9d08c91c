"""`${NAME}` and `{file:…}`: what is put in, what is missing, and that no value is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import ConfigError, describe, loads
from relay.config.reading.interpolation import Interpolation
from relay.config.values.filled import Filled

SECRET = "s3cret-value"
ENVIRON = {"TOKEN": SECRET, "EMPTY": "", "DOLLAR": "${TOKEN}", "HOST": "example.org", "N": "3"}
NO_NAME = (
    '"${" is not followed by NAME}; a file is written "{file:/path}", and "$${" are the characters'
)
ENVIRON |= {"LINE": "line\n", "WINDOWS": "line\r\n", "BLANK": "\n", "TWO": "one\ntwo\n\n"}


@pytest.fixture
def interpolation(tmp_path: Path) -> Interpolation:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "windows").write_bytes(b"line\r\n")
    (tmp_path / "two").write_text("one\ntwo\n\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (64 * 1024 + 1))
    return Interpolation(ENVIRON, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$5 and {x}", "$5 and {x}"),
        ("Bearer ${TOKEN}", f"Bearer {SECRET}"),
        ("${HOST}/${N}", "example.org/3"),
        ("${NOPE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${NOPE:-}", ""),
        ("Bearer ${LINE}", "Bearer line"),  # as Kubernetes gives a secret that was made from a file
        ("${WINDOWS}", "line"),
        ("${TWO}", "one\ntwo\n"),
        ("${BLANK:-other}", "other"),
        ("${TOKEN:-other}", SECRET),
        ("$${TOKEN}", "${TOKEN}"),
        ("${DOLLAR}", "${TOKEN}"),  # what was put in is not looked at again
        ("{file:./secret}", SECRET),
        ("{file:secret}", SECRET),
        ("{file:./windows}", "line"),
        ("{file:./two}", "one\ntwo\n"),
        ("{file: x}", "{file: x}"),  # a JMESPath, not a path
    ],
)
def test_resolve(interpolation: Interpolation, text: str, value: str) -> None:
    resolved = interpolation.resolve(text)
    assert resolved == value
    if resolved != text:
        assert isinstance(resolved, Filled)
        assert resolved.written == text


def test_an_absolute_file(interpolation: Interpolation, tmp_path: Path) -> None:
    assert interpolation.resolve(f"{{file:{tmp_path}/secret}}") == SECRET


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("${EMPTY}", "the environment variable EMPTY is empty"),
        ("${}", NO_NAME),
        ("${a b}", NO_NAME),
        ("x${TOKEN", NO_NAME),
        ("{file:nope}", "the file nope cannot be read: No such file or directory"),
        (
            "{file:run/secrets/x}",
            "the file run/secrets/x cannot be read: No such file or directory",
        ),
        ("{file:./nope}", "the file ./nope cannot be read: No such file or directory"),
        ("{file:./}", "the file ./ cannot be read: Is a directory"),
        ("{file:./empty}", "the file ./empty is empty"),
        ("{file:./binary}", "the file ./binary is not UTF-8 text"),
        ("{file:./large}", "the file ./large is larger than 64 KiB"),
    ],
)
def test_missing(interpolation: Interpolation, text: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        interpolation.resolve(text)
    assert str(caught.value) == problem


EVERYWHERE = """
[server]
listen = ["${TOKEN}"]
admin = "${TOKEN}"
admin_token = "${TOKEN} x"
workers = "${TOKEN}"
trusted_proxies = ["${TOKEN}"]
proxy_protocol = "${TOKEN}"
via = "${TOKEN} "
request_id_header = "${TOKEN} "
log_query = "${TOKEN}"
[limits]
request_head = "${TOKEN}"
connections = "${TOKEN}"
request_rate = "${TOKEN}"
[timeouts]
idle = "${TOKEN}"
[upstreams.a]
url = "http://user:${TOKEN}@x/"
balance = "${TOKEN}"
tls_ca = "/nope/${TOKEN}"
[upstreams.a.request_headers]
Authorization = "${TOKEN}\\n"
[upstreams.b]
url = "https://x/?${TOKEN}"
[upstreams.c]
url = "https://x/"
tls_ca = "/nope/${TOKEN}"
[upstreams.d]
url = "http://x/"
[[routes]]
path = "/a{${TOKEN}}"
methods = ["${TOKEN}"]
upstream = "${TOKEN}"
upstream_path = "/{${TOKEN}}"
translate = "${TOKEN}"
cors = { origins = ["${TOKEN}"] }
[[routes]]
path = "/b"
upstream = "${TOKEN}"
translate = "${TOKEN}:f"
[[routes]]
path = "/c"
upstream = "d"
translate = "os:${N}${TOKEN}"
[[routes]]
path = "/d"
upstream = "d"
translate = "json:${UNDER}"
[[routes]]
path = "/e"
source = "files"
[routes.files]
directory = "/nope/${TOKEN}"
[[routes]]
path = "/f"
source = "answer"
[routes.answer]
upstream = "${TOKEN}"
path = "/"
text = "${TOKEN}("
fallback = "${TOKEN}"
"""


def test_no_mistake_shows_what_was_put_in() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(EVERYWHERE, {**ENVIRON, "UNDER": f"_{SECRET}".replace("-", "_")})
    text = str(caught.value)
    assert "s3cret" not in text
    assert "s3cret" not in repr(caught.value.mistakes)
    assert "${TOKEN}" in text
    assert len(caught.value.mistakes) >= 28


def test_neither_repr_nor_description_shows_a_secret() -> None:
    config = loads(
        """
        [server]
        admin = "0.0.0.0:9900"
        admin_token = "${TOKEN}"
        [upstreams.a]
        url = "http://x"
        request_headers = { Authorization = "Bearer ${TOKEN}" }
        [[routes]]
        path = "/a"
        upstream = "a"
        upstream_path = "/a?key=${TOKEN}"
        request_headers = { X-Key = "${TOKEN}" }
        response_headers = { X-Key = "${TOKEN}", Server = "" }
        """,
        ENVIRON,
    )
    assert config.server.admin_token == SECRET
    assert config.upstreams["a"].request_headers.set == (
        (b"authorization", b"Bearer s3cret-value"),
    )
    assert SECRET not in describe(config)
    assert "/a?key=${TOKEN}" in describe(config)
    assert "request_headers set x-key, response_headers set x-key,-server" in describe(config)
    assert SECRET not in repr(config)


def test_numbers_and_switches_may_come_from_the_environment() -> None:
    config = loads(
        """
        [server]
        workers = "${N}"
        log_query = "${FLAG:-true}"
        listen = "${LISTEN:-127.0.0.1:0}"
        [limits]
        connections = "${N}0"
        [[routes]]
        path = "/"
        source = "local"
        """,
        ENVIRON,
    )
    assert config.server.workers == 3
    assert config.server.log_query
    assert str(config.server.listen[0]) == "127.0.0.1:0"
    assert config.limits.connections == 30
