"""What the command line puts over a file: it is checked as if it stood there, and stays through every reload."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from argparse import _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.cli import parser_of_commands
from relay.config import ConfigError, forward_config, loads, overrides_of
from relay.config.reading.overrides import parse_override
from tests.guarantees.relay_processes import upstream
from tests.harness import EVENT_HEAD, RawPeer, chunked
from tests.interop.processes import ROOT, Server, start_forward, start_relay, wait_until

GOOD = """
[server]
listen = "127.0.0.1:1"
[[routes]]
path = "/{rest...}"
source = "local"
[routes.local]
body = "one"
"""


def relay(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *words],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def body(server: Server, path: str = "/") -> str:
    with urllib.request.urlopen(server.url + path, timeout=20) as answer:
        return str(answer.read().decode())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(GOOD)
    return path


# -- keys and values -----------------------------------------------------------------------------------------------

KEYS = {
    "server.workers=2": (("server", "workers"), 2),
    "server.listen=127.0.0.1:9000": (("server", "listen"), "127.0.0.1:9000"),
    'server.listen=["[::1]:80", "unix:/a"]': (("server", "listen"), ["[::1]:80", "unix:/a"]),
    "server.log_query=true": (("server", "log_query"), True),
    'a="2"': (("a",), "2"),
    "a=": (("a",), ""),
    "a=b=c": (("a",), "b=c"),
    "routes[0].heartbeat=5s": (("routes", 0, "heartbeat"), "5s"),
    'routes[12].request_headers."X-A = b"=${TOKEN}': (
        ("routes", 12, "request_headers", "X-A = b"),
        "${TOKEN}",
    ),
    "upstreams.'a.b'.urls[1]=unix:/x": (("upstreams", "a.b", "urls", 1), "unix:/x"),
    "a=2026-11-25": (("a",), "2026-11-25"),
    "a={ b = 1 }": (("a",), {"b": 1}),
    "a=1\nb = 2": (("a",), "1\nb = 2"),
}


@pytest.mark.parametrize(("text", "wanted"), KEYS.items())
def test_a_key_and_its_value(text: str, wanted: tuple[object, object]) -> None:
    found = parse_override(text)
    assert (found.path, found.value) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=1",
        ".a=1",
        "a.=1",
        "a..b=1",
        "a b=1",
        "a[x]=1",
        "[0]=1",
        'a."b=s3cret',
        "a[=s3cret",
    ],
)
def test_what_is_no_key_is_said_without_its_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"no key|KEY=VALUE|quoted key") as caught:
        parse_override(text)
    assert "s3cret" not in str(caught.value) or "=" not in text.replace("=s3cret", "")


WRONG = {
    "server.workers=0": "server.workers (from --set): found 0, expected an integer",
    "server.workers=0 ": "server.workers (from --set)",
    "sever.workers=2": 'sever (from --set): unknown key; did you mean "server"',
    "server.wrkers=2": 'server.wrkers (from --set): unknown key; did you mean "workers"',
    "routes[7].heartbeat=5s": "routes[7].heartbeat (from --set): there is no such one: routes has 1",
    "routes.heartbeat=5s": "routes.heartbeat (from --set): routes is no table: write an index",
    "server[0]=5s": "server[0] (from --set): server is no array",
    "routes[0].heartbeat.x=5s": "routes[0].heartbeat",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_mistake_names_its_key_and_the_option(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(GOOD, {}, overrides=overrides_of([text], [], None))
    assert any(
        str(each).startswith(message.partition(", exp")[0]) for each in caught.value.mistakes
    )


def test_a_secret_from_outside_is_not_shown() -> None:
    settings = ["server.admin_token=${TOKEN}", "upstreams.b.url=http://x:1/"]
    with pytest.raises(ConfigError) as caught:
        loads(GOOD, {"TOKEN": "s3 cret"}, overrides=overrides_of(settings, [], "0.0.0.0:1"))
    assert "s3" not in str(caught.value)
    overrides = overrides_of(["server.admin_token=s3cret"], [], None)
    assert "s3cret" not in repr(loads(GOOD, {}, overrides=overrides))


# -- the commands --------------------------------------------------------------------------------------------------


def test_check_takes_them_too(config: Path) -> None:
    words = ["--listen", "127.0.0.1:7", "--listen", "[::1]:7", "--admin", "127.0.0.1:8"]
    ended = relay("check", str(config), *words, "--set", "routes[0].local.status=203")
    assert ended.returncode == 0
    assert "listen   127.0.0.1:7, [::1]:7" in ended.stdout
    assert "admin    127.0.0.1:8" in ended.stdout
    assert "local 203" in ended.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_mistake_is_a_sentence_and_exit_2(command: str, config: Path) -> None:
    for words, said in (
        (["--set", "server.workers=none"], "server.workers (from --set): "),
        (["--listen", "nowhere"], "server.listen[0] (from --listen): "),
        (["--admin", "0.0.0.0:99"], "it needs an `admin_token`"),
        (["--set", "workers"], "relay: --set: found"),
    ):
        ended = relay(command, str(config), *words)
        assert ended.returncode == 2, ended
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_they_stay_through_a_reload(config: Path, workers: int) -> None:
    """1. The file's address cannot be had (port 1); the command line names another. 2. The file changes, with a reload: the
    address and the status stay those of the command line, the body is the new one."""
    words = [
        "--listen",
        "127.0.0.1:0",
        "--set",
        f"server.workers={workers}",
        "--set",
        "routes[0].local.status=203",
    ]
    with start_relay(config, None, *words) as server:
        assert body(server) == "one"
        config.write_text(GOOD.replace("one", "two"))
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_line("reloaded")
        wait_until("it is taken", lambda: body(server) == "two")
        with urllib.request.urlopen(server.url, timeout=20) as answer:
            assert answer.status == 203


# -- --watch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_watch_reloads_whenever_the_file_changes(config: Path, workers: int) -> None:
    """1. Written in place. 2. With a mistake: refused, and what was there goes on. 3. Another file in its place."""
    words = ["--watch", "--listen", "127.0.0.1:0", "--set", f"server.workers={workers}"]
    with start_relay(config, None, *words) as server:
        assert body(server) == "one"
        config.write_text(GOOD.replace("one", "two"))
        wait_until("it is taken", lambda: body(server) == "two")
        config.write_text(GOOD.replace("source", "sorce"))
        server.wait_for_line("the new configuration is refused")
        assert body(server) == "two"
        beside = config.with_suffix(".new")
        beside.write_text(GOOD.replace("one", "three"))
        config.unlink()
        beside.rename(config)
        wait_until("it is taken", lambda: body(server) == "three")


def test_without_watch_nobody_looks(config: Path) -> None:
    with start_relay(config, None, "--listen", "127.0.0.1:0") as server:
        config.write_text(GOOD.replace("one", "two"))
        assert body(server) == "one"
        assert "has changed" not in server.stderr.text


def test_stdin_cannot_be_watched() -> None:
    ended = relay("serve", "-", "--watch")
    assert (ended.returncode, "--watch needs a file" in ended.stderr) == (2, True)


# -- relay forward -------------------------------------------------------------------------------------------------


async def test_forward_sets_fields_and_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "key"
    secret.write_text("from-a-file\n")
    monkeypatch.setenv("RELAY_TEST_TOKEN", "from-the-environment")
    words = [
        "--header",
        "Authorization: Bearer ${RELAY_TEST_TOKEN}",
        "--header",
        f"X-Key:{{file:{secret}}}",
    ]
    async with upstream() as up:
        with start_forward(up.url, *words) as server:
            client = await RawPeer.connect(server.port)
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: mine\r\n\r\n")
            peer, head = await up.request()
            assert b"authorization: Bearer from-the-environment\r\n" in head
            assert b"x-key: from-a-file\r\n" in head
            assert b"mine" not in head
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            await client.head()
            server.wait_for_record(lambda record: record["at"] == "end")
            assert server.stop() == 0
            said = server.stdout.text + server.stderr.text
            assert "from-" not in said


async def test_forward_in_a_dialect() -> None:
    async with upstream() as up:
        with start_forward(up.url, "--dialect", "openai") as server:
            client = await RawPeer.connect(server.port)
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
            await client.until(b"data: 0\n\n")
            peer.close()
            # And a clean end, as this protocol has the event
            rest = await client.until(b"0\r\n\r\n")
            assert b'data: {"error":' in rest


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_forward_with_streams_that_are_taken_up_again(method: str) -> None:
    """1. A reader gets an event, and loses its connection. 2. It asks again with Last-Event-ID: it gets the rest."""
    size = "Content-Length: 2\r\n\r\n{}" if method == "POST" else "\r\n"
    async with upstream() as up:
        with start_forward(up.url, "--resume") as server:
            first = await RawPeer.connect(server.port)
            await first.send(f"{method} /s HTTP/1.1\r\nHost: a\r\n{size}".encode())
            peer, _ = await up.request()
            if method == "POST":
                await peer.exactly(2)
            await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
            got = await first.until(b"data: 0\n")
            got += await first.until(b"\n\n")
            found = re.search(rb"\nid: ?([\w-]+)\n", got)
            assert found is not None
            first.close()
            await peer.send(chunked(b"data: 1\n\n"))
            again = await RawPeer.connect(server.port)
            cursor = f"Last-Event-ID: {found[1].decode()}\r\n"
            await again.send(f"{method} /s HTTP/1.1\r\nHost: a\r\n{cursor}{size}".encode())
            rest = await again.until(b"data: 1\n")
            assert b"data: 0" not in rest
            other = await RawPeer.connect(server.port)
            await other.send(b"PROPFIND /s HTTP/1.1\r\nHost: a\r\n\r\n")
            _, head = await up.request()
            assert head.startswith(b"PROPFIND ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--header", "no colon s3cret"], "--header: a header: expected NAME: VALUE"),
        (["--header", "Content-Length: 5"], "--header: Content-Length: cannot be edited"),
        (["--header", "X-A: ${NOT_SET_ANYWHERE}"], "--header: X-A: the environment variable"),
        (["--header", "X-A: s3cret", "--header", "x-a: s3cret"], '"x-a" stands twice'),
        (["--header", "X-A: s3cret\x01"], "--header: X-A: a line break or control character"),
        (["--dialect", "opnai"], 'did you mean "openai"'),
    ],
)
def test_a_mistake_of_forward(words: Sequence[str], said: str) -> None:
    ended = relay("forward", "http://127.0.0.1:1", *words)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "s3cret" not in ended.stderr


def test_forward_without_options_is_as_it_was() -> None:
    [route] = forward_config("http://127.0.0.1:1").routes
    assert (route.methods, route.resume, route.dialect) == (None, None, "plain")
    assert not route.expects_events


# -- the page ------------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_on_the_page() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text("utf-8")
    [commands] = [
        each for each in parser_of_commands()._actions if isinstance(each, _SubParsersAction)
    ]
    for name, command in commands.choices.items():
        section = page.partition(f"## `relay {name}")[2].partition("\n## ")[0]
        assert section, name
        for action in command._actions:
            for flag in action.option_strings:
                assert flag in ("-h", "--help") or f"`{flag}" in section, (name, flag)
