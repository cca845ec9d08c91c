"""A configuration as text for `relay check`: where it listens, and its routes in matching order.

No value of a field edit, no token and no user info is in it: edits are shown by name alone. Where
something was put in, what was written is shown, of numbers too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from math import inf
from typing import Final

from relay.config.reading.units import show_duration, show_size
from relay.config.values import (
    Address,
    Config,
    FieldEdits,
    Quota,
    Route,
    Upstream,
    Url,
)
from relay.config.values.filled import shown_as, written_as
from relay.config.values.redis_place import Place
from relay.routing.table import Ambiguous, RouteTable
from relay.sse.dialects import WITH_FAILURE

_CIRCULAR: Final = "its url is an address that relay itself listens on: requests would go round in a circle, and get a 508"
_DURATIONS: Final = frozenset(
    ("heartbeat", "first_event", "event_idle", "max_age", "retry_hint", "commit_after")
)
# What has a column, a line or words of its own; every other field of a Route is shown where it differs from its default.
_SHOWN_APART: Final = frozenset(
    [
        "name",
        "pattern",
        "source",
        "timeouts",
        "limits",
        "methods",
        "request_headers",
        "response_headers",
        "cors",
        "expects_events",
        "auth",
        "resume",
        "capture",
    ]
)
_POLICIES: Final = tuple(name for name in Route._fields if name not in _SHOWN_APART)
_DEFAULTS: Final = Route._field_defaults


def describe(config: Config) -> str:
    """The text, without a newline at its end."""
    lines = [f"listen   {', '.join(map(str, config.server.listen))}"]
    lines.append(f"admin    {config.server.admin or 'off'}")
    lines += [f"upstream {_upstream(each)}" for each in config.upstreams.values()]
    lines += [f"limit    {_limit(each)}" for each in config.limits.by]
    rows = [row for route in config.routes for row in _rows(config, route)]
    lines += ["", *_aligned([("METHODS", "PATH", "SOURCE", "POLICY"), *rows])]
    return "\n".join(lines)


def warnings(config: Config) -> tuple[str, ...]:
    """What is allowed and probably not meant."""
    used = {upstream.name for route in config.routes for upstream in route.source.upstreams}
    used |= {route.auth.upstream.name for route in config.routes if route.auth is not None}
    unused = [name for name in config.upstreams if name not in used]
    ordered = [route.name for route in config.routes if route.source.ordered]
    if config.server.workers == 1:
        ordered = []
    asked = any(route.auth is not None for route in config.routes)
    unasked = [each.name for each in config.limits.by if each.key.reads_auth and not asked]
    listen = config.server.listen
    circular = [
        upstream.name
        for upstream in config.upstreams.values()
        if any(_leads_to(url, address) for url in upstream.urls for address in listen)
    ]
    return (
        *(f"upstreams.{name}: no route uses it" for name in unused),
        *(f"upstreams.{name}: {_CIRCULAR}" for name in circular),
        *(f"{name}: {_NEVER_TAKEN}" for name in _never_taken(config)),
        *(
            f"limits.by.{name}: no route has [routes.auth], so it limits nothing"
            for name in unasked
        ),
        *(f"{name}: order_by holds within one worker, not over all" for name in ordered),
    )


_NEVER_TAKEN: Final = (
    "every request to it is refused, because its path can be read as that of another route; "
    "see `ambiguous_paths` in [server]"
)


def _never_taken(config: Config) -> list[str]:
    """Routes whose own path is ambiguous beside the others."""
    if config.server.ambiguous_paths == "pass":
        return []
    rows = [(route.pattern, route.methods, route) for route in config.routes]
    table = RouteTable(rows, strict=True)
    names = []
    for route in config.routes:
        path = re.sub(r"\{[^{}]*\}", "x", route.pattern.text).encode()
        method = min(route.methods) if route.methods else b"GET"
        if isinstance(table.find(method, path), Ambiguous):
            names.append(route.name)
    return names


def _leads_to(url: Url, address: Address) -> bool:
    """Whether an upstream's url is an address that is listened on, as far as that can be told without asking for names."""
    if url.unix is not None or address.kind != "tcp":
        return address.kind == "unix" and url.unix == address.path
    if url.port != address.port or address.port == 0:
        return False
    if url.host.lower() == address.host.lower():
        return True
    return _is_here(url.host) and _is_here(address.host)


