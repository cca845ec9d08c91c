"""The backend of README's relay.toml: `hypercorn -k trio tests.interop.readme_model:app`."""

from __future__ import annotations

import trio

from relay.demo.service import Request, Service, Stream, event

app = Service()


@app.route("GET", "/v1/chats/{id}/events")
async def chat(request: Request) -> Stream:
    return _chat(request.parameters["id"], request.fields.get("authorization", ""))


async def _chat(id: str, authorization: str) -> Stream:
    if id == "silent":
        await trio.sleep_forever()
    yield event(f"{id} {authorization}")
