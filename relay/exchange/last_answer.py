"""What a client gets that still waits when everything ends: at the drain's deadline, or by a second signal.

    nothing is out     ─► a 503 of relay's own
    an early head is   ─► the terminal event `shutting_down`, and the end that the route asks for
    a response is      ─► nothing more: it is cut (an event stream has had its farewell)

Nothing can be awaited any more, so it goes out as far as the socket takes it now.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from relay.exchange import refusal
from relay.exchange.client_head import event_framing, head_bytes
from relay.exchange.viewing import Shown
from relay.observing.ending import Cause, Ending, Side
from relay.sources.own_events import last_word
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Gone

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange

_WHY: Final = "the relay is shutting down"


def answer_at_last(exchange: Exchange) -> None:
    """Answer an exchange that is being cancelled, if it was not answered and its client is still there."""
    if exchange.ending is not None or exchange.answering:
        return
    exchange.connection.reusable = False
    ending = Ending(Side.RELAY, exchange.phase, Cause.DRAINED, _WHY)
    out = _words(exchange) if exchange.head_out else _answer(exchange, ending)
    wire = exchange.wire
    if not isinstance(wire, SocketWire):
        wire.send_last(out)
    elif not wire.closed and not wire.torn:  # half of an interim response may be out
        with suppress(Gone):
            wire.send_nowait(out)
    exchange.ending = ending


def _answer(exchange: Exchange, ending: Ending) -> bytes:
    reply = refusal.refuse(503, refusal.CODES[Cause.DRAINED], _WHY, ending)
    reply.fields.append((b"retry-after", b"1"))
    if exchange.head.method == b"HEAD":
        return head_bytes(exchange, reply, None)
    exchange.record.bytes_out = len(reply.body)
    return head_bytes(exchange, reply, len(reply.body)) + reply.body


def _words(exchange: Exchange) -> bytes:
    route = exchange.route
    words = last_word(route, refusal.CODES[Cause.DRAINED], _WHY, retryable=True)
    shown = Shown(200, [], words=words, abort=route.after_error == "abort")
    return shown.framed(event_framing(exchange))
