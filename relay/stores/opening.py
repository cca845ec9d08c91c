"""Which store a configuration means. Each is imported where it is used only."""

from __future__ import annotations

from collections.abc import Callable

from relay.config.values import Streams
from relay.stores.store import Store

DIR = "dir:"


def open_store(streams: Streams, limits: Callable[[], Streams]) -> Store | None:
    """The store of this process, opened; None: its memory is all. Raises: StoreUnusable.

    Args:
        limits: as they are configured just now.
    """
    if streams.store.startswith(DIR):
        from relay.stores.dir_store import DirStore

        return DirStore(streams.store.removeprefix(DIR), lambda: limits().space)
    assert streams.store in ("auto", "memory")
    return None
