"""source = "forward": the client's request goes to one upstream, and its response comes back.

With several urls, or `retries`, another one is tried as long as that is honest: always after a failed dial (nothing was
sent), and as often as `retries` says for what `retry_on` names, while no event has been forwarded.
"""

from __future__ import annotations

import time
from dataclasses import replace
from math import inf

import trio

from relay.config.values import Forward, Route
from relay.flows.intake import Intake
from relay.http.coding import READABLE
from relay.http.fault import Fault
from relay.http.heads import ResponseHead
from relay.http.retry_after import retry_after
from relay.observing.ending import Cause
from relay.routing import relocation
from relay.routing.template import TemplateError
from relay.sources.attempt import Begun, attempt
from relay.sources.context import Context
from relay.sources.reply import Failure, Outgoing, Reply, UpstreamBody, unreadable
from relay.upstreams.origin import Origin
from relay.wires.wire import Expired, Gone

# Seconds of a Retry-After that are waited out; a longer one is the client's to decide
MAX_WAIT = 10.0
# Bytes kept while waiting for the first event; then the stream counts as started
FIRST_EVENT_HELD = 1024 * 1024
_STATUSES = {429: "429", 502: "502", 503: "503", 504: "504"}


async def run(plan: Forward, context: Context, begun: Begun | None = None) -> Reply:
    """The upstream's response to the client's request; `begun`: what was done of it already. Raises: Failure, Fault."""
    out = context.outgoing(plan.upstream, target_of(plan, context))
    group = context.group(plan.upstream)
    tried: list[Origin] = []
    left = context.route.retries
    while True:  # noqa: ASYNC913 # a turn for each attempt
        origin = group.choose(tried) if begun is None else begun.origin
        if origin is None:
            tried.clear()
            origin = group.choose(tried)
            assert origin is not None, "a group has at least one origin"
        tried.append(origin)
        context.reached(origin.name)
        more_urls = len(tried) < len(group.origins)
        try:
            first, begun = begun, None
            reply = await _once(context, plan, origin, out, first, last=left == 0)
            return _located(context, plan, out, reply)
        except Failure as failure:
            unsent = failure.cause is Cause.UNREACHABLE and more_urls
            if not unsent:
                if left == 0 or not _allowed(context, out, failure):
                    raise
                left -= 1
            if not more_urls and failure.retry_after != inf:
                await trio.sleep(min(failure.retry_after, MAX_WAIT))


def target_of(plan: Forward, context: Context) -> bytes:
    """The target for the upstream: as it came, or rendered from the template with the client's query behind it."""
    head = context.head
    if plan.path is None:
        return head.target
    try:
        path = plan.path.render(path=context.params, query=head.query)
    except TemplateError as error:
        raise Fault("client", 400, "bad_target", str(error)) from None
    if not head.query or plan.path.has_query:
        return path  # a template with a query of its own replaces the client's
    return path + b"?" + head.query


def _located(context: Context, plan: Forward, out: Outgoing, reply: Reply) -> Reply:
    """The reply with the upstream's own addresses as paths on relay, where the route keeps a prefix of the path."""
    head = reply.head
    if head is None or not head.locates:
        return reply
    kept = relocation.kept(context.route.pattern, plan.path, context.head.path, out.target)
    own = [
        relocation.Own(url.scheme.encode(), url.authority, url.base_path.encode("ascii"))
        for url in plan.upstream.urls
    ]
    fields = [
        (name, relocation.relocated(name, value, kept, own) if name in relocation.NAMES else value)
        for name, value in head.fields
    ]
    reply.head = replace(head, fields=fields)
    return reply


async def _once(
    context: Context,
    plan: Forward,
    origin: Origin,
    out: Outgoing,
    begun: Begun | None,
    *,
    last: bool,
) -> Reply:
    if begun is None:
        origin.streams += 1
    else:
        begun.taken = True
    handed_over = False
    try:
        head, body = await attempt(
            context, origin, out, context.route.timeouts.response_head, begun
        )
        try:
            stream, readable = _is_stream(context.route, head), head.coding in READABLE
            if _cannot_be_translated(plan, context.route, head):
                raise unreadable(head.coding)
            if not last:
                _refuse_by_status(context, head)
                if stream and readable and body.framing != 0 and _may_be_asked_again(context, out):
                    await _alive(context, body, head.coding)
            reply = _reply(plan, context.route, head, body)
            handed_over = True
            return reply
        finally:
            if not handed_over:
                body.lease.release()
                await context.stop_upload()  # noqa: ASYNC102 # cancelled, it returns at once, and so does the upload
    finally:
        if not handed_over:
            origin.streams -= 1


