"""A model that says what a test tells it to, when it tells it: `hypercorn -k trio tests.interop.answers:app`.

`POST /answers/{id}` and `GET /answers/{id}` are its stream, in plain words; the same in the words of the AI SDK
(`/api/chat`, where the body has the `id`), of OpenAI and Anthropic (where it is the `model`) and of LangGraph (where it is
the thread). `PUT /say/{id}` with `{"say": [1, 2]}` makes it say that, with `{"end": true}` come to its end, with
`{"done": true}` say that it is done before it ends, with `{"break": true}` break off. `GET /state` tells of every call,
`GET /asked/{id}` how often an answer was asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, MutableMapping
from typing import Any

import trio

from relay.demo.service import Lost, Receive, Reply, Request, Scope, Send, Service, Stream, event
from tests.interop import models

service = Service()
told: dict[str, trio.MemorySendChannel[dict[str, Any]]] = {}
asked: Counter[str] = Counter()


def orders(id: str) -> trio.MemoryReceiveChannel[dict[str, Any]]:
    """What the test will say to the answer of this name."""
    asked[id] += 1
    told[id], receive = trio.open_memory_channel[dict[str, Any]](math.inf)
    return receive


async def play(
    receive: trio.MemoryReceiveChannel[dict[str, Any]],
    opening: list[bytes],
    word: Callable[[Any], bytes],
    end: list[bytes],
) -> Stream:
    """What every dialect does in the same order."""
    for piece in opening:
        yield piece
    async for order in receive:
        for said in order.get("say", ()):
            yield word(said)
        if order.get("break"):
            raise Lost
        if order.get("done"):
            for piece in end:
                yield piece
        if order.get("done") or order.get("end"):
            return


@service.route("GET", "/answers/{id}")
@service.route("POST", "/answers/{id}")
async def answer(request: Request) -> Stream:
    return play(
        orders(request.parameters["id"]), [event("begun")], event, [event("done", name="done")]
    )


@service.route("POST", "/api/chat")
async def ui_messages(request: Request) -> Stream:
    opening = [models.chunk("start"), models.chunk("text-start", id="t")]
    end = [models.chunk("text-end", id="t"), models.chunk("finish"), b"data: [DONE]\n\n"]
    return play(
        orders(request.json()["id"]),
        opening,
        lambda text: models.chunk("text-delta", id="t", delta=text),
        end,
    )


@service.route("POST", "/v1/chat/completions")
async def completions(request: Request) -> Stream:
    end = [models.chat(reason="stop"), b"data: [DONE]\n\n"]
    return play(orders(request.json()["model"]), [models.chat("")], models.chat, end)


@service.route("POST", "/v1/responses")
async def responses(request: Request) -> Stream:
    opening = [models.responded("created", response=models.response("in_progress"))]
    end = [models.responded("completed", response=models.response("completed"))]
    return play(orders(request.json()["model"]), opening, models.response_text, end)


@service.route("POST", "/v1/messages")
async def messages(request: Request) -> Stream:
    opening, end = list(models.message_opening()), list(models.message_end())
    return play(orders(request.json()["model"]), opening, models.message_text, end)


@service.route("POST", "/threads/{id}/runs/stream")
async def graph(request: Request) -> Stream:
    opening = [event({"run_id": "r1", "attempt": 1}, name="metadata")]
    return play(
        orders(request.parameters["id"]),
        opening,
        lambda said: event({"said": said}, name="values"),
        [event(None, name="end")],
    )


@service.route("PUT", "/say/{id}")
async def say(request: Request) -> Reply:
    channel = told.get(request.parameters["id"])
    if channel is None:
        return Reply(404, {"error": "nobody asked"})
    channel.send_nowait(request.json())
    return Reply(200, {})


@service.route("GET", "/asked/{id}")
async def asked_for(request: Request) -> Reply:
    return Reply(200, asked[request.parameters["id"]])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The service; of LangGraph's runs it says, as LangGraph's server does, where they are."""

    async def with_location(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            place = scope["path"].removesuffix("/stream") + "/r1"
            message["headers"] = [*message["headers"], (b"content-location", place.encode())]
        await send(message)

    graphs = scope["type"] == "http" and scope["path"].startswith("/threads/")
    await service(scope, receive, with_location if graphs else send)
