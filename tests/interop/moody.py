"""A backend in one of several moods: `MOOD=silent hypercorn -k trio tests.interop.moody:app`.

well      three events, the first of which names the mood
silent    a head and no event
comments  a head and comments, no event
busy      503
cut       one event, and the connection breaks
closed    a head, and the connection breaks
"""

from __future__ import annotations

import os

import trio

from relay.demo.service import Lost, Reply, Request, Service, Stream, event

MOOD = os.environ.get("MOOD", "well")
app = Service()


@app.route("GET", "/events")
async def get(request: Request) -> Stream | Reply:
    return Reply(503, {"mood": MOOD}) if MOOD == "busy" else _events()


@app.route("POST", "/events")
async def post(request: Request) -> Stream | Reply:
    return await get(request)


async def _events() -> Stream:
    while MOOD in ("silent", "comments"):
        if MOOD == "comments":
            yield b": thinking\n\n"
        await trio.sleep(0.02)
    if MOOD == "closed":
        raise Lost
    yield event(MOOD)
    if MOOD == "cut":
        raise Lost
    for number in range(2):
        yield event(number)
