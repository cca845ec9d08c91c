"""What answers requests on a resumable route: loaded by its name when such a route is configured, as its source is.

`resumption` works on exchanges, and stands above the worker that asks for it here; an import would be a circle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, cast

from relay.config.values import Route
from relay.sources.reply import Reply

Resumed = Callable[[Any], Awaitable[Reply]]
"""From the exchange (ClientSide) to its answer: `resumption.resumed`."""


def resumed_of(route: Route) -> Resumed | None:
    """What answers there; None: the route's source alone does."""
    if route.resume is None:
        return None
    return cast(Resumed, import_module("relay.exchange.resumption").resumed)
