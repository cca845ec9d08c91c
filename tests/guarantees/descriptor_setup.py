"""A test's own process with a limit of descriptors, or at it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count


@contextmanager
def limited(limit: int) -> Iterator[None]:
    """This process may have so many descriptors until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_descriptors_left() -> AbstractContextManager[None]:
    """This process can open nothing more."""
    return limited(lowest_free())


def only_the_reserve_left() -> AbstractContextManager[None]:
    """What can still be opened is numbered in the reserve (an eighth of a small limit)."""
    free = lowest_free()
    return limited(next(limit for limit in count(free) if limit - limit // 8 >= free))


def lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd
