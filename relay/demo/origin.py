"""The backend of the demo: backends of `examples/` in one process, each below its system's name.

`/state` tells what became of the streams of all, and so how often each was started; `/faults` makes all misbehave.
Run by `relay demo` with `hypercorn -k trio relay.demo.origin:app`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from relay.demo.service import Receive, Reply, Request, Scope, Send, Service, now

SYSTEMS = ("workload-logs", "query-stream", "event-gateway", "message-broker", "ask")


def backend(system: str, name: str = "app") -> Service:
    """A service of an example's backend.py: from the package, or from the source tree."""
    here = Path(__file__).parent
    folders = (here / "systems", here.parents[1] / "examples")
    path = next(path for folder in folders if (path := folder / system / "backend.py").exists())
    spec = importlib.util.spec_from_file_location(f"relay.demo.systems.{system}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    service = getattr(module, name)
    assert isinstance(service, Service)
    return service


services = {system: backend(system) for system in SYSTEMS}
services["engine"] = backend("message-broker", "engine")
# The same model: what it knows of readers is nothing
services["shared-answer"] = backend("query-stream")
own = Service()


@own.route("GET", "/demo/state")
async def state(request: Request) -> Reply:
    calls = {system: service.history() for system, service in services.items()}
    return Reply(200, {"now": now(), "pid": os.getpid(), "calls": calls})


@own.route("GET", "/demo/peers")
async def peers(request: Request) -> Reply:
    names = ("BUFFERING_PORT", "SHARED_PORT")
    return Reply(200, {name.lower(): int(os.environ[name]) for name in names})


@own.route("POST", "/demo/faults")
async def faults(request: Request) -> Reply:
    replies = [service.misbehave(request.json()) for service in services.values()]
    return replies[0]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The service of the first path segment; what is left of the path is its own."""
    service = own
    if scope["type"] == "http":
        _, system, *rest = scope["raw_path"].decode("ascii").split("/", 2)
        if system in services:
            service = services[system]
            scope = {**scope, "raw_path": f"/{''.join(rest)}".encode()}
    await service(scope, receive, send)
