"""JSON that came in: UTF-8 (RFC 8259 §8.1), one value, nothing that only Python reads, of bounded size when built.

Rules
  * A body longer than AT_ONCE is read in a thread, one at a time in a worker: neither the time nor the memory of many
    adds up, and the streams go on meanwhile.
  * What is built is gone when `read_json` returns: a caller keeps what it makes of the value, not the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from relay.routing.template import Template
from relay.sse import json_bounds
from relay.sse.json_line import NotJSON, read

AT_ONCE = 16 * 1024  # bytes that are read on the spot: 8,000 values at most, in a millisecond

_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


async def read_json(body: bytes, take: Callable[[object], T], limiter: trio.CapacityLimiter) -> T:
    """What `take` makes of the JSON value of `body`.

    Args:
        take: called once, perhaps in a thread; what it returns must not hold on to the value.
        limiter: lets one thread read at a time.

    Raises: NotJSON, and what `take` raises.
    Cancellation: at once; a thread that has begun comes to its end unheard.
    """
    work = partial(_taken, body, take)
    if len(body) > AT_ONCE:
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    await trio.lowlevel.checkpoint_if_cancelled()
    return work()


def without_mark(body: bytes) -> bytes:
    """A body as relay sends it on: nobody adds a byte order mark to JSON on the network (RFC 8259 §8.1)."""
    return body.removeprefix(_MARK)


def json_of(body: bytes) -> object:
    """The value of a body. Raises: NotJSON (TooMuch for one with too many values)."""
    json_bounds.check(body)
    try:
        return read(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotJSON("it is not UTF-8") from None


def members_of(value: object) -> dict[str, object]:
    """The members of a value that is a JSON object. Raises: NotJSON."""
    if not isinstance(value, dict):
        raise NotJSON("it is not an object")
    return value


def named(value: dict[str, object], root: str, templates: Iterable[Template]) -> dict[str, object]:
    """Of a JSON object that templates call `root`, what they name and nothing else.

    A member that is no scalar stays as one that is none: the template still says what is wrong with it.
    """
    kept: dict[str, object] = {}
    for template in templates:
        for name in template.names:
            source, *keys = name.split(".")
            if source == root:
                _copy(value, keys, kept)
    return kept


def _taken(body: bytes, take: Callable[[object], T]) -> T:
    return take(json_of(body))


def _copy(value: object, keys: list[str], into: dict[str, object]) -> None:
    """Copy the member that `keys` lead to, and the objects on the way to it."""
    *way, last = keys
    for key in way:
        if not isinstance(value, dict) or not isinstance(value.get(key), dict):
            return
        value = value[key]
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            inner = into[key] = {}  # another template names the object itself, which is no scalar
        into = inner
    if isinstance(value, dict) and last in value:
        member = value[last]
        if not isinstance(member, dict | list):
            into[last] = member
        else:
            into.setdefault(last, {})
