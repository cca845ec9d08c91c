"""A message broker with an API key, and beside it the chat engine that keeps the history.

    BROKER_API_KEY=… hypercorn -k trio --bind 127.0.0.1:9000 backend:app
    hypercorn -k trio --bind 127.0.0.1:9001 backend:engine

`POST /api/v1/message {"user_id", "message"}` answers `{"message_id"}`, then
`GET /api/v1/stream?user_id=…&message_id=…` tells how it goes. A worker answers a message while its
stream is read, one of a user at a time and in the order of their arrival. The first word of a
message decides how it goes:

    slow     the broker takes 300 ms to accept it
    refuse   the broker does not accept it (503)
    late     its stream exists only 400 ms after it was accepted (404 until then)
    timeout  the worker gives up: an `error` event
    hang     the worker says nothing any more
    lost     the stream breaks off
"""

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from hmac import compare_digest
from itertools import count, takewhile

import trio

from relay.demo.service import Lost, Reply, Request, Service, event, now

API_KEY = os.environ.get("BROKER_API_KEY", "")
WORD_EVERY = 0.06  # seconds between two words of an answer


@dataclass
class Message:
    id: str
    user_id: str
    text: str
    read: bool = False  # somebody has asked for its stream
    done: trio.Event = field(default_factory=trio.Event)
    accepted: float = field(default_factory=trio.current_time)
    cancelled: bool = False


app = Service()
engine = Service()
messages: dict[str, Message] = {}  # in the order of their arrival
numbers = count(1)


@app.route("POST", "/api/v1/message")
async def enqueue(request: Request) -> Reply:
    if not compare_digest(request.fields.get("x-api-key", ""), API_KEY):
        return Reply(401, {"error": "bad api key"})
    asked = request.json()
    if not asked.get("user_id") or not asked.get("message"):
        return Reply(400, {"error": "user_id and message are needed"})
    text = str(asked["message"])
    if text.startswith("refuse"):
        return Reply(503, {"error": "the queue is full"})
    if text.startswith("slow"):
        await trio.sleep(0.3)
    message = Message(f"m-{next(numbers)}", str(asked["user_id"]), text)
    messages[message.id] = message
    return Reply(202, {"message_id": message.id})


@app.route("POST", "/api/v1/cancel")
async def cancel(request: Request) -> Reply:
    message = messages.get(request.query.get("message_id", ""))
    if message is not None:
        message.cancelled = True
        message.done.set()
    return Reply(200, {"cancelled": message is not None})


@app.route("GET", "/api/v1/messages")
async def arrived(request: Request) -> Reply:
    """What arrived, in order: for the curious, and for the test."""
    fields = ("id", "user_id", "text", "cancelled")
    return Reply(200, [{name: getattr(m, name) for name in fields} for m in messages.values()])


@app.route("GET", "/api/v1/stream")
async def stream(request: Request) -> Reply | AsyncGenerator[bytes, None]:
    message = messages.get(request.query.get("message_id", ""))
    if message is None or message.user_id != request.query.get("user_id"):
        return Reply(404, {"error": "no such message"})
    if message.text.startswith("late") and trio.current_time() < message.accepted + 0.4:
        return Reply(404, {"error": "not yet"})
    return work(message)


async def work(message: Message) -> AsyncGenerator[bytes, None]:
    message.read = True
    earlier = takewhile(lambda other: other is not message, messages.values())
    ahead = [m for m in earlier if m.user_id == message.user_id and m.read and not m.done.is_set()]
    try:
        yield event({"position": len(ahead) + 1, "at": now()}, name="queued")
        for other in ahead:
            await other.done.wait()
        async for piece in answer(message):
            yield piece
    finally:
        message.done.set()


async def answer(message: Message) -> AsyncGenerator[bytes, None]:
    words = f"You said: {message.text}. Here is what I think about it.".split()
    for number, word in enumerate(words):
        await trio.sleep(WORD_EVERY)
        yield event({"text": word, "at": now()}, name="processing")
        if number == 1 and message.text.startswith("timeout"):
            yield event({"message": "the worker gave up after 30 s"}, name="error")
            return
        if number == 1 and message.text.startswith("hang"):
            await trio.sleep_forever()
        if number == 1 and message.text.startswith("lost"):
            raise Lost
    yield event({"response": " ".join(words), "at": now()}, name="done")


@engine.route("GET", "/api/chat/history")
async def history(request: Request) -> Reply:
    return Reply(200, {"history": [], "user_id": request.query.get("user_id")})


@engine.route("PUT", "/api/chat/preferences")
async def preferences(request: Request) -> Reply:
    return Reply(200, request.json())


@engine.route("POST", "/api/chat/message")
async def plain_chat(request: Request) -> Reply:
    return Reply(200, {"response": f"You said: {request.json().get('message')}"})
