"""What a source may ask of a run: the request that began it, frozen, whoever comes and goes.

There is no client behind it: an interim response goes to nobody, the body is there before it begins, and an early head
is for those who wait (`committed`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from relay.config.values import UNLIMITED
from relay.exchange.upstream_head import Requester
from relay.http.fault import Fault
from relay.http.heads import RequestHead, ResponseHead
from relay.observing.ending import Phase
from relay.observing.record import Record
from relay.observing.tracing import Trace
from relay.sources.authorize import Grant
from relay.sources.request_body import RequestBody
from relay.upstreams.lease import Lease

if TYPE_CHECKING:
    from relay.exchange.worker import RouteState, Worker
    from relay.http.forwarded import ClientView


# How one client sent its body, and what it has already: a 304 or a part of the stream would be nothing to those who join.
_ONE_CLIENTS: Final = frozenset(
    b"content-length transfer-encoding expect trailer te range if-range if-match if-none-match if-modified-since"
    b" if-unmodified-since".split()
)


class FrozenRequest(NamedTuple):
    """What a run asks its source, whoever comes and goes.

    Attributes:
        head: without a cursor of ours.
        body: the payload, which the head counts; b"" without one.
        record_id: of the exchange that began it: one id from the client to the upstream.
    """

    head: RequestHead
    params: dict[str, bytes]
    body: bytes
    view: ClientView
    record_id: str
    client: str
    trace: Trace | None
    granted: Grant | None


def frozen_head(head: RequestHead, size: int | None) -> RequestHead:
    """The head as the source is asked with it, now and perhaps again. `size`: of the whole payload; None without a body."""
    fields = [field for field in head.fields if field[0] not in _ONE_CLIENTS]
    if size is not None:
        fields.append((b"content-length", b"%d" % size))
    return replace(
        head,
        fields=fields,
        framing=size or 0,
        expects_continue=False,
        wants_events=True,  # so that the upstream is asked not to compress
        upgrade=None,
    )


class RunRequest(Requester):
    """The frozen request as its source sees it. Implements sources.context.Context.

    Attributes:
        head: of the request; with another cursor where a broken upstream is asked again.
        committed: the source wants the head of the stream out, before it has one.
    """

    __slots__ = (
        "alarms",
        "body",
        "committed",
        "engine",
        "granted",
        "head",
        "params",
        "phase",
        "record",
        "state",
        "trace",
        "view",
        "worker",
    )

    def __init__(self, worker: Worker, state: RouteState, request: FrozenRequest) -> None:
        self.worker = worker
        self.engine = worker.engine
        self.alarms = worker.alarms
        self.state: RouteState | None = state
        self.head = request.head
        self.params = request.params
        self.view = request.view
        self.trace = request.trace
        self.granted = request.granted
        self.body = _whole_body(request)
        self.phase = Phase.ROUTE
        self.committed = trio.Event()
        self.record = Record(request.record_id, request.client, trio.current_time())
        self.record.route = state.route.name
        self.record.method = request.head.method.decode("ascii")
        self.record.path = request.head.path.decode("latin-1")

    async def interim(self, head: ResponseHead) -> None:
        """Dropped: an interim response is for one client at one moment, and a run has no client."""
        await trio.lowlevel.checkpoint()

    def upload(self, lease: Lease, within: float) -> None:
        raise AssertionError("the body of a run is there before it begins")

    async def stop_upload(self) -> None:
        await trio.lowlevel.checkpoint()

    async def payload(self, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        body = self.body
        payload = body.opening() if body is not None else b""
        if len(payload) > limit:
            raise Fault("client", 413, "body_too_large", "the request body is over the limit")
        return payload

    async def commit(self) -> None:
        self.committed.set()
        await trio.lowlevel.checkpoint()

    def beside(self, job: Callable[[], Awaitable[None]], within: float) -> None:
        self.worker.background.start(job, within)


def _whole_body(request: FrozenRequest) -> RequestBody | None:
    if request.head.framing == 0:
        return None
    body = RequestBody(request.head.framing, UNLIMITED)
    body.take(request.body)
    return body
