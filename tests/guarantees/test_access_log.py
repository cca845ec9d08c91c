"""What the access log has, in which form, and where: fields, the upstream's status, files that are moved away."""

from __future__ import annotations

import os
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config import ConfigError, loads
from tests.guarantees.relay_processes import children_of
from tests.harness import EVENT_HEAD, Upstream, chunked, route_to, running
from tests.interop.processes import Server, start_relay, wait_until

FIELDS = '[server]\naccess_log_fields = ["User-Agent", "X-Tenant"]\n'


# -- fields and the upstream's status ------------------------------------------------------------------------------


async def test_chosen_fields_stand_in_both_lines() -> None:
    up = await Upstream.open()
    try:
        async with running(route_to(up, more=FIELDS)) as relay:
            lines = 'User-Agent: a "b" \u00fc\r\nX-Tenant: one\r\nX-Tenant: two\r\nX-Other: no\r\n'
            client = await relay.client()
            await client.send(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1"))
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n") + b"0\r\n\r\n")
            await client.until(b"0\r\n\r\n")
            wanted = {"user-agent": 'a "b" \u00fc', "x-tenant": "one, two"}
            assert (await relay.line(at="start"))["fields"] == wanted
            line = await relay.line()
            assert line["fields"] == wanted
            assert line["upstream_status"] == 200
    finally:
        up.close()


async def test_a_field_that_is_not_sent_is_absent_and_a_long_one_is_cut() -> None:
    up = await Upstream.open()
    try:
        async with running(route_to(up, more=FIELDS)) as relay:
            for fields, wanted in (("", None), (f"X-Tenant: {'x' * 900}\r\n", "x" * 256 + "…")):
                client = await relay.get("/", fields)
                peer, _ = await up.request()
                await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                await client.head()
                line = await relay.line()
                found = line.get("fields", {})
                assert isinstance(found, dict)
                assert found.get("x-tenant") == wanted
    finally:
        up.close()


async def test_a_secret_of_a_path_does_not_come_back_in_a_referer() -> None:
    """A route's path has a literal from the environment; the page below it names it in the Referer of its requests."""
    text = '[server]\naccess_log_fields = "Referer"\n[[routes]]\npath = "/${PLACE}/{rest...}"\nsource = "local"\n'
    async with running(loads(text, {"PLACE": "hidden-place"})) as relay:
        client = await relay.get("/x", "Referer: https://a.example/hidden%2Dplace/page?q=1\r\n")
        await client.head()
        line = await relay.line()
        assert line["fields"] == {"referer": "https://a.example/***/page?q=1"}


async def test_the_upstreams_status_is_not_always_the_clients() -> None:
    """1. An error answer becomes a retry event of 200. 2. A url that cannot be reached has no status."""
    up = await Upstream.open()
    try:
        async with running(route_to(up, 'unavailable = "retry-event"\n')) as relay:
            client = await relay.get("/")
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await client.head()
            line = await relay.line()
            assert (line["status"], line["upstream_status"]) == (200, 503)
            up.close()
            await (await relay.get("/")).head()
            assert "upstream_status" not in await relay.line()
    finally:
        up.close()


CREDENTIALS = [
    "Authorization", "authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "x_api_key", "X-Auth-Token",
    "X-Amz-Security-Token", "X-CSRF-Token", "Api-Key", "X-Session-Id", "X-Hub-Signature-256", "Ocp-Apim-Subscription-Key",
    "Cf-Access-Jwt-Assertion", "X-Forwarded-Access-Token", "X-Password", "X-Client-Secret",
]  # fmt: skip


def test_what_is_no_credential_may_be_logged() -> None:
    names = [
        "User-Agent",
        "Referer",
        "X-Author",
        "X-Tenant",
        "Idempotency-Key",
        "X-Request-Id",
        "Origin",
    ]
    config = loads(
        route_to("http://127.0.0.1:1", more=f"[server]\naccess_log_fields = {names}\n"), {}
    )
    assert config.server.access_log_fields == tuple(name.lower().encode() for name in names)


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_is_refused_with_its_key(name: str) -> None:
    more = f'[server]\naccess_log_fields = ["User-Agent", "{name}"]\n'
    with pytest.raises(ConfigError) as caught:
        loads(route_to("http://127.0.0.1:1", more=more), {})
    [mistake] = caught.value.mistakes
    assert mistake.key == "server.access_log_fields[1]"
    assert "no credential is ever logged" in mistake.message


@pytest.mark.parametrize(
    ("route", "upstream"),
    [
        ("", 'request_headers = { X-Gate = "${GATE}" }'),
        ('request_headers = { X-Gate = "a" }', ""),
        ('methods = ["GET"]\n[routes.resume]\nprincipal = "{header.x-gate}"', ""),
    ],
)
def test_what_the_configuration_uses_as_a_secret_is_refused(route: str, upstream: str) -> None:
    for name in ("X-Gate", "x_gate"):
        more = f'[server]\naccess_log_fields = "{name}"\n'
        text = route_to("http://127.0.0.1:1", route, more=more, upstream_keys=upstream)
        with pytest.raises(ConfigError) as caught:
            loads(text, {"GATE": "open-sesame"})
        [mistake] = caught.value.mistakes
        assert mistake.key == "server.access_log_fields[0]"
        assert "is a secret here" in mistake.message
        assert "open-sesame" not in str(caught.value)


# -- the readable form ---------------------------------------------------------------------------------------------

TEXT = '[server]\naccess_log = "{path}"\naccess_log_format = "text"\naccess_log_fields = "User-Agent"\n'


def served(more: str, workers: int = 1) -> str:
    """A relay that answers by itself."""
    listen = f'listen = "${{LISTEN}}"\nworkers = {workers}\n'
    return f'{more}{listen}[[routes]]\npath = "/{{rest...}}"\nname = "here"\nsource = "local"\n'


def ask(server: Server, path: str = "/", **fields: str) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(server.url + path, headers=fields), timeout=20
    ) as answer:
        answer.read()


