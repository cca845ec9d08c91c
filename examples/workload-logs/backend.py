"""A log service: follows the log of a workload for as long as somebody reads it.

    hypercorn -k trio --bind 127.0.0.1:9000 backend:app

`missing` is a workload it does not know (404), `broken` one whose log cannot be read (500).
`?lines=5` ends after five lines, `?every=20` writes one each 20 ms; `Last-Event-ID` resumes.
"""

from collections.abc import AsyncGenerator
from itertools import count, cycle

import trio

from relay.demo.service import Reply, Request, Service, event, now

WORKLOADS = ("trainer", "indexer", "gateway")
TEXTS = cycle(
    ("pulled image", "mounted /data", "epoch finished, loss 0.31", "GET /healthz 200", "checkpoint")
)

app = Service()


@app.route("GET", "/v1/workloads")
async def workloads(request: Request) -> Reply:
    return Reply(200, {"workloads": WORKLOADS})


@app.route("GET", "/v1/workloads/{id}")
async def workload(request: Request) -> Reply:
    return Reply(200, {"id": request.parameters["id"], "phase": "running"})


@app.route("GET", "/v1/workloads/{id}/logs")
async def logs(request: Request) -> Reply | AsyncGenerator[bytes, None]:
    match request.parameters["id"]:
        case "missing":
            return Reply(404, {"error": "no such workload", "id": "missing"})
        case "broken":
            return Reply(500, b"the log volume is not mounted\n")
    last = request.fields.get("last-event-id", "0")
    return follow(
        request.parameters["id"],
        first=int(last) + 1 if last.isdigit() else 1,
        lines=int(request.query.get("lines", 0)),
        every=float(request.query.get("every", 100)) / 1000,
    )


async def follow(id: str, first: int, lines: int, every: float) -> AsyncGenerator[bytes, None]:
    for number in count(first):
        line = {"workload": id, "line": number, "text": next(TEXTS), "at": now()}
        yield event(line, id=str(number))
        if number == first + lines - 1:
            return
        await trio.sleep(every)
