"""The log of a job, from its first line to its end, for one reader at a time as far as it knows.

    hypercorn -k trio --bind 127.0.0.1:9000 backend:app

`?lines=30` and `?every=100` (ms between two) make it shorter or faster; `Last-Event-ID` resumes.
"""

from collections.abc import AsyncGenerator

import trio

from relay.demo.service import Reply, Request, Service, event, now

TEXTS = ("checking out", "compiling", "running the tests", "packing", "uploading")

app = Service()


@app.route("GET", "/v1/jobs")
async def jobs(request: Request) -> Reply:
    return Reply(200, {"jobs": ["build", "deploy"]})


@app.route("GET", "/v1/jobs/{id}/logs")
async def logs(request: Request) -> AsyncGenerator[bytes, None]:
    last = request.fields.get("last-event-id", "0")
    return follow(
        request.parameters["id"],
        first=int(last) + 1 if last.isdigit() else 1,
        lines=int(request.query.get("lines", 30)),
        every=float(request.query.get("every", 100)) / 1000,
    )


async def follow(id: str, first: int, lines: int, every: float) -> AsyncGenerator[bytes, None]:
    for number in range(first, lines + 1):
        line = {"job": id, "line": number, "text": TEXTS[number % len(TEXTS)], "at": now()}
        yield event(line, id=str(number))
        await trio.sleep(every)
    yield event({"job": id, "lines": lines}, name="done", id=str(lines + 1))