def reply_at_once(plan: Forward, route: Route, head: ResponseHead) -> Reply | None:
    """The upstream's response as it goes to the client, where nothing is to be waited for, asked again or written anew. Its
    body is still to be put in."""
    if (
        head.status < 200
        or head.locates
        or asks_again(route, head)
        or (route.retries > 0 and _is_stream(route, head))
        or _cannot_be_translated(plan, route, head)
    ):
        return None
    return _reply(plan, route, head, None)


def _is_stream(route: Route, head: ResponseHead) -> bool:
    return head.media_type == b"text/event-stream" and route.stream == "auto"


def _cannot_be_translated(plan: Forward, route: Route, head: ResponseHead) -> bool:
    """Whether the events would have to be read, and cannot."""
    wanted = plan.translate is not None and head.status == 200 and _is_stream(route, head)
    return wanted and head.coding not in READABLE


def _reply(plan: Forward, route: Route, head: ResponseHead, body: UpstreamBody | None) -> Reply:
    stream = head.status == 200 and _is_stream(route, head)
    readable = head.coding in READABLE
    return Reply(
        head.status,
        head.fields,
        head=head,
        upstream=body,
        events=stream and readable,
        opaque=head.coding if stream and not readable else b"",
        translate=plan.translate,
    )


def _allowed(context: Context, out: Outgoing, failure: Failure) -> bool:
    """Whether the route retries this failure, and the request can be sent again: not what was answered in part, or with
    nonsense, unless it may be processed twice."""
    if context.body is not None and not context.body.resendable:
        return False
    if failure.answered and not out.resent_safely:
        return False
    if failure.retry_after != inf and failure.retry_after > MAX_WAIT:
        return False
    return failure.retryable and _name(failure) in context.route.retry_on


def _name(failure: Failure) -> str:
    if failure.cause in (Cause.UNREACHABLE, Cause.BROKE):
        return "timeout" if failure.status == 504 else "refused"
    if failure.cause is Cause.SILENT:
        return "timeout"
    return str(failure.status)


def asks_again(route: Route, head: ResponseHead) -> bool:
    """Whether the route asks another time where the upstream answers with this status."""
    name = _STATUSES.get(head.status)
    return name is not None and name in route.retry_on and route.retries > 0


def _refuse_by_status(context: Context, head: ResponseHead) -> None:
    """Raise for a status that `retry_on` names, while there is another attempt to make."""
    if not asks_again(context.route, head):
        return
    after = retry_after(head.fields, time.time())
    if after != inf and after > MAX_WAIT:
        return  # pass it on: the client can wait, a held request should not
    if context.body is None or context.body.resendable:
        raise Failure(
            head.status, Cause.FAILED, f"the upstream answered {head.status}", retry_after=after
        )


def _may_be_asked_again(context: Context, out: Outgoing) -> bool:
    """Whether a stream that fails at its beginning can be had from another try. If not, nothing is waited for."""
    if context.body is not None and not context.body.resendable:
        return False
    return out.resent_safely or bool(context.route.retry_on & {"refused", "timeout"})


async def _alive(context: Context, body: UpstreamBody, coding: bytes) -> None:
    """Wait until the stream has shown itself alive with one whole block; what came is kept in `body.first`.

    A comment is enough: an upstream that says that it works must not be asked again, and its head and comments must not
    wait for an event that may take minutes.
    """
    intake = Intake(body.framing, 0, coding=coding)  # looks on and holds nothing
    started = trio.current_time()
    came = bytearray(body.first)
    try:
        fresh = body.first
        while True:
            intake.feed(fresh)
            while intake.pending and not _is_started(intake, came):
                await trio.lowlevel.checkpoint()
                intake.feed(b"")
            if intake.ending is not None and intake.ending.cause is Cause.NONSENSE:
                raise Failure(502, Cause.NONSENSE, intake.ending.detail)
            if intake.done or _is_started(intake, came):
                return
            # The same clocks as behind it: the first event is due from the head on, a byte from the last one on.
            idle = trio.current_time() + context.route.timeouts.idle
            body.wire.read_by = min(started + context.route.first_event, idle)
            fresh = await body.wire.receive()
            if not fresh:
                raise Gone
            came += fresh
    except Gone:
        body.origin.failed("broke")
        raise Failure(502, Cause.BROKE, "the upstream broke before its first event") from None
    except Expired:
        body.origin.failed("timeout")
        wait = trio.current_time() - started
        raise Failure(504, Cause.SILENT, f"no event within {wait:.1f} s") from None
    finally:
        body.first = bytes(came)
        body.wire.read_by = inf


def _is_started(intake: Intake, came: bytearray) -> bool:
    """Whether a stream has brought a whole block, a comment too, or so much that it counts as started."""
    return intake.blocks > 0 or max(len(came), intake.payload_bytes) > FIRST_EVENT_HELD
