"""Events that relay writes itself: on one data line of JSON, as the route says what they hold."""

from __future__ import annotations

import time
from random import uniform

from relay.config.values import Route
from relay.routing.json_template import JsonTemplate, Roots
from relay.sse.dialects import terminal_event
from relay.sse.json_line import write


def event_of(value: object) -> bytes:
    """One event of the default type. Raises: ValueError, TypeError for what JSON does not have."""
    return f"data: {write(value)}\n\n".encode()


def told(template: JsonTemplate, roots: Roots) -> object:
    """What an event holds. `now` is a root of every event, and is the time at which it is written."""
    if "now" in template.roots:
        roots = {**roots, "now": iso_now()}
    return template.value(roots)


def last_word(route: Route, code: str, message: str, *, retryable: bool) -> bytes:
    """The event that ends a stream which did not come to its end; b"" where the route has none (`dialect = "off"`)."""
    template = route.source.failure_event
    if template is not None:
        error = {"code": code, "message": message, "retryable": retryable}
        return event_of(told(template, {"error": error}))
    return terminal_event(route.dialect, code, message, retryable)


def retry_in(route: Route) -> int:
    """Milliseconds after which a client is to come back (`retry:`), jittered so that not all of them come at once."""
    return round(route.retry_hint * uniform(500, 1500))


def iso_now() -> str:
    """The wall clock in ISO 8601, as `Date.prototype.toISOString` writes it."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
