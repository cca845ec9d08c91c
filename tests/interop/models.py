"""A model server that speaks the streams of OpenAI, Anthropic and the AI SDK, by script.

`hypercorn -k trio tests.interop.models:app`. The `model` of a request is the name of the script (for the AI SDK
the text of the last message):

  complete    every token, and the dialect's own end
  cut         half an event, and the connection breaks
  unfinished  a clean end, without the marker of completion
  error       an error event of the model's own
  silent      two tokens, and then comments only
  endless     tokens until the client has left

and what servers of that protocol are known for (docs/how-to/openai-compatible.md):

  pings       comments alone, as llama.cpp sends them while it reads a prompt
  unended     a `[DONE]` without its blank line, as of some of its builds
  error-field an error in a field that no reader knows, then `[DONE]`, as of others
  error-done  an error event, then `[DONE]`, as vLLM does
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import trio

from relay.demo.service import Lost, Receive, Reply, Request, Scope, Send, Service, Stream

TOKENS = ["whole ", "events, ", "é and ", "honest ", "ends"]
TEXT = "".join(TOKENS)


class Models(Service):
    """A service whose answers below /api/generate are lines of JSON."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_lines(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(b"content-type", b"application/x-ndjson")]}
            await send(message)

        lines = scope.get("path") == "/api/generate"
        await super().__call__(scope, receive, send_lines if lines else send)


app = Models()
Words = Callable[[str], bytes]


def data(value: object, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def chat(text: str | None = None, reason: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return data({**head, "choices": [choice]})


def responded(kind: str, **more: Any) -> bytes:
    return data({"type": f"response.{kind}", "sequence_number": 0, **more}, f"response.{kind}")


def response_text(text: str) -> bytes:
    place = {"item_id": "i1", "output_index": 0, "content_index": 0, "logprobs": []}
    return responded("output_text.delta", delta=text, **place)


def response(status: str) -> dict[str, Any]:
    head = {"id": "r1", "object": "response", "created_at": 1, "model": "scripted", "output": []}
    return {**head, "status": status, "tools": [], "tool_choice": "auto"}


def message(kind: str, **more: Any) -> bytes:
    return data({"type": kind, **more}, kind)


def message_text(text: str) -> bytes:
    delta = {"type": "text_delta", "text": text}
    return message("content_block_delta", index=0, delta=delta)


def message_opening() -> Iterator[bytes]:
    head: dict[str, Any] = {"id": "m1", "type": "message", "role": "assistant", "model": "scripted"}
    usage = {"input_tokens": 1, "output_tokens": 1}
    began: dict[str, Any] = {
        **head,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield message("message_start", message=began)
    yield message("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield message("ping")


def message_end() -> Iterator[bytes]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield message("content_block_stop", index=0)
    yield message("message_delta", delta=delta, usage={"output_tokens": 5})
    yield message("message_stop")


async def play(
    script: str, opening: list[bytes], word: Words, end: list[bytes], error: bytes
) -> Stream:
    """What every dialect does in the same order."""
    for piece in opening:
        yield piece
    if script == "endless":
        while True:
            yield word("on and ")
            await trio.sleep(0.01)
    for token in TOKENS[:2]:
        yield word(token)
    if script == "cut":
        yield word(TOKENS[2])[:-20]
        raise Lost
    if script == "error":
        yield error
        return
    while script == "silent":
        yield b": still here\n\n"
        await trio.sleep(0.02)
    for token in TOKENS[2:]:
        yield word(token)
    for piece in end if script == "complete" else []:
        yield piece


async def _pings() -> Stream:
    while True:
        yield b":\n\n"
        await trio.sleep(0.05)


@app.route("POST", "/v1/chat/completions")
async def completions(request: Request) -> Reply | Stream:
    script = request.json()["model"]
    if script == "busy":
        return Reply(429, {"error": {"message": "too many", "code": "rate_limit_exceeded"}})
    error = data({"error": {"message": "the model fell over", "code": "model_error"}})
    end = [chat(reason="stop"), b"data: [DONE]\n\n"]
    odd = {
        "unended": [chat(reason="stop"), b"data: [DONE]\n"],
        "error-field": [b"error" + error.removeprefix(b"data"), end[1]],
        "error-done": [error, end[1]],
    }
    if script == "pings":
        return _pings()
    if script in odd:
        return play("complete", [chat("")], chat, odd[script], error)
    return play(script, [chat("")], chat, end, error)


@app.route("POST", "/v1/responses")
async def responses(request: Request) -> Stream:
    opening = [responded("created", response=response("in_progress"))]
    end = [responded("completed", response=response("completed"))]
    fell = {"type": "error", "code": "model_error", "message": "the model fell over"}
    error = data({**fell, "param": None, "sequence_number": 9}, "error")
    return play(request.json()["model"], opening, response_text, end, error)


@app.route("POST", "/v1/messages")
async def messages(request: Request) -> Reply | Stream:
    script = request.json()["model"]
    if script == "busy":
        return Reply(529, {"type": "error", "error": {"type": "overloaded_error", "message": "-"}})
    fell = {"type": "error", "error": {"type": "overloaded_error", "message": "too many people"}}
    opening, end = list(message_opening()), list(message_end())
    return play(script, opening, message_text, end, data(fell, "error"))


@app.route("POST", "/api/generate")
async def generate(request: Request) -> Stream:
    """Ollama's own API: a line of JSON for each token. `cut` breaks inside one."""
    return _lines(request.json()["model"])


async def _lines(script: str) -> Stream:
    while script == "endless":
        yield json.dumps({"response": "on and ", "done": False}).encode() + b"\n"
        await trio.sleep(0.01)
    for token in TOKENS:
        line = json.dumps({"response": token, "done": False}).encode() + b"\n"
        if script == "cut" and token == TOKENS[2]:
            yield line[:-9]
            raise Lost
        yield line
    yield b'{"response":"","done":true}\n'


def chunk(kind: str, **more: Any) -> bytes:
    """A chunk of the AI SDK's UI message stream."""
    return data({"type": kind, **more})


@app.route("POST", "/api/chat")
async def ui_messages(request: Request) -> Stream:
    script = request.json()["messages"][-1]["parts"][0]["text"]
    opening = [chunk("start"), chunk("text-start", id="t")]
    end = [chunk("text-end", id="t"), chunk("finish"), b"data: [DONE]\n\n"]
    error = chunk("error", errorText="the model fell over")
    return play(script, opening, lambda text: chunk("text-delta", id="t", delta=text), end, error)
