"""`relay terminator`: values that cannot end a word of the file, and two halves that meet."""

from __future__ import annotations

import pytest

from relay.cli import main
from relay.config import ConfigError, loads
from relay.terminators import NAMES, Wanted, terminator
from tests.interop.test_terminators import relays_half

HOSTS = ("app.example",)
REST = '\n[[routes]]\npath = "/"\nsource = "local"\n'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relay", ["unix:/run/relay/relay.sock", "127.0.0.1:8000", "[::1]:8000"])
def test_relays_half_is_a_file_that_relay_takes(name: str, relay: str) -> None:
    text = terminator(name, Wanted(HOSTS, relay))
    assert "app.example" in text
    assert not {"<", ">"} & set(text)
    config = loads(relays_half(text) + REST, {})
    assert config.server.listen[0].text.partition("?")[0] == relay
    assert config.server.trusted_proxies


def test_whom_to_believe_on_another_machine_must_be_said() -> None:
    text = terminator("nginx", Wanted(HOSTS, "relay.internal:8000"))
    assert "server relay.internal:8000;" in text
    with pytest.raises(ConfigError, match="trusted_proxies"):
        loads(relays_half(text) + REST, {})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--host", host) for host in ("", "a b", "a;b", "a{", "a\nb", "*.", "-a", "ä.example", "a" * 64)),
        ("--host", ".".join(["a" * 60] * 5)),
        *(("--relay", relay) for relay in ("8000", "fd:3", "unix:/a?mode=660", "unix:/a;b", "unix:/a b")),
        *(("--relay", relay) for relay in ("unix:/a\"b", "127.0.0.1:0", "http://a:1")),
        *(("--certificate", file) for file in ("relative.pem", "/a b", "/a;", "/a\n", "/a}", "")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_could_end_a_word_is_refused(
    name: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [] if option == "--host" else ["--host=app.example"]
    if option == "--certificate" and name in ("nginx", "caddy", "stunnel"):
        rest += ["--key=/key.pem"]
    assert main(["terminator", name, f"{option}={value}", *rest]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"relay: {option}: ")


@pytest.mark.parametrize("name", ["haproxy", "hitch"])
def test_where_one_file_holds_both_another_key_is_a_mistake(name: str) -> None:
    with pytest.raises(ValueError, match="--key"):
        terminator(name, Wanted(HOSTS, certificate="/both.pem", key="/key.pem"))


@pytest.mark.parametrize("name", ["nginx", "caddy", "stunnel"])
def test_half_a_pair_is_a_mistake(name: str) -> None:
    for half in (Wanted(HOSTS, certificate="/a.pem"), Wanted(HOSTS, key="/a.pem")):
        with pytest.raises(ValueError, match="belong together"):
            terminator(name, half)


def test_the_command_line_knows_them_all() -> None:
    for name in NAMES:
        assert main(["terminator", name, "--host", "app.example"]) == 0
