"""source = "answer": one JSON answer of the backend, told as events (docs/how-to/json-answer-as-a-stream.md).

    body ─► 200 ─► start ─► (the backend thinks; heartbeats) ─► chunk … ─► metadata ─► complete
                └────────────────────────────────────────────► error

Rules
  * What each event holds, the route says (`[routes.answer.events]`). The defaults are what the clients of such
    backends read already.
  * The status is 200 from the start; what goes wrong is the last event, `error`, the stream ends
    cleanly behind it, and the Ending tells what it was.
  * Nothing was shown before the first chunk, so until then another attempt is honest: `retries`
    with back-off on the upstream, then the same on the fallback.
  * `timeout` bounds each attempt, to the last byte of its answer. A backend that was too slow, or
    whose answer cannot be used, is not asked again, as more work would not help it; the fallback
    is. So is one that asks for more patience (Retry-After) than LONGEST_PAUSE. A request that a
    backend finds wrong is wrong for the other one too.
  * Of the client's body and of the answer only what the events still need is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from math import inf

import trio

from relay.config.keys.sources.answer import Answer
from relay.config.keys.sources.answer_events import Events
from relay.config.values import Upstream
from relay.http.retry_after import retry_after
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.json_template import JsonTemplate, Roots
from relay.routing.pattern import decode
from relay.routing.template import TemplateError, query_members
from relay.sources.call import CallResult, call
from relay.sources.context import Context
from relay.sources.json_body import members_of, read_json, without_mark
from relay.sources.own_events import event_of, last_word, told
from relay.sources.reply import Failure, Reply, SendEvents
from relay.sse.capture import Capture
from relay.sse.chunking import pieces, prepare
from relay.sse.json_bounds import TooMuch
from relay.sse.json_line import NotJSON

FIRST_PAUSE = 0.1  # seconds before the second attempt at the same upstream
LONGEST_PAUSE = 2.0  # seconds
_BUSY = frozenset((408, 425, 429))  # refusals that may be none a moment later
_WRONG = frozenset((400, 413, 414, 415, 422))  # the backend finds the client's request wrong
_EVENT_STREAM = (b"content-type", b"text/event-stream")

prepare()  # with this module, when such a route is configured (see sources.loading)


async def run(plan: Answer, context: Context) -> Reply:
    """An event stream of relay's own. Raises: Fault (a body over `max_body`)."""
    raw = without_mark(await context.payload(plan.max_body))
    capture = Capture(context.route.capture) if context.route.capture is not None else None
    telling = _Telling(plan, context, raw, capture)
    return Reply(200, [_EVENT_STREAM], produce=telling.run, events=True, capture=capture)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is kept of the client's request."""

    target: bytes  # where it is asked
    start: bytes  # the event; b"": there is none
    events: Events  # with what they say of the request


@dataclass(frozen=True, slots=True)
class _Found:
    """What is kept of the backend's answer."""

    text: str
    total: int  # pieces of it
    chunk: JsonTemplate | None
    last: tuple[bytes | JsonTemplate, ...]  # `metadata` and `complete`: written, but for the time


