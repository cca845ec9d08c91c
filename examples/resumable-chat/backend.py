"""A chat in the words of the AI SDK that knows nothing of reloads, of second tabs, or of stop buttons.

    hypercorn -k trio --bind 127.0.0.1:9000 backend:app

`POST /api/session` gives a visitor his cookie, DELETE takes it back. The body of `POST /api/chat` is what `useChat` sends;
`"words"` (default 40) and `"every"` (ms between two, default 100) are optional. Without the cookie: 401.
"""

import secrets
from collections.abc import AsyncGenerator
from http.cookies import SimpleCookie
from itertools import count

import trio

from relay.demo.service import Reply, Request, Service, event

TEXT = "An answer is written once and read as often as somebody comes back for it"
WORDS = TEXT.split()

app = Service()
sessions: dict[str, str] = {}  # token → who it is
numbers = count(1)


def user_of(request: Request) -> str | None:
    cookie = SimpleCookie(request.fields.get("cookie", "")).get("session")
    return sessions.get(cookie.value) if cookie is not None else None


@app.route("POST", "/api/session")
async def session(request: Request) -> Reply:
    if user_of(request) is not None:
        return Reply(200, {"session": "known"})
    token = secrets.token_urlsafe(16)
    sessions[token] = f"user-{next(numbers)}"
    cookie = f"session={token}; Path=/; HttpOnly; SameSite=Strict"
    return Reply(200, {"session": "new"}, (("set-cookie", cookie),))


@app.route("DELETE", "/api/session")
async def leave(request: Request) -> Reply:
    user = user_of(request)
    for token in [token for token, whose in sessions.items() if whose == user]:
        del sessions[token]
    return Reply(200, {"session": "over"})


@app.route("GET", "/internal/may-stream")
async def may_stream(request: Request) -> Reply:
    """For `[routes.auth]`, which this example does not need: see docs/how-to/who-may-read.md."""
    user = user_of(request)
    if user is None:
        return Reply(401, {"error": "who are you?"})
    return Reply(200, {}, (("x-user-id", user),))


@app.route("POST", "/api/chat")
async def chat(request: Request) -> Reply | AsyncGenerator[bytes, None]:
    if user_of(request) is None:
        return Reply(401, {"error": "who are you?"})
    asked = request.json()
    return answer(int(asked.get("words", 40)), float(asked.get("every", 100)) / 1000)


async def answer(words: int, every: float) -> AsyncGenerator[bytes, None]:
    yield event({"type": "start"})
    yield event({"type": "text-start", "id": "text"})
    for index in range(words):
        word = WORDS[index % len(WORDS)]
        yield event({"type": "text-delta", "id": "text", "delta": f"{word} "})
        await trio.sleep(every)
    yield event({"type": "text-end", "id": "text"})
    yield event({"type": "finish"})
    yield b"data: [DONE]\n\n"
