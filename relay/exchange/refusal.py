"""Relay's own answers: what the client gets when there is nothing to forward (docs/reference/errors.md).

One body shape, `{"error": {"code": …, "message": …}}`, and one table from what happened to status and Ending.
"""

from __future__ import annotations

from json import dumps

from relay.config.values import Route
from relay.http.fault import Fault
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.own_events import last_word
from relay.sources.reply import Failure, Reply

JSON = (b"content-type", b"application/json")
CODES = {
    Cause.UNREACHABLE: "upstream_unreachable",
    Cause.BROKE: "upstream_broke",
    Cause.NONSENSE: "upstream_nonsense",
    Cause.SILENT: "upstream_timeout",
    Cause.FAILED: "upstream_failed",
    Cause.SHED: "overloaded",
    Cause.DRAINED: "shutting_down",
}


def refuse(status: int, code: str, message: str, ending: Ending) -> Reply:
    """An answer of relay's own."""
    body = dumps({"error": {"code": code, "message": message}}).encode("ascii")
    return Reply(status, [JSON, (b"cache-control", b"no-store")], body=body, ending=ending)


def not_found() -> Reply:
    return refuse(404, "not_found", "no route matches this path", _refused())


def loop_detected() -> Reply:
    message = "the request has been through this relay before: an upstream leads back to it"
    return refuse(508, "loop_detected", message, Ending(Side.RELAY, Phase.ROUTE, Cause.REFUSED))


def ambiguous_path() -> Reply:
    message = "the path belongs to another route once it is decoded: write it plainly"
    return refuse(400, "ambiguous_path", message, _refused())


def method_not_allowed(allow: tuple[bytes, ...]) -> Reply:
    reply = refuse(405, "method_not_allowed", "the route does not take this method", _refused())
    reply.fields.append((b"allow", b", ".join(allow)))
    return reply


def of_fault(fault: Fault, phase: Phase = Phase.HEAD) -> Reply:
    """The answer to bytes that broke the rules."""
    if fault.status == 408:
        cause = Cause.STALLED
    elif fault.status in (413, 429):
        cause = Cause.REFUSED
    else:
        cause = Cause.BAD_REQUEST
    return refuse(
        fault.status, fault.code, fault.message, Ending(Side.CLIENT, phase, cause, fault.message)
    )


def as_failure(fault: Fault) -> Failure:
    """The same where the head is out already: what its terminal event says."""
    return Failure(
        fault.status,
        Cause.BAD_REQUEST,
        fault.message,
        side=Side.CLIENT,
        code=fault.code,
        retryable=False,
    )


def of_failure(failure: Failure, phase: Phase) -> Reply:
    """The answer where a source found no usable response."""
    reply = refuse(failure.status, code_of(failure), failure.message, failure.ending(phase))
    if failure.status == 503:
        reply.fields.append((b"retry-after", b"1"))
    return reply


def code_of(failure: Failure) -> str:
    """The stable code of a failure, in bodies and in terminal events."""
    return failure.code or CODES.get(failure.cause, failure.cause.value)


def in_words(failure: Failure | None, status: int, route: Route) -> tuple[bytes, str]:
    """A failure as a terminal event, where a status can no longer be given; and its message.

    failure: None where the upstream answered, with `status`.
    """
    if failure is not None:
        code, message, retryable = code_of(failure), failure.message, failure.retryable
    else:
        code, message = f"status_{status}", f"the upstream answered {status}"
        retryable = status >= 500 or status == 429
    return last_word(route, code, message, retryable=retryable), message


def _refused() -> Ending:
    return Ending(Side.CLIENT, Phase.ROUTE, Cause.REFUSED)
