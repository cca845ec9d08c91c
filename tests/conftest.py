"""What every test has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import RawPeer


@pytest.fixture(autouse=True)
def ends_of_connections() -> Iterator[None]:
    """A test closes what it opens; one that fails leaves it to this, so that the next one is not blamed."""
    yield
    RawPeer.close_all()
