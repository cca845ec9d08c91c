"""source = "answer": one JSON answer of the backend, told as events (design §6.5).

    body ─► 200 ─► start ─► (the backend thinks; heartbeats) ─► chunk … ─► metadata ─► complete
                └────────────────────────────────────────────► error

Rules
  * The status is 200 from the start; what goes wrong is the last event: `{"type": "error", "code",
    "message", "retryable"}`, the stream ends cleanly behind it, and the Ending tells what it was.
  * Nothing was shown before the first chunk, so until then another attempt is honest: `retries`
    with back-off on the upstream, then the same on the fallback.
  * `timeout` bounds each attempt, to the last byte of its answer. A backend that was too slow, or
    whose answer cannot be used, is not asked again, as more work would not help it; the fallback
    is. A request that a backend finds wrong is wrong for the other one too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import trio

from relay.config.values import Answer, Upstream
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.template import TemplateError
from relay.sources.ask import Ask
from relay.sources.call import CallResult, call
from relay.sources.json_body import members_of, read_json, without_mark
from relay.sources.reply import Failure, Reply, SendEvents
from relay.sse.chunking import cut
from relay.sse.json_bounds import TooMuch
from relay.sse.json_line import NotJSON, write

FIRST_PAUSE = 0.1  # seconds before the second attempt at the same upstream
LONGEST_PAUSE = 2.0  # seconds
_BUSY = frozenset((408, 425, 429))  # refusals that may be none a moment later
_WRONG = frozenset((400, 413, 414, 415, 422))  # the backend finds the client's request wrong
_EVENT_STREAM = (b"content-type", b"text/event-stream")


async def answer(plan: Answer, ask: Ask) -> Reply:
    """An event stream of relay's own. Raises: Fault (a body over `max_body`)."""
    raw = without_mark(await ask.payload(plan.max_body))
    telling = _Telling(plan, ask, raw)
    return Reply(200, [_EVENT_STREAM], produce=telling.run, events=True)


class _Telling:
    """One answer from the request to its last event."""

    __slots__ = ("_ask", "_plan", "_raw")

    def __init__(self, plan: Answer, ask: Ask, raw: bytes) -> None:
        self._plan = plan
        self._ask = ask
        self._raw = raw

    async def run(self, send: SendEvents) -> Ending | None:
        """Write the events. Returns: the Ending of a stream that is not simply complete."""
        try:
            target = await self._target()
            await send(_event(type="start"))
            text, metadata = await self._answer(target)
        except Failure as failure:
            code, retryable = failure.code, failure.retryable
            await send(
                _event(type="error", code=code, message=failure.message, retryable=retryable)
            )
            return Ending(failure.side, self._ask.phase, failure.cause, failure.message)
        self._ask.phase = Phase.BODY
        await self._tell(send, cut(text, self._plan.chunk_chars))
        if self._plan.metadata:
            await send(metadata)
        await send(_event(type="complete"))
        return None

    async def _tell(self, send: SendEvents, pieces: list[str]) -> None:
        pace = self._plan.pace
        total = len(pieces)
        for index, piece in enumerate(pieces):
            if index and pace:
                await trio.sleep(pace)
            await send(_event(type="chunk", text=piece, index=index, total=total))

    # -- the client's request ----------------------------------------------------------------------

    async def _target(self) -> bytes:
        """Where to ask; the client's request is checked then. Raises: Failure (BAD_REQUEST)."""
        try:
            return await read_json(self._raw, self._checked, self._ask.threads.json)
        except NotJSON as error:
            why = f": {error}" if isinstance(error, TooMuch) else ""
            raise _bad_request(f"the request body must be a JSON object{why}") from None

    def _checked(self, value: object) -> bytes:
        plan, ask = self._plan, self._ask
        body = members_of(value)
        for name in plan.require:
            value = body.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                raise _bad_request(f"{name} is required")
        try:
            return plan.path.render(path=ask.params, query=ask.head.query, body=body)
        except TemplateError as error:
            raise _bad_request(f"the request has no usable {error}") from None

    # -- the backend's answer ----------------------------------------------------------------------

    async def _answer(self, target: bytes) -> tuple[str, bytes]:
        """The text, and the metadata as an event. Raises: Failure, that of the last attempt."""
        plan = self._plan
        last: Failure | None = None
        for upstream in _in_order(plan):
            pause = FIRST_PAUSE
            for again in range(plan.retries + 1):
                if again:
                    await trio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                try:
                    return await self._attempt(upstream, target)
                except Failure as failure:
                    if failure.code == "BAD_REQUEST":
                        raise
                    last = failure
                    if not failure.retryable or failure.cause is Cause.SILENT:
                        break
        assert last is not None, "there is at least one attempt"
        raise last

    async def _attempt(self, upstream: Upstream, target: bytes) -> tuple[str, bytes]:
        plan = self._plan
        try:
            result = await call(
                self._ask,
                upstream,
                plan.method,
                target,
                body=b"" if plan.method == b"GET" else self._raw,
                content_type=b"application/json",
                within=plan.timeout,
                max_answer=plan.max_answer,
            )
        except Failure as failure:
            if failure.cause is Cause.SILENT:
                raise _timed_out(plan.timeout) from None
            if failure.code == "answer_too_large" or failure.cause is Cause.NONSENSE:
                raise _bad_answer(failure.message, failure.cause) from None
            # Not its own words: they name the upstream, which is the operator's affair.
            raise _unavailable("the backend cannot be reached", failure.cause) from None
        _check_status(result)
        try:
            return await read_json(result.body, partial(_taken, plan), self._ask.threads.json)
        except NotJSON as error:
            why = f": {error}" if isinstance(error, TooMuch) else ""
            raise _bad_answer(f"the backend's answer is not JSON that can be read{why}") from None


def _in_order(plan: Answer) -> tuple[Upstream, ...]:
    """Whom to ask. A fallback with the same urls is none."""
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
    raise _unavailable(message, Cause.FAILED, retryable=status >= 500 or status in _BUSY)


def _taken(plan: Answer, value: object) -> tuple[str, bytes]:
    """What is told of an answer: the text, and the metadata as an event. Raises: Failure."""
    text = plan.text(value)
    if not isinstance(text, str):
        raise _bad_answer("the backend's answer has no text")
    members = {name: expression(value) for name, expression in plan.metadata.items()}
    try:
        return text, _event(**_metadata(members))
    except (ValueError, TypeError, RecursionError):
        raise _bad_answer("the backend's metadata cannot be passed on") from None


def _metadata(members: Mapping[str, object]) -> dict[str, object]:
    return {"type": "metadata", **{k: v for k, v in members.items() if k != "type"}}


def _event(**members: object) -> bytes:
    """One event of the default type, on one data line."""
    return f"data: {write(members)}\n\n".encode()


def _bad_request(message: str) -> Failure:
    return Failure(
        400, Cause.BAD_REQUEST, message, side=Side.CLIENT, code="BAD_REQUEST", retryable=False
    )


def _timed_out(within: float) -> Failure:
    return Failure(504, Cause.SILENT, f"no answer within {within:g} s", code="TIMEOUT")


def _bad_answer(message: str, cause: Cause = Cause.FAILED) -> Failure:
    return Failure(502, cause, message, code="BAD_ANSWER", retryable=False)


def _unavailable(message: str, cause: Cause, *, retryable: bool = True) -> Failure:
    return Failure(503, cause, message, code="UNAVAILABLE", retryable=retryable)
