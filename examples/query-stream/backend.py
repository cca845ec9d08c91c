"""A model that answers a query token by token, and costs money for as long as it runs.

    hypercorn -k trio --bind 127.0.0.1:9000 backend:app

The body is `{"query": "…"}`; `"tokens"` (default 400), `"every"` (ms between two, default 50) and
`"think"` (ms before the first) are optional. Without a query: 422.
"""

from collections.abc import AsyncGenerator

import trio

from relay.demo.service import Reply, Request, Service, event, now

TEXT = "A relay passes on what it was given the moment it was given and then it waits"
WORDS = TEXT.split()

app = Service()


@app.route("GET", "/api/v1/models")
async def models(request: Request) -> Reply:
    return Reply(200, {"models": ["small", "large"]})


@app.route("POST", "/api/v1/query/stream")
async def query(request: Request) -> Reply | AsyncGenerator[bytes, None]:
    asked = request.json()
    if not asked.get("query"):
        return Reply(422, {"error": "query is missing"})
    return generate(
        str(asked["query"]),
        tokens=int(asked.get("tokens", 400)),
        every=float(asked.get("every", 50)) / 1000,
        think=float(asked.get("think", 0)) / 1000,
    )


async def generate(
    query: str, tokens: int, every: float, think: float
) -> AsyncGenerator[bytes, None]:
    await trio.sleep(think)
    for index in range(tokens):
        word = WORDS[index % len(WORDS)]
        yield event({"type": "token", "index": index, "text": word + " ", "at": now()})
        await trio.sleep(every)
    yield event({"type": "sources", "sources": ["handbook.pdf"], "characters": len(query)})
    yield event({"type": "done", "at": now()})