def _is_here(host: str) -> bool:
    """Whether a host is this machine's loopback, or all of its interfaces."""
    if host.lower() == "localhost":
        return True
    try:
        found = ip_address(host)
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


def _upstream(upstream: Upstream) -> str:
    urls = ", ".join(map(str, upstream.urls))
    balance = f" ({upstream.balance})" if len(upstream.urls) > 1 else ""
    edits = _edits("sets", upstream.request_headers)
    return " ".join([f"{upstream.name} = {urls}{balance}", *edits])


def _edits(verb: str, edits: FieldEdits) -> list[str]:
    names = [name.decode() for name, _ in edits.set]
    names += [f"-{name.decode()}" for name in sorted(edits.remove)]
    return [f"{verb} {','.join(names)}"] if names else []


def _rows(config: Config, route: Route) -> list[tuple[str, ...]]:
    """A route's line, and one more for every further request it makes."""
    methods = "any"
    if route.methods is not None:
        methods = ",".join(sorted(map(shown_as, route.methods)))
    first, *others = route.source.lines()
    others += _auth(route)
    policies = ", ".join(_policies(config, route))
    return [
        (methods, str(route.pattern), first, policies),
        *(("", "", f"  {other}", "") for other in others),
        *_stream_rows(config, route),
    ]


def _auth(route: Route) -> list[str]:
    auth = route.auth
    return [f"if GET {auth.upstream.name} {auth.path} says so"] if auth else []


def _stream_rows(config: Config, route: Route) -> list[tuple[str, ...]]:
    """How the route's streams are resumed: where, whose they are, what tells them apart, where they are kept."""
    resume = route.resume
    if resume is None:
        return []
    whose = "public" if resume.principal is None else str(resume.principal)
    key = "each its own" if resume.key is None else f"key {resume.key}"
    policy = f"principal {whose}, {key}, unwatched {_number(resume.unwatched)}"
    policy += f", kept in {_kept_in(config)}"
    if route.cors is None:
        policy += ", pages of this origin only (no cors)"
    if resume.at is None:
        return [("", "", "  resumed by Last-Event-ID", policy)]
    methods = "DELETE,GET,HEAD" if resume.stop else "GET,HEAD"
    return [(methods, str(resume.at), "  joined, resumed, stopped", policy)]


def _kept_in(config: Config) -> str:
    """The store, without what it asks for to let us in. It is not asked anything."""
    store = config.streams.store
    if store.startswith("redis"):
        return str(Place.parse(store))
    if store == "auto":
        return "memory" if config.server.workers == 1 else "a directory of the workers"
    return store


def _number(value: float, show: Callable[..., str] = show_duration) -> str:
    return written_as(value) or show(value)


def _policies(config: Config, route: Route) -> list[str]:
    """What differs from the defaults, or from `[timeouts]` and `[limits]`."""
    shown = [] if route.name == str(route.pattern) else [f"name {route.name}"]
    for name in _POLICIES:
        value, default = getattr(route, name), _DEFAULTS[name]
        if name == "after_error" and (route.dialect in WITH_FAILURE or route.source.tells_failure):
            default = "close"
        if value != default:
            shown.append(f"{name.removesuffix('_after')} {_text(name, value)}")
    for name in ("request_headers", "response_headers"):
        shown += _edits(f"{name} set", getattr(route, name))
    if route.capture is not None:
        shown.append(f"captures {' '.join(each.name for each in route.capture.wanted)}")
    if route.cors is not None:
        shown.append(f"cors {' '.join(map(shown_as, route.cors.origins))}")
    for group in ("timeouts", "limits"):
        here, there = getattr(route, group), getattr(config, group)
        for name in there._fields:
            value = getattr(here, name)
            if name == "by":
                shown += [f"limit {_limit(own)}" for own in value if own not in there.by]
            elif value != getattr(there, name):
                text = _number(value, show_duration if group == "timeouts" else show_size)
                shown.append(f"{group}.{name} {text}")
    return shown


def _limit(quota: Quota) -> str:
    # It loads the keys of all tables, which `warnings` does without.
    from relay.config.keys.quotas import show

    return show(quota)


def _text(name: str, value: object) -> str:
    if name in _DURATIONS and isinstance(value, float):
        written = written_as(value)
        before = "after " if name == "commit_after" and value != inf and written is None else ""
        return written or before + show_duration(value)
    if isinstance(value, frozenset):
        return "/".join(sorted(map(shown_as, value)))
    return shown_as(value)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
