"""Active checks: is a url worth choosing, asked of the url itself. And what is known of every url.

Rules
  * A check has a connection of its own, fresh each time: an idle pool says nothing about who
    accepts today.
  * Its verdict needs `fall` failures in a row to go down and `rise` successes in a row to come up;
    a url begins as up, so that a relay that starts before its upstream serves the first request
    that can be served.
  * Checks and passive health do not overrule each other: a url is available when neither objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import uniform
from typing import TYPE_CHECKING, NamedTuple

import trio

from relay.http.fault import Fault
from relay.http.heads import parse_response
from relay.http.serialise import request_bytes
from relay.upstreams.dial import DialError, dial
from relay.wires.wire import Gone, Wire

if TYPE_CHECKING:
    from relay.config.values import HealthCheck
    from relay.upstreams.group import Group, Groups
    from relay.upstreams.origin import Origin

JITTER = 0.1  # ± share of the interval: workers do not check in step
LONGEST_HEAD = 64 * 1024  # bytes; as [limits] response_head by default

Report = Callable[["Origin", bool, str], None]  # the url, whether it is up now, why


class Verdict:
    """Rise and fall: turns single checks into up and down. Pure."""

    __slots__ = ("_against", "_fall", "_rise", "up")

    def __init__(self, rise: int, fall: int) -> None:
        self.up = True
        self._rise = rise
        self._fall = fall
        self._against = 0  # results in a row that contradict `up`

    def note(self, healthy: bool) -> bool:
        """Count one check. Returns: whether the verdict has changed."""
        if healthy is self.up:
            self._against = 0
            return False
        self._against += 1
        if self._against < (self._fall if self.up else self._rise):
            return False
        self.up = healthy
        self._against = 0
        return True


async def watch(groups: Groups, report: Report) -> None:
    """Check the urls of every upstream that asks for it, those of later configurations too.

    Never returns. `report` is told of every change, synchronously; for the log.
    """
    watched: set[Group] = set()
    async with trio.open_nursery() as nursery:
        while True:
            changed = groups.changed
            for group in groups:
                if group not in watched and group.upstream.health is not None:
                    nursery.start_soon(check, group, report)
            watched = set(groups)
            await changed.wait()


async def check(group: Group, report: Report) -> None:
    """Check every url of `group` until the group is closed; nothing to do where none is configured.

    Args:
        report: told of every change, synchronously; for the log.
    """
    settings = group.upstream.health
    if settings is None:
        await trio.lowlevel.checkpoint()
        return
    with group.checking:
        async with trio.open_nursery() as nursery:
            for origin in group.origins:
                nursery.start_soon(_watch, group, origin, settings, report)


async def _watch(group: Group, origin: Origin, settings: HealthCheck, report: Report) -> None:
    verdict = Verdict(settings.rise, settings.fall)
    while True:
        why = await probe(group, origin, settings)
        if verdict.note(not why):
            origin.checked(verdict.up)
            report(origin, verdict.up, why)
        await trio.sleep(settings.interval * uniform(1 - JITTER, 1 + JITTER))


async def probe(group: Group, origin: Origin, settings: HealthCheck) -> str:
    """One check. Returns: "" for healthy, otherwise what was wrong, for the log."""
    with group.alarms.within(settings.timeout):
        try:
            wire = await dial(origin.url, origin.upstream, group.engine, group.alarms)
        except DialError as error:
            return error.message
        try:
            wire.post(_request(origin, settings.path))  # what is wrong, the answer may say
            status = await _status(wire)
        except Gone:
            return f"{origin.url}: closed before it answered"
        except Fault as fault:
            return f"{origin.url}: {fault.message}"
        finally:
            wire.close()
        return "" if status in settings.status else f"{origin.url}: status {status}"
    return f"{origin.url}: no answer within {settings.timeout:g} s"


def _request(origin: Origin, path: str) -> bytes:
    edits = origin.upstream.request_headers.set  # a health page may want the same credentials
    fields = {
        b"host": origin.url.authority,
        b"user-agent": b"relay-health",
        b"accept": b"*/*",
        **dict(edits),
        b"connection": b"close",
    }
    return request_bytes(b"GET", (origin.url.base_path + path).encode(), list(fields.items()))


async def _status(wire: Wire) -> int:
    """The status of the final response head. Raises: Gone, Fault."""
    data = b""
    while True:  # noqa: ASYNC913 # it reads, unless it has a head
        parsed = parse_response(data, b"GET", LONGEST_HEAD) if data else None
        if parsed is None:
            more = await wire.receive()
            if not more:
                raise Gone
            data += more
            continue
        head, used = parsed
        if head.status >= 200 or head.status == 101:
            return head.status
        data = data[used:]


# -- what is known, for metrics and admin ----------------------------------------------------------


class UrlState(NamedTuple):
    """One url of one upstream, as this worker sees it."""

    upstream: str
    url: str
    up: bool  # chosen before others are exhausted
    checks: bool | None  # the active checks' verdict; None: there are none
    streams: int
    idle: int
    failures: int  # in a row
    retry_in: float  # seconds until the back-off ends; 0: there is none
    cause: str  # of the last failure


def states(groups: Iterable[Group], now: float) -> Iterator[UrlState]:
    """Every url of `groups`. `now`: trio.current_time()."""
    for group in groups:
        for origin in group.origins:
            yield UrlState(
                upstream=group.upstream.name,
                url=str(origin.url),
                up=origin.available(now),
                checks=None if group.upstream.health is None else not origin.failing_checks,
                streams=origin.streams,
                idle=len(origin.idle),
                failures=origin.failures,
                retry_in=max(0.0, origin.retry_at - now) if origin.failures else 0.0,
                cause=origin.cause,
            )
