"""Who may: an upstream is asked before anything else (`[routes.auth]`).

    GET with the client's fields, X-Forwarded-Method, X-Forwarded-Uri ─► 2xx: a Grant · 401, 403, 3xx: the client's answer
                                                                          · anything else: 503 auth_unavailable

What nginx calls auth_request, Caddy forward_auth and Traefik forwardAuth. Rules
  * Only a 2xx goes on. An upstream that cannot be reached, is late or answers anything else has not said yes.
  * What the answer says of the user (`copy`) replaces what the client claims, also where the answer says nothing.
  * Its Set-Cookie reaches the client: sessions that are renewed with each request.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from relay.config.values import Auth
from relay.http.bodies import Fields
from relay.http.fault import Fault
from relay.http.fields import HOP_BY_HOP
from relay.observing.ending import Cause
from relay.routing.template import TemplateError
from relay.sources.call import reach, read_whole
from relay.sources.context import Aside, Context
from relay.sources.reply import Failure, Reply

# What the question says of the request that it is about.
ABOUT: Final = (b"x-forwarded-method", b"x-forwarded-uri")
# Bytes of a 2xx's body that are read so that the connection serves again
_ANSWER: Final = 64 * 1024
# Conditions and ranges are about the resource, Content-* about a body that is not sent, the cursor about the stream.
_NOT_ASKED_WITH: Final = frozenset(
    b"if-match if-none-match if-modified-since if-unmodified-since if-range range expect upgrade"
    b" last-event-id te trailer transfer-encoding".split()
)


class Grant(NamedTuple):
    """A yes.

    Attributes:
        fields: of the answer: what `{auth.NAME}` means.
        copied: of these, what is set on the request to the route's upstream.
        cookies: its Set-Cookie fields, for the client.
    """

    fields: Fields
    copied: Fields
    cookies: Fields


def asks_with(fields: Fields) -> Fields:
    """Those of the client's fields that the question carries."""
    return [
        field
        for field in fields
        if field[0] not in _NOT_ASKED_WITH and not field[0].startswith(b"content-")
    ]


async def authorize(plan: Auth, context: Context, body: object) -> Grant | Reply:
    """The upstream's word on the request of `context`; a Reply is the client's answer.

    Args:
        body: the request's JSON, for `{body.x}` in the path.

    Raises: Failure (503), Fault (400, a placeholder without a value).
    """
    try:
        target = plan.path.render(path=context.params, query=context.head.query, body=body)
    except TemplateError as error:
        raise Fault("client", 400, "bad_target", str(error)) from None
    try:
        with context.alarms.within(plan.timeout):
            return await _asked(plan, context, target)
    except Failure as failure:
        raise _unavailable(failure.detail) from None
    raise _unavailable(f"no answer within {plan.timeout:g} s")


async def _asked(plan: Auth, context: Context, target: bytes) -> Grant | Reply:
    question = context.question(plan.upstream, target)
    # Its 1xx are not the client's
    head, answer = await reach(Aside(context), plan.upstream, question)
    if 200 <= head.status < 300:
        if 0 <= answer.framing <= _ANSWER:
            await read_whole(answer, _ANSWER)
        else:
            answer.release()
        fields = [field for field in head.fields if field[0] not in HOP_BY_HOP | head.connection]
        copied = [field for field in fields if field[0] in plan.copy]
        cookies = [field for field in fields if field[0] == b"set-cookie"]
        return Grant(fields, copied, cookies)
    if 300 <= head.status < 400 or head.status in (401, 403):
        return Reply(head.status, head.fields, head=head, upstream=answer)
    answer.release()
    raise _unavailable(f"the answer was {head.status}")


def _unavailable(detail: str) -> Failure:
    return Failure(
        503,
        Cause.FAILED,
        "whether this is allowed could not be found out",
        code="auth_unavailable",
        detail=f"auth: {detail}",
    )
