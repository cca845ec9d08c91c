"""source = "enqueue": one request of the client becomes two (docs/how-to/two-step-broker.md).

    body ─► (its turn) ─► POST the job ─► reply ─► GET its stream ─► Reply
                                   └─► (cancel), where nobody will read the stream to its end

Rules
  * The client's own mistakes (no JSON, a member missing that a target names) are plain 400s, told
    before anything is sent. From then on the response is an event stream, and a failure is its
    terminal event.
  * Nothing is posted twice. Only a url that cannot be reached is passed over for the next.
  * A stream that does not exist yet is asked for again, for a while; then the job counts as failed.
  * A job that may have been accepted and whose stream does not come to its end is cancelled at the
    broker, where the route says how: see `job`.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial

import trio

from relay.config.keys.sources.enqueue import Enqueue
from relay.config.keys.sources.steps import Step
from relay.http.coding import READABLE
from relay.http.heads import ResponseHead
from relay.observing.ending import Cause, Side
from relay.routing.template import Template, TemplateError
from relay.sources.call import reach, read_whole, silent
from relay.sources.context import Context
from relay.sources.job import MAX_REPLY, Job, Members, Wanted, bad_reply, refused
from relay.sources.json_body import members_of, named, read_json, without_mark
from relay.sources.reply import Failure, Outgoing, Reply, UpstreamBody, unreadable
from relay.sse.json_bounds import TooMuch
from relay.sse.json_line import NotJSON

FIRST_PAUSE = 0.05  # seconds until a stream that is not there yet is asked for again
LONGEST_PAUSE = 0.5  # seconds


async def run(plan: Enqueue, context: Context) -> Reply:
    """The stream of the job that the client's request became. Raises: Failure, Fault."""
    if context.head.method == b"HEAD":
        raise _bad_request("no_events_for_head", "a job cannot be asked for with HEAD")
    raw = without_mark(await context.payload(plan.max_body))
    try:
        wanted = await read_json(raw, partial(_wanted, plan, context, raw), context.threads.json)
    except NotJSON as error:
        why = f": {error}" if isinstance(error, TooMuch) else ""
        raise _bad_request("bad_json", f"the request body must be a JSON object{why}") from None
    await context.commit()
    job = Job(plan, context, wanted)
    reply = await job.post()
    followed = False
    try:
        head, stream = await _follow(plan.follow, context, job, reply)
        followed = True
    finally:
        if not followed:
            job.cancel()
    return Reply(
        200,
        head.fields,
        head=head,
        upstream=stream,
        events=True,
        translate=plan.translate,
        on_unfinished=job.cancel,
    )


# -- the client's request --------------------------------------------------------------------------


def _wanted(plan: Enqueue, context: Context, raw: bytes, value: object) -> Wanted:
    """What is kept of the request: where it goes, and what the later targets need of it.

    Raises: NotJSON, Failure.
    """
    body = members_of(value)
    later = [step.path for step in (plan.follow, plan.cancel) if step is not None]
    try:
        target = plan.enqueue.path.render(path=context.params, query=context.head.query, body=body)
        for template in later:
            supposed = _supposed_reply(template)
            template.render(
                path=context.params, query=context.head.query, body=body, reply=supposed
            )
    except TemplateError as error:
        raise _bad_request("bad_request_body", f"the request has no usable {error}") from None
    sender = None if plan.order_by is None else plan.order_by({"body": body})
    return Wanted(raw, target, named(body, "body", later), _key(sender))


def _key(sender: object) -> str | None:
    """A key for `Ordering`: the value it stands for may be large, and is kept as long as somebody waits."""
    if sender is None:
        return None
    return hashlib.sha256(json.dumps(sender, sort_keys=True).encode()).hexdigest()


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


# -- its stream ------------------------------------------------------------------------------------


async def _follow(
    step: Step, context: Context, job: Job, reply: Members
) -> tuple[ResponseHead, UpstreamBody]:
    """The stream of the job, as soon as it exists."""
    try:
        target = job.target_of(step, reply)
    except TemplateError as error:
        raise bad_reply(f"the reply to the message has no usable {error}") from None
    out = context.own_request(step.upstream, step.method, target, along=step.client_headers)
    until = context.alarms.awake() + step.not_ready_for
    pause = FIRST_PAUSE
    while True:
        head, stream = await _stream_or_status(step, context, out)
        if stream is not None:
            return head, stream
        if head.status not in step.not_ready:
            raise refused("stream_refused", "the stream was refused", head.status)
        if context.alarms.awake() + pause > until:
            raise refused("stream_not_ready", "the stream did not come up: refused", head.status)
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def _stream_or_status(
    step: Step, context: Context, out: Outgoing
) -> tuple[ResponseHead, UpstreamBody | None]:
    """One try: a head, and its body where it is the stream; otherwise the body has been read."""
    with context.alarms.within(step.timeout):
        head, body = await reach(context, step.upstream, out)
        if head.status == 200 and head.media_type == b"text/event-stream":
            if head.coding not in READABLE:
                body.release()
                raise unreadable(head.coding)
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
