"""The configuration of `relay forward URL`, made without a file.

It has a module of its own so that `relay forward` starts without the reader and its schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

from relay.config.reading.addresses import parse_address, parse_url
from relay.config.reading.mistakes import ConfigError, Mistake, nearest
from relay.config.values import (
    Config,
    Dialect,
    FieldEdits,
    Forward,
    Limits,
    Resume,
    Route,
    Server,
    Timeouts,
    Upstream,
)
from relay.routing.pattern import Pattern
from relay.sse.dialects import WITH_FAILURE

# Beside GET and POST, whose streams can be resumed: what HTTP (RFC 9110), PATCH, QUERY and WebDAV (RFC 4918) have.
_OTHERS: Final = frozenset(
    b"DELETE OPTIONS PATCH PUT QUERY COPY LOCK MKCOL MOVE PROPFIND PROPPATCH REPORT SEARCH UNLOCK".split()
)


def forward_config(
    url: str,
    listen: Sequence[str] = (),
    *,
    headers: Sequence[str] = (),
    dialect: str = "plain",
    resume: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration of `relay forward URL`: everything to one upstream.

    Args:
        headers: `NAME: VALUE`, set on every request to the upstream.
        resume: event streams of GET and POST are resumable.

    Raises: ConfigError whose keys are the arguments, `URL`, `--listen`, `--header`, `--dialect`.
    """
    mistakes = []
    upstream, addresses = None, []
    try:
        upstream = Upstream("upstream", (parse_url(url),))
    except ValueError as error:
        expected = f'expected a url such as "http://127.0.0.1:9000": {error}'
        mistakes.append(Mistake("URL", expected))
    for each in listen or ("127.0.0.1:8000",):
        try:
            addresses.append(parse_address(each))
        except ValueError as error:
            mistakes.append(Mistake("--listen", str(error)))
    if dialect not in get_args(Dialect):
        message = f'found "{dialect}", expected a dialect{nearest(dialect, get_args(Dialect))}'
        mistakes.append(Mistake("--dialect", message))
    edits, wrong = _edits(headers, environ or {})
    mistakes += [Mistake("--header", message) for message in wrong]
    if upstream is None or mistakes:
        raise ConfigError(mistakes)
    upstream = upstream._replace(request_headers=edits)
    limits, timeouts = Limits(), Timeouts()
    routes = tuple(
        Route(
            name,
            Pattern.parse("/{path...}"),
            Forward(upstream),
            timeouts,
            limits,
            methods=methods,
            dialect=dialect,  # type: ignore[arg-type] # one of them: see above
            after_error="close" if dialect in WITH_FAILURE else "abort",
            expects_events=resume or dialect != "plain",
            resume=resumed,
        )
        for name, methods, resumed in _parts(resume)
    )
    server = Server(tuple(addresses))
    return Config(server, limits, timeouts, {upstream.name: upstream}, routes)


def _parts(resume: bool) -> Sequence[tuple[str, frozenset[bytes] | None, Resume | None]]:
    """Name, methods and `[routes.resume]` of each route: one method begins the runs of one route."""
    if not resume:
        return (("forward", None, None),)
    return (
        ("forward GET", frozenset((b"GET",)), Resume()),
        ("forward POST", frozenset((b"POST",)), Resume()),
        ("forward", _OTHERS, None),
    )


def _edits(headers: Sequence[str], environ: Mapping[str, str]) -> tuple[FieldEdits, list[str]]:
    """What `--header` sets, and what is wrong with it; no value is told."""
    if not headers:
        return FieldEdits(), []
    from relay.config.reading.interpolation import Interpolation
    from relay.config.reading.kinds import FIELD_EDITS

    places, values, wrong = Interpolation(environ, Path.cwd()), {}, []
    for each in headers:
        name, colon, value = each.partition(":")
        try:
            if not colon:
                raise ValueError("expected NAME: VALUE")
            FIELD_EDITS.name(name)
            if name in values:
                raise ValueError("it stands twice")
            values[name] = FIELD_EDITS.each.read(places.resolve(value.strip(" \t")))  # type: ignore[union-attr]
        except ValueError as error:
            shown = name if colon else "a header"
            wrong.append(f"{shown}: {error}")
    try:
        edits: FieldEdits = FIELD_EDITS.make(values)  # type: ignore[assignment]
    except ValueError as error:
        return FieldEdits(), [*wrong, str(error)]
    return edits, wrong
