"""A question answering pipeline that thinks for a while and then answers in one piece.

    hypercorn -k trio --bind 127.0.0.1:9000 backend:app

`POST /api/ask {"query"}`. The first word of the query decides how it goes:

    slow    it thinks for a minute
    refuse  503
    flaky   503 every other time
    html    a page instead of JSON
    empty   JSON without the answer
"""

import os
from itertools import cycle

import trio

from relay.demo.service import Reply, Request, Service

NAME = os.environ.get("PIPELINE_NAME", "main")
THINK = float(os.environ.get("PIPELINE_THINK", "0.4"))  # seconds
ANSWER = (
    "You asked: {query}. A relay stands between a reader and a source. It holds nothing back, runs"
    " nothing on for nobody and fakes nothing. What the source says reaches the reader at once;"
    " when the reader leaves, the source is stopped; when the source breaks, the reader is told so."
    " Grüße, naïve and e\u0301 stay whole."
)

app = Service()
flaky = cycle((503, 200))


@app.route("POST", "/api/ask")
async def ask(request: Request) -> Reply:
    query = str(request.json().get("query", ""))
    match query.partition(" ")[0]:
        case "slow":
            await trio.sleep(60)
        case "refuse":
            return Reply(503, {"error": "overloaded"})
        case "flaky" if next(flaky) == 503:
            return Reply(503, {"error": "not this time"})
        case "html":
            return Reply(200, b"<p>an answer for people</p>")
        case "empty":
            return Reply(200, {"confidence": 0.0})
    await trio.sleep(THINK)
    answer = ANSWER.format(query=query)
    return Reply(
        200,
        {"response": answer, "confidence": 0.87, "sources": ["handbook.pdf"], "pipeline": NAME},
    )
