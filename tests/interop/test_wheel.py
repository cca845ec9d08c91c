"""The wheel holds what it needs: installed into a bare virtual environment, away from the checkout, every command runs.

What relay depends on is read from the environment of the tests, so that nothing is fetched; that the wheel names it is
the affair of the image's steps in test_packaging.py, which fetch it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.interop.processes import ROOT, Server, start, wait_until

CONFIG = """
[server]
listen = "127.0.0.1:0"
[[routes]]
path = "/"
source = "local"
local = { body = "here" }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """As `pip wheel .` builds it from what git knows of the checkout."""
    known = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(known, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tree = folder / "tree"
    for name in filter(None, names.split("\0")):
        if name.startswith(("relay/", "examples/", "pyproject", "README", "LICENSE")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def binary(wheel: Path, folder: Path) -> Path:
    """The `bin` of a virtual environment with the wheel, and nothing of the checkout."""
    place = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    command = [*pip, "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    [packages] = place.glob("lib/python*/site-packages")
    # A folder that a .pth names is searched, but its own .pth files, and so the checkout, are not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return place / "bin"


def said(binary: Path, *arguments: str) -> str:
    command: list[str | Path] = [binary / arguments[0], *arguments[1:]]
    done = subprocess.run(
        command, cwd=binary, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_what_is_in_it(wheel: Path) -> None:
    """The package with its data, the examples' backends for the demo, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"relay", "trio_relay"}
    for name in ("py.typed", "js/package.json", "js/relay.d.ts", "terminators/nginx.conf"):
        assert f"relay/{name}" in names
    assert not [name for name in names if "__pycache__" in name or "node_modules" in name]


def test_it_is_the_wheel_that_runs(binary: Path) -> None:
    program = "import relay, relay.demo, relay.asgi; print(relay.__file__)"
    assert Path(said(binary, "python", "-c", program).strip()).is_relative_to(binary.parent)


def test_check_and_serve(binary: Path, folder: Path) -> None:
    config = folder / "relay.toml"
    config.write_text(CONFIG)
    assert "METHODS" in said(binary, "relay", "check", str(config))
    assert "server_name a.example;" in said(
        binary, "relay", "terminator", "nginx", "--host", "a.example"
    )
    assert "_relay" in said(binary, "relay", "completion", "bash")
    with running(binary, "serve", str(config)) as server:
        assert httpx.get(server.url).text == "here"
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_demo(binary: Path) -> None:
    """Its page, its module, and a stream of an example's backend."""
    with running(binary, "demo", "--listen", "127.0.0.1:0") as demo:
        assert "<title>" in httpx.get(f"{demo.url}/").text
        assert "streamEvents" in httpx.get(f"{demo.url}/relay.js").text
        events = f"{demo.url}/api/events/file.1"
        other = events.replace("file", "x")
        wait_until("the origin is up", lambda: httpx.get(other).status_code == 404)
        with httpx.stream("GET", events) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert next(response.iter_raw())


@contextmanager
def running(binary: Path, *arguments: str) -> Iterator[Server]:
    command: list[str | Path] = [binary / "relay", *arguments]
    with start(command, cwd=binary, says="relay: listening on ") as server:
        line = server.stderr.wait_for("relay: listening on ")
        server.address = line.split("listening on ", 1)[1].strip()
        yield server
