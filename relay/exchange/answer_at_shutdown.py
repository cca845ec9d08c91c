"""What a client gets that still waits when everything ends: at the drain's deadline, or by a second signal.

    nothing is out     ─► a 503 of relay's own
    an early head is   ─► the terminal event `shutting_down`, and the end that the route asks for
    a response is      ─► nothing more: it is cut (an event stream has had its farewell)

Nothing can be awaited any more, so it goes out as far as the socket takes it now.
"""

from __future__ import annotations

from typing import Final

from relay.config.values import Route
from relay.exchange import refusal
from relay.exchange.viewing import Shown
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.own_events import last_word
from relay.sources.reply import Reply

_WHY: Final = "the relay is shutting down"
_CODE: Final = refusal.CODES[Cause.DRAINED]


def last_ending(phase: Phase) -> Ending:
    """How the exchange ends that was not answered."""
    return Ending(Side.RELAY, phase, Cause.DRAINED, _WHY)


def last_reply(ending: Ending) -> Reply:
    """Where nothing is out."""
    reply = refusal.refuse(503, _CODE, _WHY, ending)
    reply.fields.append((b"retry-after", b"1"))
    return reply


def last_event(route: Route, framing: int) -> bytes:
    """Where an early head is out: the rest of the body."""
    words = last_word(route, _CODE, _WHY, retryable=True)
    return Shown(200, [], words=words, abort=route.after_error == "abort").framed(framing)
