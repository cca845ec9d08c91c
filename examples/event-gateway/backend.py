"""An event bus with a bearer token: what happened to a file, a project, a user.

    BACKEND_TOKEN=… hypercorn -k trio --bind 127.0.0.1:9000 backend:app

Without the token: 401. The kind of entity before the dot must be one it knows, or 404.
"""

import os
from collections.abc import AsyncGenerator
from hmac import compare_digest
from itertools import count, cycle

import trio

from relay.demo.service import Reply, Request, Service, event, now

TOKEN = os.environ["BACKEND_TOKEN"]
CHANGES = {
    "file": ("uploaded", "scanned", "shared"),
    "project": ("renamed", "archived"),
    "user": ("joined", "typing", "left"),
}

app = Service()


@app.route("GET", "/api/v1/events/{path...}")
async def events(request: Request) -> Reply | AsyncGenerator[bytes, None]:
    if not compare_digest(request.fields.get("authorization", ""), f"Bearer {TOKEN}"):
        return Reply(401, {"error": "who are you?"}, (("WWW-Authenticate", "Bearer"),))
    topic = request.parameters["path"]
    if topic.partition(".")[0] not in CHANGES:
        return Reply(404, {"error": f"nothing happens to {topic}"})
    return changes(topic, every=float(request.query.get("every", 150)) / 1000)


async def changes(topic: str, every: float) -> AsyncGenerator[bytes, None]:
    entity = topic.partition(".")[0]
    for number, change in zip(count(1), cycle(CHANGES[entity])):
        change_of = {"topic": topic, "change": change, "number": number, "at": now()}
        yield event(change_of, name=entity, id=f"{topic}-{number}")
        await trio.sleep(every)
