"""What every test has."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import RawPeer

# Files that take longest, first: so no process is left alone with one of them at the end of a run (`--dist loadfile`).
LONGEST = [
    "interop/test_example_commands.py",
    "guarantees/test_chaos.py",
    "interop/test_page_demo.py",
    "interop/test_packaging.py",
    "guarantees/test_restart.py",
    "interop/test_asgi_hypercorn.py",
    "guarantees/test_store_redis.py",
    "interop/test_cuts_chromium.py",
    "guarantees/test_reload.py",
    "interop/test_terminators.py",
    "guarantees/test_resume_cuts.py",
    "guarantees/test_resume.py",
    "guarantees/test_steps.py",
    "interop/test_patterns.py",
    "guarantees/test_config_from_outside.py",
    "guarantees/test_log_readers.py",
    "interop/test_asgi_contained.py",
    "interop/test_dead_links.py",
    "guarantees/test_streams_outlive.py",
    "io/test_fuzz.py",
]
# The last ones are quick: they fill what is left
ROOMS = [
    "interop",
    "guarantees",
    "io",
    "core",
    "",
]
_ROOT = Path(__file__).parent

# A run in the background of a shell's script ignores Ctrl-C, and every program it starts would too; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, int]:
    path = item.path.relative_to(_ROOT).as_posix()
    place = LONGEST.index(path) if path in LONGEST else len(LONGEST)
    return place, ROOMS.index(path.rpartition("/")[0])


def pytest_collection_finish() -> None:
    """Half a million objects of imported modules stay to the end. A test that collects garbage, to see what it left
    behind, need not walk over them each time: that is 0.2 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ends_of_connections() -> Iterator[None]:
    """A test closes what it opens; one that fails leaves it to this, so that the next one is not blamed."""
    yield
    RawPeer.close_all()
