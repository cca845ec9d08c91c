"""Which store a configuration means. Each is imported where it is used only."""

from __future__ import annotations

from relay.config.values import Streams
from relay.stores.store import Store


def open_store(streams: Streams) -> Store | None:
    """The store of this process, opened; None: its memory is all. Raises: StoreUnusable."""
    assert streams.store in ("auto", "memory"), "the configuration knows no other yet"
    return None
