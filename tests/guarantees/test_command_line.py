"""The promise: whoever types a command gets what was asked for, or a sentence that says why not; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.config import load

GOOD = '[[routes]]\npath = "/"\nsource = "local"\n'
RELAY = [sys.executable, "-m", "relay"]
WORDS = [
    ["completion", "bash"],
    ["completion", "zsh"],
    ["completion", "fish"],
    ["check", "good.toml"],
    ["--version"],
    ["--help"],
    ["serve", "--help"],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.toml").write_text(GOOD)
    return tmp_path


def run(
    *words: str, cwd: Path, text: str = "", stdout: int = subprocess.PIPE, shell: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [*RELAY, *words]
    if shell:
        command = ["sh", "-c", shell, *command]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        input=text,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_reader_that_is_gone(words: list[str], folder: Path) -> None:
    """As in `relay completion bash | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run(*words, cwd=folder, stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_closed_stdout(words: list[str], folder: Path) -> None:
    ended = run(*words, cwd=folder, shell='exec "$0" "$@" >&-')
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr  # help may go there then


@pytest.mark.parametrize("words", WORDS[:4], ids=" ".join)
def test_a_full_disk(words: list[str], folder: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = run(*words, cwd=folder, stdout=full)
    finally:
        os.close(full)
    assert ended.returncode == 1
    assert ended.stderr == "relay: the output cannot be written: No space left on device\n"


def test_a_mistake_counts_though_nobody_reads_it(folder: Path) -> None:
    ended = run("check", "nope.toml", cwd=folder, shell='exec "$0" "$@" 2>&-')
    assert ended.returncode == 2


def test_check_reads_stdin(folder: Path) -> None:
    (folder / "token").write_text("secret")
    text = GOOD + 'response_headers = { X-A = "{file:./token}" }\n'
    ended = run("check", "-", cwd=folder, text=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "local 200" in ended.stdout
    wrong = run("check", "-", cwd=folder, text=text.replace("local", "locl"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("relay: stdin: routes[0].source (line 3): ")


def test_every_mistake_names_the_file(folder: Path) -> None:
    (folder / "bad.toml").write_text("[server]\nworkers = 0\n[[routes]]\npath = 1\n")
    ended = run("check", "bad.toml", cwd=folder)
    lines = ended.stderr.removeprefix("relay: ").splitlines()
    assert ended.returncode == 2
    assert len(lines) == 3
    assert all(line.startswith("bad.toml: ") and "(line " in line for line in lines)
    (folder / "bad.toml").write_text("[server\n")
    assert run("serve", "bad.toml", cwd=folder).stderr.startswith(
        "relay: bad.toml: TOML (line 1): "
    )


@pytest.mark.parametrize("command", ["forward", "serve", "check", "demo"])
def test_an_unknown_option_shows_what_the_command_takes(command: str, folder: Path) -> None:
    """1. `--port`, as other programs have it. 2. The usage is that of the command, so `--listen` is seen."""
    first = {"forward": ["http://127.0.0.1:1"], "demo": []}.get(command, ["good.toml"])
    ended = run(command, *first, "--port", "8000", cwd=folder)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"usage: relay {command} ")
    assert "--listen" in ended.stderr
    assert ended.stderr.endswith(f"relay {command}: error: unrecognized arguments: --port 8000\n")


def test_what_is_probably_not_meant_is_said_at_the_start_too(folder: Path) -> None:
    """Not everybody runs `relay check` first. Neither can listen, so both end by themselves."""
    nowhere = ["--listen", f"unix:{folder}/no/such/folder.sock"]
    (folder / "unused.toml").write_text(GOOD + '[upstreams.a]\nurl = "http://127.0.0.1:1"\n')
    ended = run("serve", "unused.toml", *nowhere, cwd=folder)
    assert ended.returncode == 1
    assert ended.stderr.startswith("relay: warning: upstreams.a: no route uses it\n")
    ended = run("forward", "http://127.0.0.1:1", *nowhere, "--listen", "127.0.0.1:1", cwd=folder)
    assert ended.returncode == 1
    assert (
        "relay: warning: upstreams.upstream: its url is an address that relay itself"
        in ended.stderr
    )


def test_a_byte_order_mark_in_front(folder: Path) -> None:
    """Windows' editors put it there; it is no part of TOML."""
    (folder / "good.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(folder / "good.toml", {}).routes[0].name == "/"


NO_EPOLL = """
import select, sys
for name in [name for name in dir(select) if "epoll" in name.lower()]:
    delattr(select, name)
from relay.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["serve", "good.toml"], 1),
        (["forward", "http://127.0.0.1:1"], 1),
        (["demo"], 1),
        (["check", "good.toml"], 0),
        (["completion", "zsh"], 0),
        (["serve", "nope.toml"], 2),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else str(each),
)
def test_a_system_without_epoll(words: list[str], code: int, folder: Path) -> None:
    """macOS, for one: a sentence, and what does not serve works there too."""
    ended = subprocess.run(
        [sys.executable, "-c", NO_EPOLL, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ("epoll" in ended.stderr) == (code == 1)


def test_an_asgi_server_on_a_system_without_epoll() -> None:
    """It imports relay, so it is told by what importing raises."""
    ended = subprocess.run(
        [sys.executable, "-c", NO_EPOLL.partition("from")[0] + "import relay.asgi"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr.splitlines()[-1].startswith("ImportError: relay needs Linux")
