"""Backends in several moods, each under a path of its own, so that a url can name one:
`hypercorn -k trio tests.interop.moody:app`, `http://127.0.0.1:PORT/silent`.

well      three events, the first of which names the mood
silent    a head and no event
comments  a head and comments, no event
busy      503
cut       one event, and the connection breaks
closed    a head, and the connection breaks
"""

from __future__ import annotations

import trio

from relay.demo.service import Lost, Reply, Request, Service, Stream, event

app = Service()


@app.route("GET", "/{mood}/events")
async def get(request: Request) -> Stream | Reply:
    mood = request.parameters["mood"]
    return Reply(503, {"mood": mood}) if mood == "busy" else _events(mood)


@app.route("POST", "/{mood}/events")
async def post(request: Request) -> Stream | Reply:
    return await get(request)


async def _events(mood: str) -> Stream:
    while mood in ("silent", "comments"):
        if mood == "comments":
            yield b": thinking\n\n"
        await trio.sleep(0.02)
    if mood == "closed":
        raise Lost
    yield event(mood)
    if mood == "cut":
        raise Lost
    for number in range(2):
        yield event(number)
