"""What the readers of a run that did not come to its end are told: the same words, whoever puts them down, and whenever.

The owner of a run does so as a rule; another process where it stops a run from afar, or finds the owner dead.
"""

from __future__ import annotations

from typing import Final

from relay.config.values import Route
from relay.flows.event_log import End
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.sources.own_events import last_word
from relay.sse.blocks import stamp

_WHY: Final = {
    Cause.STOPPED: "the stream was stopped",
    Cause.UNWATCHED: "nobody watched this stream any more",
    Cause.LOST: "the relay that kept this stream has ended",
    Cause.FAULT: "a fault of the relay's own",
}


def ended_by_us(cause: Cause, phase: Phase = Phase.BODY) -> Ending:
    """The ending of a run that its source has not ended."""
    side = Side.CLIENT if cause is Cause.STOPPED else Side.RELAY
    return Ending(side, phase, cause, _WHY[cause])


def bad_end(route: Route, run_id: str, ending: Ending) -> End:
    """The end of a run that ended so, for everyone who reads to it."""
    code = ending.cause.value  # as in a stream of any other route
    stopped = ending.cause is Cause.STOPPED  # what was stopped is not begun again
    words = last_word(route, code, ending.detail or code, retryable=not stopped)
    if words:
        words = stamp(words, b"%b-end" % run_id.encode())
    return End(clean=False, over=stopped, last_words=words, abort=route.after_error == "abort")
