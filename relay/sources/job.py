"""A job at a broker: posted in its turn, and cancelled where nobody will read its stream to its end.

    ROUTE ─► QUEUED (its turn) ─► DIAL ─► REQUEST ─► RESPONSE ─► reply
      └────────────┴───────────────┘          └──────────┘
      left here: nothing was sent,         left here: the POST comes to its end beside the exchange,
      nothing is done                      then the broker is told, once

Rules
  * From the first byte of the POST on nobody knows whether the broker has the job, until it says so. Who leaves
    meanwhile leaves the POST behind as a background task: only its reply names what is to be cancelled. It ends with
    the step's own `timeout`, after ORPHANED at the latest.
  * Without `[routes.cancel]` there is nothing to wait for: the POST is given up with the exchange.
  * A turn (`order_by`) is held until the POST has ended, whoever waits for it: the next message of the sender must not
    overtake this one.
  * A job is cancelled once: when it was accepted, or when nobody knows (no answer, or none that can be read), as far
    as the target of the cancel can be written without the reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import trio

from relay.config.keys.sources.enqueue import Enqueue
from relay.config.keys.sources.steps import Step
from relay.observing.ending import Cause, Phase
from relay.routing.template import Template, TemplateError
from relay.sources.call import call
from relay.sources.context import Aside, Context
from relay.sources.json_body import members_of, named, read_json
from relay.sources.reply import Failure
from relay.sse.json_line import NotJSON

MAX_REPLY = 64 * 1024  # bytes of the broker's reply to a POST: ids and positions, not content
CANCEL_WITHIN = 5.0  # seconds for a cancel request; arbitrary: as long as a connect may take
# Seconds for a POST that nobody waits for, where `timeout` allows more; its default
ORPHANED = 30.0
_JSON = b"application/json"
_UNSENT = frozenset((Phase.ROUTE, Phase.QUEUED, Phase.DIAL))
# After these nobody knows whether the broker has the job.
_UNSURE = frozenset((Cause.BROKE, Cause.SILENT, Cause.NONSENSE))

Members = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asks for: all that is kept of its body once it was read."""

    raw: bytes  # as it came: what is posted
    target: bytes  # of the POST
    members: Members  # those that the targets name
    sender: str | None  # whose turn it takes


class Job:
    """One job. `post` once; `cancel` whenever it turns out that its stream will not be read to its end."""

    __slots__ = (
        "_bound",
        "_cancelled",
        "_context",
        "_error",
        "_left",
        "_over",
        "_plan",
        "_reply",
        "_wanted",
    )

    def __init__(self, plan: Enqueue, context: Context, wanted: Wanted) -> None:
        self._plan = plan
        self._context = context
        self._wanted = wanted
        self._reply: Members | None = None
        self._error: Exception | None = None
        self._bound = context.alarms.within(inf)  # of the POST
        self._over = trio.Event()  # the POST has ended
        self._left = False  # nobody waits for the reply any more
        self._cancelled = False

    async def post(self) -> Members:
        """Post the job, behind what its sender posted before; of the reply what the targets name.

        Raises: Failure.
        Cancellation: what was sent comes to its end beside the exchange; see above.
        """
        plan = self._plan
        if plan.cancel is None:
            return await self._in_turn()
        within = plan.order_wait + plan.enqueue.timeout + ORPHANED + CANCEL_WITHIN
        self._context.beside(self._run, within)
        try:
            await self._over.wait()
        except trio.Cancelled:
            if not self._over.is_set():
                self._leave()
            elif self._reply is not None:
                self.cancel()  # it was accepted in the very turn in which its client left
            raise
        if self._error is not None:
            raise self._error
        assert self._reply is not None, "the task outlives its POST"
        return self._reply

    def cancel(self) -> None:
        """Tell the broker, beside the exchange, that nobody waits for the job. Once, whoever asks."""
        if self._plan.cancel is not None:
            self._context.beside(self._tell, CANCEL_WITHIN)

    # -- the background task ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """The POST, and the cancel behind it where its exchange is gone."""
        try:
            with self._bound:
                try:
                    self._reply = await self._in_turn()
                except Exception as caught:
                    self._error = caught  # raised where it is waited for
        finally:
            self._over.set()
        error = self._error
        if error is None and not self._left:
            return  # the exchange has the reply
        if error is not None and not isinstance(error, Failure):
            if self._left:
                raise error
            return
        if self._context.phase not in _UNSENT and (error is None or _may_have_begun(error)):
            with self._context.alarms.within(CANCEL_WITHIN):
                await self._tell()

    def _leave(self) -> None:
        """The exchange is over before the POST is."""
        self._left = True
        if self._context.phase in _UNSENT:
            self._bound.cancel()
        else:
            self._bound.set(min(self._plan.enqueue.timeout, ORPHANED))

    async def _tell(self) -> None:
        step = self._plan.cancel
        if step is None or self._cancelled:
            return
        self._cancelled = True
        try:
            target = self.target_of(step, self._reply or {})
            await call(
                Aside(self._context),
                step.upstream,
                step.method,
                target,
                along=step.client_headers,
                within=step.timeout,
                max_answer=MAX_REPLY,
            )
        except TemplateError:
            pass  # without its id a job cannot be named
        except Failure:
            pass  # a request to a broker that is perhaps gone itself: there is nobody left to tell

    # -- the POST --------------------------------------------------------------------------------------------

    async def _in_turn(self) -> Members:
        sender = self._wanted.sender
        if sender is None:
            return await self._send()
        self._context.phase = Phase.QUEUED
        async with self._context.ordering.turn(
            sender, self._context.alarms.within(self._plan.order_wait)
        ):
            return await self._send()

    async def _send(self) -> Members:
        step = self._plan.enqueue
        result = await call(
            self._context,
            step.upstream,
            step.method,
            self._wanted.target,
            body=self._wanted.raw,
            content_type=_JSON,
            along=step.client_headers,
            within=step.timeout,
            max_answer=MAX_REPLY,
        )
        if not result.ok:
            raise refused("enqueue_refused", "the message was refused", result.status)
        try:
            return await read_json(result.body, self._taken, self._context.threads.json)
        except NotJSON:
            if not self._needs_reply():
                return {}
            raise bad_reply("the reply to the message is not a JSON object") from None

    def _taken(self, reply: object) -> Members:
        return named(members_of(reply), "reply", self._templates())

    def _needs_reply(self) -> bool:
        names = [name for template in self._templates() for name in template.names]
        return any(name.startswith("reply.") for name in names)

    def _templates(self) -> list[Template]:
        return [step.path for step in (self._plan.follow, self._plan.cancel) if step is not None]

    def target_of(self, step: Step, reply: Members) -> bytes:
        """The target of a later step. Raises: TemplateError."""
        context = self._context
        body = self._wanted.members
        return step.path.render(
            path=context.params, query=context.head.query, body=body, reply=reply
        )


def refused(code: str, what: str, status: int) -> Failure:
    """The broker said no."""
    return Failure(
        502,
        Cause.FAILED,
        f"{what} with status {status}",
        code=code,
        retryable=status >= 500 or status in (408, 425, 429),
    )


def bad_reply(message: str) -> Failure:
    """The broker said yes, and nothing that can be used."""
    return Failure(502, Cause.FAILED, message, code="bad_reply", retryable=False)


def _may_have_begun(error: Failure) -> bool:
    """Whether a POST that failed like this may have been accepted all the same."""
    return error.cause in _UNSURE or error.code in ("bad_reply", "answer_too_large")
