"""Work that can block, in threads; each kind has its own number of them, so that none waits for another.

A folder on a dead file server takes the threads of files, and `/metrics` and a reload go on. Trio's default limiter is not
used: it is one for everything, and in an ASGI server it is the host's too. Name look-ups have a rule of their own, see
`upstreams.names`.
"""

from __future__ import annotations

import trio


class Threads:
    """How many threads of one worker do work of a kind: for `limiter=`."""

    __slots__ = ("configuration", "files", "json", "pages", "spans")

    def __init__(self) -> None:
        self.json = trio.CapacityLimiter(1)  # of bounded size: 30 MiB of objects at once
        self.files = trio.CapacityLimiter(8)  # disks are waited for; arbitrary
        # Of the admin listener; one renders, whatever the number
        self.pages = trio.CapacityLimiter(2)
        self.configuration = trio.CapacityLimiter(1)  # a reload comes after the one before
        self.spans = trio.CapacityLimiter(1)  # sent at the end of a drain
