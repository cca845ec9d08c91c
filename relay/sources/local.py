"""source = "local": a route that has no upstream, answered by relay itself."""

from __future__ import annotations

from pathlib import Path

import trio

from relay.config.interpolation import value_of
from relay.config.values import Local
from relay.http.bodies import Fields
from relay.sources.ask import Ask
from relay.sources.reply import Reply


async def local(plan: Local, ask: Ask) -> Reply:
    """The status and the body that the route names, or a file of its directory."""
    if plan.directory is not None:
        # Tables of types and dates: most relays serve no files.
        from relay.sources.files import file

        return await file(Path(value_of(plan.directory)), ask)
    await trio.lowlevel.checkpoint()
    fields: Fields = [(b"x-content-type-options", b"nosniff")]
    if plan.body:
        fields.insert(0, (b"content-type", plan.content_type))
    return Reply(plan.status, fields, body=plan.body)
