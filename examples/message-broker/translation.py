"""The broker's translation as a Python function, for what data alone cannot say.

[routes.follow]
translate = "translation:to_page"      # this file, found beside relay.toml
"""

import json
from collections.abc import Iterable
from dataclasses import replace

from relay.sse import Event

TYPES = {"queued": "status", "processing": "progress", "done": "complete", "error": "error"}


def to_page(event: Event) -> Iterable[Event]:
    """One event of the broker becomes one event of the page; what it does not know, none."""
    if event.event not in TYPES or event.data is None:
        return
    data = {**json.loads(event.data), "type": TYPES[event.event]}
    if event.event == "queued":
        data["state"] = "queued"
    if event.event == "done":
        data["words"] = len(data["response"].split())
    yield replace(event, event="", data=json.dumps(data))
