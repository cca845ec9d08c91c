"""What is known of one exchange. It is filled on the way and read at the end (observing.lines, counters, spans)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from relay.http.bodies import Fields
from relay.routing.printed_paths import shown
from relay.sse.capture import Capture

_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# Characters of a field in the log; the rest is cut off (arbitrary: a User-Agent has 150)
LONGEST_FIELD: Final = 256


def logged(fields: Fields, names: tuple[bytes, ...], hidden: frozenset[bytes]) -> Mapping[str, str]:
    """Of a request's fields those that the log is to have, as the client sent them; of a name that stands twice all.

    Args:
        hidden: literals of paths that are printed nowhere: a Referer has them too.
    """
    found: dict[str, str] = {}
    for name in names:
        values = [value for each, value in fields if each == name]
        if values:
            text = shown(b", ".join(values), hidden).decode("latin-1")
            found[name.decode()] = (
                text if len(text) <= LONGEST_FIELD else text[:LONGEST_FIELD] + "…"
            )
    return found


class Record:
    """One exchange as the log, the registry and the metrics see it. Times are trio.current_time() seconds."""

    __slots__ = (
        "about",
        "bytes_in",
        "bytes_out",
        "capture",
        "client",
        "coding",
        "events",
        "fields",
        "first_byte",
        "from_seq",
        "how",
        "id",
        "method",
        "path",
        "route",
        "run",
        "started",
        "status",
        "streaming",
        "trace",
        "upstream",
        "upstream_status",
    )

    def __init__(self, request_id: str, client: str, started: float) -> None:
        self.id = request_id
        self.client = client
        self.started = started
        self.trace = ""  # the id of the trace it belongs to
        self.route = ""
        self.method = ""
        self.path = ""
        # Who asked for what, as a line has it, where that was put together for many
        self.about = ""
        self.fields = _NONE  # of the request, those that the log is to have
        self.status = 0  # as sent to the client; 0: nothing was sent
        self.upstream = ""  # the url that was asked last
        self.upstream_status = 0  # what it answered; 0: nothing
        self.bytes_in = 0  # request body bytes from the client
        self.bytes_out = 0  # response body bytes to the client, framing included
        self.events = 0
        self.capture: Capture | None = None  # what the stream said, where the route asks for that
        self.first_byte = 0.0
        self.streaming = False
        self.coding = ""  # of an event stream that passes as bytes because of it
        self.run = ""  # the run that a viewer reads, `how` it came to it, and behind which event
        self.how = ""
        self.from_seq = 0

    def watches(self, run: str, how: str, after: int) -> None:
        """The exchange reads a run from now on."""
        self.run, self.how, self.from_seq = run, how, after
