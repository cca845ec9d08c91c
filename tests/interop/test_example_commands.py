"""The commands in the READMEs of the examples and in the how-tos, run as they are written.

Of a page the `sh` blocks are one script. The servers of a block that ends with `&` are awaited
before the next block runs; the ports are exchanged for free ones; each `# → text` must be in what
the command above it wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.interop.processes import ROOT, free_port, require

PAGES = [*(ROOT / "examples").glob("*/README.md"), *(ROOT / "docs" / "how-to").glob("*.md")]
MINE = sorted(page for page in PAGES if "# →" in page.read_text("utf-8"))
LIMIT = 90  # seconds for one page

READY = (
    'for port in {ports}; do until (exec 3<>"/dev/tcp/127.0.0.1/$port"); do sleep 0.1; done; done'
)


def script_of(page: Path) -> tuple[str, list[str]]:
    """The page's script, and the texts that must be seen, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks, f"{page} has no commands"
    lines: list[str] = []
    wanted: list[str] = []
    for block in blocks:
        for line in block.splitlines():
            if line.startswith("# → "):
                wanted.append(line.removeprefix("# → ").strip())
                lines.append(f"printf '\\n=== {len(wanted)}\\n'")
            else:
                lines.append(line)
        if block.rstrip().endswith("&"):
            ports = sorted(
                set(
                    re.findall(r"(?:--bind 127\.0\.0\.1:|LISTEN=127\.0\.0\.1:|--port )(\d+)", block)
                )
            )
            lines.append(f"{READY.format(ports=' '.join(ports))} 2>/dev/null")
    script = "\n".join(lines)
    for port in sorted(set(re.findall(r"127\.0\.0\.1:(\d{4})", script))):
        script = re.sub(rf"\b{port}\b", str(free_port()), script)
    return script, wanted


@pytest.fixture
def path_with_relay(tmp_path: Path) -> str:
    """PATH with `relay` and `hypercorn` of this tree in front, and the `python` that has them."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in ("relay", "hypercorn"):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        command.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize("page", MINE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_do_what_the_page_says(page: Path, path_with_relay: str) -> None:
    require("curl")
    script, wanted = script_of(page)
    cwd = page.parent if page.name == "README.md" else ROOT
    environment = {**os.environ, "PATH": path_with_relay, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        ["bash", "-c", script + "\nexit"],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    assert running.stdout is not None
    output = ""
    clock = threading.Timer(LIMIT, os.killpg, (running.pid, signal.SIGKILL))
    clock.start()
    try:
        for line in running.stdout:
            output += line
            if line == f"=== {len(wanted)}\n":
                break  # the servers still run, and hold the pipe
    finally:
        clock.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        running.wait(20)
        running.stdout.close()
    for number, text in enumerate(wanted, start=1):
        before = output.partition(f"=== {number}\n")[0]
        # Several texts may belong to one command: look from the end of the command before it.
        parts = re.split(r"=== \d+\n", before)
        seen = next((part for part in reversed(parts) if part.strip()), "")
        assert text in seen, f"{text!r} is not in:\n{seen}\n--- all:\n{output}"


def test_every_example_and_every_how_to_of_a_system_has_them() -> None:
    names = {page.parent.name for page in MINE if page.name == "README.md"}
    assert names == {p.parent.name for p in (ROOT / "examples").glob("*/relay.toml")}