def test_text_for_people(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with start_relay(served(TEXT.format(path=path))) as server:
        ask(server, "/a", **{"User-Agent": 'curl/8 "x" \x9b31m'})
        wait_until("it is logged", lambda: path.exists() and path.read_text().endswith("\n"))
        [line] = path.read_text().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} 200 GET /a: complete after 0\.\d{3} s, first byte after 0\.\d{3} s, 127\.0\.0\.1 "
        r'id=[0-9a-f]{16} route=here user-agent="curl/8 \\"x\\" \\u009b31m"',
        line,
    )


async def test_text_is_one_line_whatever_a_peer_sends() -> None:
    """Control characters, line ends of every kind, and what turns the direction of writing: escaped, not written."""
    from relay.observing.ending import Cause, Ending, Phase, Side
    from relay.observing.lines import TextLines
    from relay.observing.record import Record

    bad = "a\r\nb\x1b[31m\x85\u2028\u202e\x00"
    record = Record("id", bad, 0.0)
    record.method, record.path, record.upstream = "GET", bad, bad
    record.fields = {"user-agent": bad}
    line = TextLines().end(record, Ending(Side.CLIENT, Phase.BODY, Cause.LEFT, bad), 1.0)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert " 499 " in line


# -- files that are moved away -------------------------------------------------------------------------------------


@pytest.fixture
def asking() -> Iterator[threading.Event]:
    stop = threading.Event()
    yield stop
    stop.set()


def ids(*paths: Path) -> list[str]:
    """The ids of the whole lines of some files."""
    found = []
    for path in paths:
        text = path.read_text() if path.exists() else ""
        assert not text or text.endswith("\n")
        found += re.findall(r'"at":"end","id":"([0-9a-f]{16})"', text)
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signalled", [True, False], ids=["SIGUSR1", "moved"])
def test_a_file_that_is_moved_away_is_opened_anew(
    tmp_path: Path, workers: int, signalled: bool, asking: threading.Event
) -> None:
    """1. Requests come all the time. 2. The file is moved, five times; with a signal it is there again at once, without one
    when a line is written a second later. 3. Every request has its line, once, in one of the files."""
    path = tmp_path / "access.log"
    config = served(f'[server]\naccess_log = "{path}"\n', workers)
    asked = 0
    with start_relay(config) as server:

        def work() -> None:
            nonlocal asked
            while not asking.is_set():
                ask(server)
                asked += 1

        thread = threading.Thread(target=work)
        thread.start()
        moved = []
        for number in range(5 if signalled else 2):
            wait_until("there are lines", lambda: path.exists() and path.stat().st_size)
            moved.append(path.rename(tmp_path / f"access.{number}"))
            if signalled:
                os.kill(server.pid, signal.SIGUSR1)
            size = moved[-1].stat().st_size
            wait_until("the file is there again", path.exists)
            assert moved[-1].stat().st_size >= size
        asking.set()
        thread.join()
        wait_until("all is logged", lambda: len(ids(path, *moved)) >= asked)
        assert server.stop() == 0
    found = ids(path, *moved)
    assert len(found) == len(set(found)) == asked


def test_the_signal_to_all_processes_drains_none(tmp_path: Path) -> None:
    """`systemctl kill -s USR1` reaches the supervisor and every worker."""
    path = tmp_path / "access.log"
    with start_relay(served(f'[server]\naccess_log = "{path}"\n', 2)) as server:
        before = children_of(server.pid)
        for pid in (server.pid, *before):
            os.kill(pid, signal.SIGUSR1)
        path.rename(tmp_path / "old")
        for pid in (server.pid, *before):
            os.kill(pid, signal.SIGUSR1)
        wait_until("the file is there again", path.exists)
        ask(server)
        wait_until("there is a line", lambda: path.stat().st_size)
        assert children_of(server.pid) == before


def test_a_file_that_cannot_be_opened_anew_goes_on(tmp_path: Path) -> None:
    """1. The folder is renamed: its path leads nowhere, which is said once, and the lines go on to the open file. 2. There
    is a folder again: so is the file."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    with start_relay(served(f'[server]\naccess_log = "{path}"\n')) as server:
        ask(server)
        wait_until("there is a line", lambda: path.stat().st_size)
        elsewhere = folder.rename(tmp_path / "elsewhere")
        for _ in range(3):
            server.signal(signal.SIGUSR1)
            ask(server)
        server.wait_for_line("cannot be opened anew (No such file or directory)")
        wait_until("the lines go on", lambda: len(ids(elsewhere / "access.log")) == 4)
        folder.mkdir()
        server.signal(signal.SIGUSR1)
        ask(server)
        wait_until("the file is there again", lambda: path.exists() and len(ids(path)) == 1)
        assert server.stderr.text.count("cannot be opened anew") == 1


def test_a_reload_changes_the_form_and_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    config = tmp_path / "relay.toml"
    config.write_text(served(f'[server]\naccess_log = "{path}"\n'))
    with start_relay(config) as server:
        ask(server)
        wait_until("there is a line", lambda: path.read_text().endswith("\n"))
        config.write_text(
            config.read_text().replace("[server]", '[server]\naccess_log_format = "text"')
        )
        server.signal(signal.SIGHUP)
        server.wait_for_line("reloaded")
        ask(server)
        wait_until("there are two", lambda: path.read_text().count("\n") == 2)
        first, second = path.read_text().splitlines()
        assert first.startswith("{")
        assert " 200 GET /: complete" in second
