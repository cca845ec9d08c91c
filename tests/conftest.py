"""What every test has."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.harness import RawPeer


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
