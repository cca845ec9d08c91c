"""All sources that a route may name; the first is the default."""

from __future__ import annotations

from typing import Final

from relay.config.keys.sources import answer, enqueue, files, forward, local

SOURCES: Final = {
    each.plan.name: each
    for each in (forward.SOURCE, enqueue.SOURCE, answer.SOURCE, local.SOURCE, files.SOURCE)
}
