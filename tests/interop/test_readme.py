"""What README.md and the tutorial say, done as they say it: commands, files, links, claims."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.habits import HABITS, habits_of
from relay import INSTALL
from tests.interop.curl import curl
from tests.interop.late import openai
from tests.interop.processes import (
    ROOT,
    Server,
    free_port,
    require,
    start,
    start_hypercorn,
    wait_until,
)

README = (ROOT / "README.md").read_text("utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial" / "first-relay.md").read_text("utf-8")
TEXTS = {"", ".md", ".py", ".toml", ".service", ".html", ".js"}
TOKEN = {"MODEL_TOKEN": "a-secret-of-the-operator"}

# What proves each row of README's table: the row's first cell → a test's file.
PROOFS = {
    "an event comes in two halves": "guarantees/test_cut_inside_event.py",
    "the reader leaves": "guarantees/test_disconnect.py",
    "the upstream breaks inside an event": "guarantees/test_cut_inside_event.py",
    "a stream ends without its `[DONE]`": "interop/test_sdks.py",
    "a quiet stream": "guarantees/test_injection.py",
    "only keep-alive comments come": "interop/test_sdks.py",
    "SIGTERM, with streams open": "guarantees/test_drain.py",
    "an upstream fails before it said anything": "interop/test_servers_failover.py",
    "an `EventSource` meets a 503": "interop/test_browser.py",
    "a page is reloaded, a second reader comes, a tab is shown again": (
        "interop/test_resume_ai_sdk.py"
    ),
    "`POST` then `GET` of a two-step broker; one JSON answer as a stream": (
        "interop/test_example_message_broker.py"
    ),
    "a secret": "guarantees/test_secrets.py",
    "the log line of a stream": "guarantees/test_disconnect_stream.py",
}


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands(page: str) -> list[str]:
    """The lines of the blocks without a language, without their comments."""
    lines = [
        line.partition("  #")[0].rstrip() for block in blocks(page) for line in block.split("\n")
    ]
    return [line for line in lines if line]


def command(page: str, start_of_it: str) -> list[str]:
    """The first command that begins so, as the page has it, with this tree's `relay`."""
    line = next(line for line in commands(page) if line.startswith(start_of_it))
    name, *rest = shlex.split(line)
    return [sys.executable, "-m", name, *rest]


