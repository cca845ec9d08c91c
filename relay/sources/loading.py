"""What does what a plan says: `run` of the module in this room that has the plan's name.

Loaded when a route is configured, because only some routes need it. And not at the first request: loading opens files, for
which there may be no descriptor then, and takes milliseconds in which every stream would stand still.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import cast

from relay.config.values import Source
from relay.sources.context import Context
from relay.sources.reply import Reply

Run = Callable[[Source, Context], Awaitable[Reply]]


def run_of(plan: Source) -> Run:
    """What a source brings for a request. It raises Failure or Fault where that is no response."""
    return cast(Run, import_module(f"relay.sources.{plan.name}").run)
