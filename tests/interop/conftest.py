"""What the tests of real clients share."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.processes import ROOT, require

NPM = ROOT / "tests" / "interop" / "npm"


@pytest.fixture(scope="session")
def npm() -> Path:
    """The folder with the npm packages, installed by `make npm` as package-lock.json says.

    A script in it, or below it, finds them by name. Without them the test skips, or fails with RELAY_CI=1.
    """
    require("node")
    modules = NPM / "node_modules"
    lock, installed = NPM / "package-lock.json", modules / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        reason = "the npm packages of the tests are not installed as locked: run `make npm`"
        if os.environ.get("RELAY_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return NPM


@pytest.fixture(scope="session")
def built(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where Vite has built the page of a name: once in a run, by the process that asks first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(name: str) -> Path:
        into, whole = shared / f"page-{name}", shared / f"page-{name}.whole"
        with (shared / f"page-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                vite = npm / "node_modules" / "vite" / "bin" / "vite.js"
                command: list[str | Path] = [require("node"), vite, "build", name]
                command += ["--outDir", into, "--emptyOutDir"]
                ran = subprocess.run(
                    command, cwd=npm, capture_output=True, text=True, timeout=300, check=False
                )
                assert ran.returncode == 0, ran.stdout + ran.stderr
                whole.touch()
        return into

    return build