class _Telling:
    """One answer from the request to its last event."""

    __slots__ = ("_capture", "_context", "_plan", "_raw")

    def __init__(self, plan: Answer, context: Context, raw: bytes, capture: Capture | None) -> None:
        self._capture = capture
        self._plan = plan
        self._context = context
        self._raw = raw

    async def run(self, send: SendEvents) -> Ending | None:
        """Write the events. Returns: the Ending of a stream that is not simply complete."""
        try:
            question = await self._question()
            if question.start:
                await send(question.start)
            found = await self._answer(question)
        except Failure as failure:
            await send(self._error(failure))
            return Ending(failure.side, self._context.phase, failure.cause, failure.message)
        self._raw = b""
        self._context.phase = Phase.BODY
        await self._tell(send, found)
        for event in found.last:
            await send(event if isinstance(event, bytes) else event_of(told(event, {})))
        return None

    async def _tell(self, send: SendEvents, found: _Found) -> None:
        chunk, pace = found.chunk, self._plan.pace
        if chunk is None:
            return
        for index, piece in enumerate(pieces(found.text, self._plan.chunk_chars)):
            if index and pace:
                await trio.sleep(pace)
            about = {"content": piece, "index": index, "total": found.total}
            await send(event_of(told(chunk, {"chunk": about})))

    def _error(self, failure: Failure) -> bytes:
        """The last event of a stream that failed: without one it would look complete."""
        route, code, message = self._context.route, failure.code, failure.message
        retryable = failure.retryable
        return last_word(route, code, message, retryable=retryable) or last_word(
            route._replace(dialect="plain"), code, message, retryable=retryable
        )

    # -- the client's request ----------------------------------------------------------------------

    async def _question(self) -> _Question:
        """What is asked; the client's request is checked then. Raises: Failure (BAD_REQUEST)."""
        try:
            return await read_json(self._raw, self._checked, self._context.threads.json)
        except NotJSON as error:
            why = f": {error}" if isinstance(error, TooMuch) else ""
            raise _bad_request(f"the request body must be a JSON object{why}") from None

    def _checked(self, value: object) -> _Question:
        """Raises: NotJSON, Failure."""
        plan, context = self._plan, self._context
        body = members_of(value)
        for name in plan.require:
            member = body.get(name)
            if member is None or (isinstance(member, str) and not member.strip()):
                raise _bad_request(f"{name} is required")
        try:
            target = plan.path.render(path=context.params, query=context.head.query, body=body)
        except TemplateError as error:
            raise _bad_request(f"the request has no usable {error}") from None
        events = _with_known(plan.events, self._asked(body))
        start = b"" if events.start is None else event_of(told(events.start, {}))
        return _Question(target, start, events._replace(start=None))

    def _asked(self, body: dict[str, object]) -> Roots:
        """What events may say of the request."""
        context = self._context
        path = {
            name: decode(raw).decode("utf-8", "replace") for name, raw in context.params.items()
        }
        return {"body": body, "path": path, "query": query_members(context.head.query)}

    # -- the backend's answer ----------------------------------------------------------------------

    async def _answer(self, question: _Question) -> _Found:
        """The answer of the first attempt that succeeds. Raises: Failure, that of the last one."""
        plan = self._plan
        last: Failure | None = None
        for upstream in _in_order(plan):
            pause = FIRST_PAUSE
            for again in range(plan.retries + 1):
                if again:
                    await trio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                try:
                    return await self._attempt(upstream, question)
                except Failure as failure:
                    if failure.code == "BAD_REQUEST":
                        raise
                    last = failure
                    if not failure.retryable or failure.cause is Cause.SILENT:
                        break
                    if failure.retry_after != inf:
                        if failure.retry_after > LONGEST_PAUSE:
                            break
                        pause = max(pause, failure.retry_after)
        assert last is not None, "there is at least one attempt"
        try:
            raise last
        finally:
            del last  # its traceback refers to this frame: a circle for the garbage collector

    async def _attempt(self, upstream: Upstream, question: _Question) -> _Found:
        plan = self._plan
        try:
            result = await call(
                self._context,
                upstream,
                plan.method,
                question.target,
                body=b"" if plan.method == b"GET" else self._raw,
                content_type=b"application/json",
                along=plan.client_headers,
                within=plan.timeout,
                max_answer=plan.max_answer,
            )
        except Failure as failure:
            if failure.cause is Cause.SILENT:
                raise _timed_out(plan.timeout) from None
            if failure.code == "answer_too_large" or failure.cause is Cause.NONSENSE:
                raise _bad_answer(failure.message, failure.cause) from None
            # Not in the upstream's words: they may name it, and the client is not to learn where it is.
            raise _unavailable("the backend cannot be reached", failure.cause) from None
        _check_status(result)
        take = partial(_taken, plan, question.events, self._capture)
        try:
            return await read_json(result.body, take, self._context.threads.json)
        except NotJSON as error:
            why = f": {error}" if isinstance(error, TooMuch) else ""
            raise _bad_answer(f"the backend's answer is not JSON that can be read{why}") from None


def _in_order(plan: Answer) -> tuple[Upstream, ...]:
    """Whom to ask, in order. A fallback that has the same urls as the upstream is not asked."""
    if plan.fallback is None or plan.fallback.urls == plan.upstream.urls:
        return (plan.upstream,)
    return (plan.upstream, plan.fallback)


def _check_status(result: CallResult) -> None:
    status = result.status
    if result.ok:
        return
    message = f"the backend answered with status {status}"
    if status in _WRONG:
        raise _bad_request(message)
    if 300 <= status < 400:
        raise _bad_answer(message)
    again = status >= 500 or status in _BUSY
    after = retry_after(result.fields, time.time())
    raise _unavailable(message, Cause.FAILED, retryable=again, after=after)


def _taken(plan: Answer, events: Events, capture: Capture | None, value: object) -> _Found:
    """What is told of an answer. Raises: Failure."""
    if capture is not None:
        capture.take(value)
    text = plan.text(value)
    if not isinstance(text, str):
        raise _bad_answer("the backend's answer has no text")
    events = _with_known(events, {"answer": value})
    last: list[bytes | JsonTemplate] = []
    try:
        if events.metadata is not None:
            members = {name: expression(value) for name, expression in plan.metadata.items()}
            last.append(_ready(events.metadata.over(members)))
        if events.complete is not None:
            last.append(_ready(events.complete))
    except (ValueError, TypeError, RecursionError):
        raise _bad_answer("the backend's metadata cannot be passed on") from None
    total = sum(1 for _ in pieces(text, plan.chunk_chars))
    return _Found(text, total, events.chunk, tuple(last))


def _ready(template: JsonTemplate) -> bytes | JsonTemplate:
    """An event that is written already, unless it tells the time. Raises: ValueError, TypeError."""
    written = event_of(told(template, {}))
    return template if template.roots else written


def _with_known(events: Events, roots: Roots) -> Events:
    known = {
        name: None if template is None else template.with_known(roots)
        for name, template in (
            ("start", events.start),
            ("chunk", events.chunk),
            ("metadata", events.metadata),
            ("complete", events.complete),
        )
    }
    return events._replace(**known)


def _bad_request(message: str) -> Failure:
    return Failure(
        400, Cause.BAD_REQUEST, message, side=Side.CLIENT, code="BAD_REQUEST", retryable=False
    )


def _timed_out(within: float) -> Failure:
    return Failure(504, Cause.SILENT, f"no answer within {within:g} s", code="TIMEOUT")


def _bad_answer(message: str, cause: Cause = Cause.FAILED) -> Failure:
    return Failure(502, cause, message, code="BAD_ANSWER", retryable=False)


def _unavailable(
    message: str, cause: Cause, *, retryable: bool = True, after: float = inf
) -> Failure:
    return Failure(503, cause, message, code="UNAVAILABLE", retryable=retryable, retry_after=after)
