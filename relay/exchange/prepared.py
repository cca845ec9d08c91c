"""What is worked out once for heads that come again: a request as it goes upstream, an answer's head as the client gets it.

    head seen before, same route, same client ─► bytes around the exchange's id ─► one join per request

Rules
  * Nothing is decided here; `exchange.preparing` makes what is kept.
  * A head is known by identity: `http.heads` gives out the same object for the same bytes. What is prepared keeps its heads
    alive, so that no other one can get the place of theirs in memory.
  * A head that `http.heads` does not remember, because it is large, does not come again, and is not kept here either.
  * A reload forgets everything (`Worker` makes a new store), and each kind has at most MOST entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from relay.http.heads import RequestHead, ResponseHead
from relay.observing.record import Record
from relay.sources.reply import Reply
from relay.upstreams.group import Group
from relay.upstreams.origin import Origin

MOST: Final = 256  # of each kind, as many as there are heads remembered (http.heads)

State = TypeVar("State")  # of a route
Parts = list[bytes]  # what stands around the id of the exchange


@dataclass(slots=True)
class PreparedRequest(Generic[State]):
    """A request without a body to a `forward` route, as it goes to each url of the upstream."""

    head: RequestHead
    state: State
    params: dict[str, bytes]
    group: Group
    parts: dict[Origin, tuple[Parts, str]]  # the request, and the url
    record: Record  # filled and read for each exchange, in one step


@dataclass(slots=True)
class PreparedAnswer(Generic[State]):
    """The head of an answer, for a client that keeps its connection."""

    head: ResponseHead
    state: State
    reply: Reply  # without its body
    parts: Parts
    date: bytes  # the second it is good for; b"": its upstream has dated it


class Prepared(Generic[State]):
    """What one worker has prepared under one configuration."""

    __slots__ = ("_answers", "_requests")

    def __init__(self) -> None:
        self._requests: dict[tuple[int, str | None, bytes], PreparedRequest[State]] = {}
        self._answers: dict[tuple[int, int], PreparedAnswer[State]] = {}

    def __len__(self) -> int:
        """How many heads are prepared."""
        return len(self._requests) + len(self._answers)

    def request(
        self, head: RequestHead, peer: str | None, scheme: bytes
    ) -> PreparedRequest[State] | None:
        return self._requests.get((id(head), peer, scheme))

    def keep_request(
        self, peer: str | None, scheme: bytes, prepared: PreparedRequest[State]
    ) -> None:
        if len(self._requests) >= MOST:
            del self._requests[next(iter(self._requests))]
        self._requests[id(prepared.head), peer, scheme] = prepared

    def answer(self, head: ResponseHead, state: State) -> PreparedAnswer[State] | None:
        return self._answers.get((id(head), id(state)))

    def keep_answer(self, prepared: PreparedAnswer[State]) -> None:
        if len(self._answers) >= MOST:
            del self._answers[next(iter(self._answers))]
        self._answers[id(prepared.head), id(prepared.state)] = prepared
