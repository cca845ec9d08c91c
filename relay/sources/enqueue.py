"""source = "enqueue": one request of the client becomes two (design §6.4).

    body ─► (its turn) ─► POST the job ─► reply ─► GET its stream ─► Reply
                                   └─► (cancel), where nobody will read the stream to its end

Rules
  * The client's own mistakes (no JSON, a member missing that a target names) are plain 400s, told
    before anything is sent. From then on the response is an event stream, and a failure is its
    terminal event.
  * Nothing is posted twice. Only a url that cannot be reached is passed over for the next.
  * A turn (`order_by`) ends with the reply to the POST: the broker has the message then.
  * A stream that does not exist yet is asked for again, for a while; then the job counts as failed.
  * A job that was accepted and whose stream does not come to its end is cancelled at the broker,
    where the route says how, beside the exchange and within CANCEL_WITHIN.
"""

from __future__ import annotations

import json
from functools import partial

import trio

from relay.config.values import Enqueue, Step
from relay.http.heads import ResponseHead
from relay.observing.ending import Cause, Phase, Side
from relay.routing.template import Template, TemplateError
from relay.sources.ask import Ask
from relay.sources.call import call, reach, read_whole, silent
from relay.sources.json_body import json_object
from relay.sources.reply import Failure, Outgoing, Reply, UpstreamBody
from relay.sse.json_line import NotJSON

MAX_REPLY = 64 * 1024  # bytes of the broker's reply to a POST: ids and positions, not content
FIRST_PAUSE = 0.05  # seconds until a stream that is not there yet is asked for again
LONGEST_PAUSE = 0.5  # seconds
CANCEL_WITHIN = 5.0  # seconds for a cancel request; arbitrary: as long as a connect may take
_JSON = b"application/json"


async def enqueue(plan: Enqueue, ask: Ask) -> Reply:
    """The stream of the job that the client's request became. Raises: Failure, Fault."""
    if ask.head.method == b"HEAD":
        raise _bad_request("no_events_for_head", "a job cannot be asked for with HEAD")
    raw = await ask.payload(plan.max_body)
    body = _read_request(raw)
    target = _check_targets(plan, ask, body)
    await ask.commit()
    reply = await _in_turn(plan, ask, raw, body, target)
    cancel = _cancelling(plan, ask, body, reply)
    followed = False
    try:
        head, stream = await _follow(plan.follow, ask, body, reply)
        followed = True
    finally:
        if not followed:
            cancel()
    return Reply(
        200,
        head.fields,
        head=head,
        upstream=stream,
        events=True,
        translate=plan.translate,
        on_unfinished=cancel,
    )


# -- the client's request --------------------------------------------------------------------------


def _read_request(raw: bytes) -> dict[str, object]:
    try:
        return json_object(raw)
    except NotJSON:
        raise _bad_request("bad_json", "the request body must be a JSON object") from None


def _check_targets(plan: Enqueue, ask: Ask, body: dict[str, object]) -> bytes:
    """The target of the POST; and whether the other one will have what it needs of the client."""
    try:
        target = plan.enqueue.path.render(path=ask.params, query=ask.head.query, body=body)
        supposed = _supposed_reply(plan.follow.path)
        plan.follow.path.render(path=ask.params, query=ask.head.query, body=body, reply=supposed)
    except TemplateError as error:
        raise _bad_request("bad_request_body", f"the request has no usable {error}") from None
    return target


def _supposed_reply(template: Template) -> dict[str, object]:
    """A reply that has all the members a template names."""
    reply: dict[str, object] = {}
    for name in template.names:
        source, *keys = name.split(".")
        if source == "reply":
            inner = reply
            for key in keys[:-1]:
                inner = inner.setdefault(key, {})  # type: ignore[assignment]
            inner[keys[-1]] = "x"
    return reply


def _bad_request(code: str, message: str) -> Failure:
    return Failure(400, Cause.BAD_REQUEST, message, side=Side.CLIENT, code=code, retryable=False)


# -- the job ---------------------------------------------------------------------------------------


async def _in_turn(
    plan: Enqueue, ask: Ask, raw: bytes, body: dict[str, object], target: bytes
) -> dict[str, object]:
    """Post the job, behind what its sender posted before; the broker's reply."""
    sender = None if plan.order_by is None else plan.order_by({"body": body})
    if sender is None:
        return await _post(plan, ask, raw, target)
    ask.phase = Phase.QUEUED
    async with ask.turns.turn(json.dumps(sender, sort_keys=True), plan.order_wait):
        return await _post(plan, ask, raw, target)


