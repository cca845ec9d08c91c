"""A model that says what a test tells it to, when it tells it: `hypercorn -k trio tests.interop.answers:app`.

`POST /answers/{id}` and `GET /answers/{id}` are its stream; `PUT /say/{id}` with `{"say": [1, 2]}` makes it say that, with
`{"end": true}` come to its end, with `{"break": true}` break off. `GET /state` tells of every call.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from relay.demo.service import Lost, Reply, Request, Service, Stream, event

app = Service()
told: dict[str, trio.MemorySendChannel[dict[str, Any]]] = {}


@app.route("GET", "/answers/{id}")
@app.route("POST", "/answers/{id}")
async def answer(request: Request) -> Stream:
    send, receive = trio.open_memory_channel[dict[str, Any]](math.inf)
    told[request.parameters["id"]] = send
    return _answer(receive)


async def _answer(orders: trio.MemoryReceiveChannel[dict[str, Any]]) -> Stream:
    yield event("begun")
    async for order in orders:
        for word in order.get("say", ()):
            yield event(word)
        if order.get("break"):
            raise Lost
        if order.get("end"):
            return


@app.route("PUT", "/say/{id}")
async def say(request: Request) -> Reply:
    channel = told.get(request.parameters["id"])
    if channel is None:
        return Reply(404, {"error": "nobody asked"})
    channel.send_nowait(request.json())
    return Reply(200, {})
