"""The source of a route, asked."""

from __future__ import annotations

from relay.config.values import Answer, Enqueue, Forward, Source
from relay.sources.answer import answer
from relay.sources.ask import Ask
from relay.sources.enqueue import enqueue
from relay.sources.forward import forward
from relay.sources.local import local
from relay.sources.reply import Reply


async def bring(source: Source, ask: Ask) -> Reply:
    """What the route's source brings. Raises: Failure, Fault."""
    if isinstance(source, Forward):
        return await forward(source, ask)
    if isinstance(source, Enqueue):
        return await enqueue(source, ask)
    if isinstance(source, Answer):
        return await answer(source, ask)
    return await local(source, ask)
