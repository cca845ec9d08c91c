"""What a relay says of itself on stderr and in its log, with one worker or with many."""

from __future__ import annotations

import logging
import sys

from relay.serving.reload import Change, Refused

logger = logging.getLogger("relay")


def announce(names: list[str]) -> None:
    """Say that connections are accepted, a line for each listener."""
    print("".join(f"relay: listening on {name}\n" for name in names), end="", file=sys.stderr)


def tell_refused(refused: Refused) -> None:
    logger.error("the new configuration is refused, nothing changes: %s", refused)


def tell_reloaded(change: Change) -> None:
    logger.info("reloaded")
    announce([listener.name for listener in change.opened])
    for key in change.restart:
        logger.warning("%s has changed: that takes effect at the next start", key)
