"""What a user of relay writes; type-checked by check.py, never run."""

from __future__ import annotations

from typing import Any, assert_type

import trio
from trio_typing import TaskStatus

import relay.asgi
import relay.config
import relay.sse
from relay.config import Config
from relay.sse import Event, EventParser

app = relay.asgi.create("relay.toml")
assert_type(app, relay.asgi.App)
text = '[[routes]]\npath = "/"\nsource = "local"\n'
loaded: Config = relay.config.loads(text, {})
assert_type(relay.asgi.app_from(loaded), relay.asgi.App)


async def serve_beside(task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """relay inside a framework that owns the lifespan."""
    async with app.running():
        task_status.started()
        assert_type(app.live, int)
        await trio.sleep_forever()


async def in_front(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that hands some paths to relay."""
    if scope["path"].startswith("/api/"):
        await app(scope, receive, send)


async def events_of(stream: trio.abc.ReceiveStream) -> list[Event]:
    parser = EventParser()
    found: list[Event] = []
    async for piece in stream:
        for event in parser.feed(bytes(piece)):
            assert_type(event, Event)
            found.append(event)
    assert_type(parser.last_event_id, str)
    return found


def say(text: str, number: int) -> bytes:
    return relay.sse.serialise(Event(data=text, event="progress", id=str(number)))


def whole_events(piece: bytes, scanner: relay.sse.BoundaryScanner) -> bytes:
    end = scanner.feed(piece)
    return piece[:end] + (relay.sse.HEARTBEAT if scanner.between else b"")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_beside)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