async def _post(plan: Enqueue, ask: Ask, raw: bytes, target: bytes) -> dict[str, object]:
    step = plan.enqueue
    result = await call(
        ask,
        step.upstream,
        step.method,
        target,
        body=raw,
        content_type=_JSON,
        within=step.timeout,
        max_answer=MAX_REPLY,
    )
    if not result.ok:
        raise _refused("enqueue_refused", "the message was refused", result.status)
    try:
        return json_object(result.body)
    except NotJSON:
        if not _needs_reply(plan):
            return {}
        raise Failure(
            502,
            Cause.FAILED,
            "the reply to the message is not a JSON object",
            code="bad_reply",
            retryable=False,
        ) from None


def _needs_reply(plan: Enqueue) -> bool:
    steps = (plan.follow, plan.cancel)
    names = [name for step in steps if step is not None for name in step.path.names]
    return any(name.startswith("reply.") for name in names)


def _refused(code: str, what: str, status: int) -> Failure:
    return Failure(
        502,
        Cause.FAILED,
        f"{what} with status {status}",
        code=code,
        retryable=status >= 500 or status in (408, 425, 429),
    )


# -- its stream ------------------------------------------------------------------------------------


async def _follow(
    step: Step, ask: Ask, body: dict[str, object], reply: dict[str, object]
) -> tuple[ResponseHead, UpstreamBody]:
    """The stream of the job, as soon as it exists."""
    try:
        target = step.path.render(path=ask.params, query=ask.head.query, body=body, reply=reply)
    except TemplateError as error:
        raise Failure(
            502,
            Cause.FAILED,
            f"the reply to the message has no usable {error}",
            code="bad_reply",
            retryable=False,
        ) from None
    out = ask.own_request(step.upstream, step.method, target)
    until = trio.current_time() + step.not_ready_for
    pause = FIRST_PAUSE
    while True:
        head, stream = await _stream_or_status(step, ask, out)
        if stream is not None:
            return head, stream
        if head.status not in step.not_ready:
            raise _refused("stream_refused", "the stream was refused", head.status)
        if trio.current_time() + pause > until:
            raise _refused("stream_not_ready", "the stream did not come up: refused", head.status)
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def _stream_or_status(
    step: Step, ask: Ask, out: Outgoing
) -> tuple[ResponseHead, UpstreamBody | None]:
    """One try: a head, and its body where it is the stream; otherwise the body has been read."""
    with trio.move_on_after(step.timeout):
        head, body = await reach(ask, step.upstream, out)
        if head.status == 200 and head.media_type == b"text/event-stream":
            return head, body
        await read_whole(body, MAX_REPLY)  # the connection is used again by the next try
        if head.status == 200:
            raise Failure(
                502,
                Cause.FAILED,
                "the stream is not an event stream",
                code="bad_stream",
                retryable=False,
            )
        return head, None
    raise silent(step.timeout)


# -- the end nobody waits for ----------------------------------------------------------------------


class _Cancelling:
    """Tells the broker once, beside the exchange, that nobody waits for a job any more."""

    __slots__ = ("_ask", "_step", "_target")

    def __init__(self, ask: Ask, step: Step | None, target: bytes) -> None:
        self._ask = ask
        self._step = step
        self._target = target

    def __call__(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            self._ask.beside(partial(self._request, step), CANCEL_WITHIN)

    async def _request(self, step: Step) -> None:
        try:
            await call(
                self._ask,
                step.upstream,
                step.method,
                self._target,
                within=step.timeout,
                max_answer=MAX_REPLY,
            )
        except Failure:
            pass  # a request to a broker that is perhaps gone itself: there is nobody left to tell


def _cancelling(
    plan: Enqueue, ask: Ask, body: dict[str, object], reply: dict[str, object]
) -> _Cancelling:
    step = plan.cancel
    if step is None:
        return _Cancelling(ask, None, b"")
    try:
        target = step.path.render(path=ask.params, query=ask.head.query, body=body, reply=reply)
    except TemplateError:
        return _Cancelling(ask, None, b"")  # without its id a job cannot be named
    return _Cancelling(ask, step, target)
