"""What is known of one exchange, and its two lines in the access log.

A Record is filled on the way and read at the end; nothing here formats before a line is due. Lines are JSON, written
by hand because the shape is fixed: only what a peer chose (path, method, client, id) is escaped.
"""

from __future__ import annotations

from json import dumps
from json.encoder import encode_basestring_ascii as quoted
from time import time

from relay.observing.ending import Ending
from relay.sse.capture import Capture

_LEFT_STATUS = 499  # nginx's and Caddy's number for a client that left before it was answered


class Record:
    """One exchange as the log, the registry and the metrics see it. Times are trio.current_time() seconds."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "capture",
        "client",
        "coding",
        "events",
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
    )

    def __init__(self, request_id: str, client: str, started: float) -> None:
        self.id = request_id
        self.client = client
        self.started = started
        self.trace = ""  # the id of the trace it belongs to
        self.route = ""
        self.method = ""
        self.path = ""
        self.status = 0  # as sent to the client; 0: nothing was sent
        self.upstream = ""
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

    def start_line(self, now: float) -> str:
        """The line for a stream that starts: long streams are seen before they end."""
        return (
            f'{{"time":{time():.3f},"at":"start",{self._who()},"status":{self.status},'
            f'"upstream":{quoted(self.upstream)}{self._coding()},"ttfb_ms":{self._ms(self.first_byte)}}}\n'
        )

    def end_line(self, ending: Ending, now: float) -> str:
        """The line for an exchange that ended."""
        status = self.status or (_LEFT_STATUS if ending.side == "client" else 0)
        ttfb = self._ms(self.first_byte) if self.first_byte else "null"
        detail = f',"detail":{quoted(ending.detail)}' if ending.detail else ""
        return (
            f'{{"time":{time():.3f},"at":"end",{self._who()},"status":{status},'
            f'"upstream":{quoted(self.upstream)}{self._coding()},"ending":"{ending.cause.value}",'
            f'"side":"{ending.side.value}","phase":"{ending.phase.value}",'
            f'"bytes_in":{self.bytes_in},"bytes_out":{self.bytes_out},"events":{self.events},'
            f'"ttfb_ms":{ttfb},"duration_ms":{self._ms(now)}{self._said()}{detail}}}\n'
        )

    def run_line(
        self,
        run: str,
        ending: Ending,
        now: float,
        *,
        events: int,
        size: int,
        viewers: int,
        unwatched: float,
    ) -> str:
        """The line for a run that ended; `viewers` at most, `unwatched` seconds."""
        detail = f',"detail":{quoted(ending.detail)}' if ending.detail else ""
        return (
            f'{{"time":{time():.3f},"at":"run","run":{quoted(run)},"id":{quoted(self.id)},'
            f'"route":{quoted(self.route)},"upstream":{quoted(self.upstream)},'
            f'"ending":"{ending.cause.value}","side":"{ending.side.value}","phase":"{ending.phase.value}",'
            f'"events":{events},"bytes":{size},"viewers":{viewers},"unwatched_ms":{unwatched * 1000:.1f},'
            f'"duration_ms":{self._ms(now)}{self._said()}{detail}}}\n'
        )

    def _said(self) -> str:
        """What the stream said."""
        said = self.capture.values if self.capture is not None else {}
        return f',"captured":{dumps(said)}' if said else ""

    def _who(self) -> str:
        trace = f'"trace":"{self.trace}",' if self.trace else ""
        if self.run:
            trace += f'"run":{quoted(self.run)},"how":"{self.how}","from":{self.from_seq},'
        return (
            f'"id":{quoted(self.id)},{trace}"route":{quoted(self.route)},"client":{quoted(self.client)},'
            f'"method":{quoted(self.method)},"path":{quoted(self.path)}'
        )

    def _coding(self) -> str:
        return f',"coding":{quoted(self.coding)}' if self.coding else ""

    def _ms(self, then: float) -> str:
        return f"{(then - self.started) * 1000:.1f}"