@contextlib.contextmanager
def listening(
    command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[Server]:
    with start(command, cwd=cwd, env=env, says="relay: listening on ") as server:
        said = server.stderr.wait_for("relay: listening on ")
        server.address = said.split("listening on ", 1)[1].strip()
        yield server


# -- the two commands ------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "does"), [("demo", "-m relay demo"), ("test", "-m pytest")])
def test_make_knows_both_commands(target: str, does: str) -> None:
    assert f"make {target}" in commands(README)
    done = subprocess.run(
        [require("make"), "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert does in done.stdout


def test_how_to_install_is_said_in_one_place() -> None:
    """Nothing of the package's name is on an index yet, so nobody is told to install it by name. Pages link to
    README's section, messages have `relay.INSTALL`; test_packaging.py installs from a checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    section = README.partition("\n## Install\n")[2].partition("\n## ")[0]
    for extra in ("asgi", "otel", "redis"):
        assert extra in project["optional-dependencies"]
        assert f"`'.[{extra}]'`" in section
        assert INSTALL.format(extra=extra).startswith(f"pip install '.[{extra}]'")
    assert any("pip install ." in command for command in commands(section))
    assert "relay" in project["scripts"]
    pages = [ROOT / "CHANGELOG.md", ROOT / "Makefile"]
    for folder in ("docs", "examples", "packaging", "relay"):
        pages += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    pages = [path for path in pages if path.suffix in TEXTS]
    assert len(pages) > 150
    for path in pages:
        text = path.read_text("utf-8")
        assert project["name"] not in text, path
        if path.suffix == ".md":
            assert not re.search(r"pip install '?\.", text), path


# -- in front of your own backend ------------------------------------------------------------------


def test_forward_and_curl(tmp_path: Path) -> None:
    ask = next(line for line in commands(README) if line.startswith("curl -N"))
    path = ask.rpartition("8000")[2]
    with start_hypercorn("tests.interop.sources:app") as origin:
        forward = [
            part.replace("127.0.0.1:9000", origin.address)
            for part in command(README, "relay forward")
        ]
        with listening([*forward, "--listen", "127.0.0.1:0"]) as relay:
            assert curl(tmp_path, relay.url + path, "-N").status == 404  # the origin's own
            process = subprocess.Popen(
                [require("curl"), "-sN", f"{relay.url}/one"], stdout=subprocess.PIPE
            )
            with process:
                assert process.stdout is not None
                assert process.stdout.readline() == b'data: "only"\n'
                process.send_signal(signal.SIGINT)
            wait_until(
                "the generator is stopped",
                lambda: httpx.get(f"{origin.url}/state").json()["calls"][-1]["state"] == "stopped",
            )


def test_forward_listens_where_the_page_says() -> None:
    forward = command(README, "relay forward")
    assert "listens on 127.0.0.1:8000" in README
    help_text = subprocess.run(
        [*forward[:4], "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "127.0.0.1:8000" in help_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with README's relay.toml, as it is."""
    (tmp_path / "relay.toml").write_text(blocks(README, "toml")[0], encoding="utf-8")
    return tmp_path


def check(folder: Path, page: str = README) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(page, "relay check"),
        cwd=folder,
        env={**os.environ, **TOKEN, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_check_prints_the_route_table(folder: Path) -> None:
    done = check(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/api/chat/{id}/stream" in done.stdout
    assert TOKEN["MODEL_TOKEN"] not in done.stdout


def test_check_names_key_and_line_of_every_mistake(folder: Path) -> None:
    file = folder / "relay.toml"
    text = file.read_text("utf-8").replace("heartbeat =", "hartbeat =")
    file.write_text(text.replace('dialect = "openai"', 'dialect = "opnai"'), encoding="utf-8")
    done = check(folder)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    for wrong, meant in (("hartbeat", "heartbeat"), ("dialect", "openai")):
        line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith(wrong))
        found = next(row for row in said.splitlines() if wrong in row)
        assert str(line) in found
        assert meant in said


def test_serve_does_what_the_file_says(folder: Path) -> None:
    """The path, the token, the silent model as an error event; SIGHUP and SIGTERM."""
    port = free_port()
    file = folder / "relay.toml"
    with start_hypercorn("tests.interop.readme_model:app") as model:
        text = file.read_text("utf-8").replace("127.0.0.1:9000", model.address)
        text = text.replace('first_event = "30s"', 'first_event = "1s"')
        file.write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\n{text}', encoding="utf-8")
        environment = {**TOKEN, "PYTHONPATH": str(ROOT)}
        with listening(command(README, "relay serve"), folder, environment) as relay:
            response = httpx.get(f"{relay.url}/api/chat/7/stream")
            assert "7 Bearer a-secret-of-the-operator" in response.text
            with pytest.raises(openai.APIError) as raised:
                ask_openai(f"{relay.url}/api/chat/silent/stream")
            assert raised.value.code == "upstream_silent"
            relay.process.send_signal(signal.SIGHUP)
            assert httpx.get(f"{relay.url}/api/chat/8/stream").status_code == 200
            relay.process.send_signal(signal.SIGTERM)
            assert relay.process.wait(20) == 0
            assert TOKEN["MODEL_TOKEN"] not in relay.stdout.text + relay.stderr.text


def ask_openai(url: str) -> None:
    """Read a stream with the openai package's own reader."""
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client:
        stream = client.get(url, cast_to=object, stream=True, stream_cls=openai.Stream[object])
        for _ in stream:
            pass


# -- the tutorial ----------------------------------------------------------------------------------


def test_the_tutorial_says_where_its_commands_are() -> None:
    """`make demo` installs what it uses into a folder that no shell looks into by itself."""
    assert 'export PATH="$PWD/.venv/bin:$PATH"' in commands(TUTORIAL)
    made = subprocess.run(
        [require("make"), "--dry-run", "--always-make", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m venv .venv" in made
    assert ".[asgi]" in made


def test_the_tutorial(tmp_path: Path) -> None:
    """From the clock to the cut, in the page's order."""
    (tmp_path / "clock.py").write_text(blocks(TUTORIAL, "python")[0], encoding="utf-8")
    [text] = blocks(TUTORIAL, "toml")
    ports = {"9000": free_port(), "8000": free_port(), "9900": free_port()}
    for old, new in ports.items():
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    (tmp_path / "relay.toml").write_text(text, encoding="utf-8")
    assert check(tmp_path, TUTORIAL).returncode == 0
    clock = command(TUTORIAL, "hypercorn")
    clock[clock.index("127.0.0.1:9000")] = f"127.0.0.1:{ports['9000']}"
    serve = command(TUTORIAL, "relay serve")
    environment = {"PYTHONPATH": str(ROOT)}
    with (
        start(clock, cwd=tmp_path, port=ports["9000"]) as backend,
        listening(serve, tmp_path, environment) as relay,
    ):
        with httpx.stream("GET", f"{relay.url}/api/time/utc") as response:
            assert next(response.iter_lines()) == "data: 0"
        backend.stdout.wait_for("stopped")
        end = relay.wait_for_record(lambda record: record["at"] == "end")
        assert [record["at"] for record in relay.records] == ["start", "end"]
        assert end["ending"] == "client_left"
        command_line = [require("curl"), "-sN", f"{relay.url}/api/time/utc"]
        with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as reading:
            assert reading.stdout is not None
            assert reading.stdout.readline() == "data: 0\n"
            streams = httpx.get(f"http://127.0.0.1:{ports['9900']}/streams").json()
            assert "/api/time/utc" in str(streams)
            backend.kill()
            last = reading.stdout.read().strip().splitlines()[-1]
        assert last.startswith('data: {"type":"error","code":"upstream_broke"')
        assert last.endswith('"retryable":true}')
        assert reading.returncode == 18  # "transfer closed with outstanding read data remaining"
        assert httpx.get(f"{relay.url}/nowhere").status_code == 404
        refused = httpx.post(f"{relay.url}/api/time/utc")
        assert (refused.status_code, "GET" in refused.headers["allow"]) == (405, True)


# -- links and claims ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / "examples").rglob("*.md"),
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def rows_of_the_table() -> list[list[str]]:
    section = README.partition("## What it does that others do not")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return [row for row in cells if row[0]]


def test_every_row_of_the_table_has_its_proof() -> None:
    assert [row[0] for row in rows_of_the_table()] == list(PROOFS)
    assert [proof for proof in PROOFS.values() if not (ROOT / "tests" / proof).exists()] == []


def test_what_the_table_says_of_relay_is_so() -> None:
    """By the program that has measured the others too: `python -m benchmarks.habits --write README.md`."""
    said = {row[0]: row[1] for row in rows_of_the_table()}
    found = habits_of("relay")
    assert found == {habit: said[habit] for habit in HABITS}
