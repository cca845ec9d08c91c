"""source = "local": a route that has no upstream, answered by relay itself."""

from __future__ import annotations

import trio

from relay.config.keys.sources.local import Local
from relay.http.bodies import Fields
from relay.sources.context import Context
from relay.sources.reply import Reply


async def run(plan: Local, context: Context) -> Reply:
    """The status and the body that the route names."""
    await trio.lowlevel.checkpoint()
    fields: Fields = [(b"x-content-type-options", b"nosniff")]
    if plan.body:
        fields.insert(0, (b"content-type", plan.content_type))
    return Reply(plan.status, fields, body=plan.body)
