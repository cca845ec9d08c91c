"""A two-step message broker, as the tests of `enqueue` configure it."""

from __future__ import annotations

from collections.abc import Callable

from tests.harness import Relay, settle

ORDER = 'order_by = "body.user_id"\n'
JOB = {"user_id": "ann", "message": "hello"}


def broker(
    url: str,
    *,
    route: str = "",
    enqueue: str = "",
    follow: str = "",
    cancel: bool = False,
    cancel_path: str = "/cancel?id={reply.message_id}",
) -> str:
    """TOML of the message broker, with further lines for each table."""
    told = f"""
[routes.cancel]
upstream = "broker"
path = "{cancel_path}"
timeout = "50ms"
"""
    return f"""
[upstreams.broker]
url = "{url}"
[upstreams.broker.request_headers]
X-API-Key = "k3y"

[[routes]]
path = "/chat"
source = "enqueue"
after_error = "close"
{route}
[routes.enqueue]
upstream = "broker"
path = "/message"
{enqueue}
[routes.follow]
upstream = "broker"
path = "/stream?user_id={{body.user_id}}&message_id={{reply.message_id}}"
translate = "broker"
{follow}
{told if cancel else ""}
[translations.broker.queued]
data = {{ type = "status", state = "queued" }}
[translations.broker.done]
data = {{ type = "complete" }}
last = true
"""


def turns_of(relay: Relay) -> Callable[[], int]:
    found = relay.worker.table.find(b"POST", b"/chat")
    turns = found.value.ordering  # type: ignore[union-attr]
    return lambda: turns.waiting


async def nothing_left(relay: Relay) -> None:
    """No background task, no turn, no count: as before the exchange."""
    worker = relay.worker
    turns = worker.table.find(b"POST", b"/chat").value.ordering  # type: ignore[union-attr]
    origins = [origin for group in worker.groups for origin in group.origins]
    await settle(lambda: not len(worker.background) and not len(turns))
    await settle(lambda: all(origin.streams == 0 for origin in origins))
    await settle(lambda: len(worker.engine) == 1 + sum(len(origin.idle) for origin in origins))
