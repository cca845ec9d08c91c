"""What the tests of real clients share."""

from __future__ import annotations

import os
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
