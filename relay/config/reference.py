"""Prints the reference page of the configuration: `python -m relay.config.reference`.

It is made from the tables that check a file, so it cannot say anything else than they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from relay.config.keys import quotas, resume, route_keys, server, translations, upstreams
from relay.config.keys.source_table import SOURCES
from relay.config.reading.schema import REQUIRED, Key, ListOf, MapOf, Table

_PREFACE: Final = """\
# Configuration

<!-- Printed by `python -m relay.config.reference` from the tables in relay/config/keys/. -->

A configuration is a TOML file. `relay check CONFIG.toml` prints every mistake in it, each with
the file, its key and line, or the routes in the order in which they are tried. `relay check -`
reads what stdin gives; relative paths in it start from the working folder.

* **duration**: `"250ms"`, `"15s"`, `"2m"`, `"1h"`, or `"off"` for none. A number without a unit
  is refused.
* **size**: `"512B"`, `"64KiB"`, `"1MiB"`, `"10MB"`, an integer of bytes, or `"off"` for no limit.
* **rate**: `"20/s"`, `"600/m"`, or `"off"`.
* **address**: `host:port`, `[::1]:port`, `unix:/path` (with `?mode=660`), `fd:N`, `fd:NAME`. A name
  is listened on at every address it has; `localhost` is `127.0.0.1` and `[::1]`.
* **url**: `http://host:port/base`, `https://…`, or `unix:/path`; no user info, query or fragment.
* **fields**: `{ "X-A" = "value", "X-B" = "" }`; the empty value removes the field. Framing and
  hop-by-hop fields and `Host` cannot be edited.
* **JMESPath**: an expression on a JSON value. What it cannot evaluate is null.

## Values from outside

In every string value `${NAME}` is an environment variable, `${NAME:-text}` one with a default,
and `{file:/run/secrets/x}` the text of a file, both without a newline at their end. What is not set,
empty or cannot be read is a mistake. What came from outside the file is never printed, wherever
it stands: logs, metrics, `/streams`, `relay check` and messages show the text as written
(`http://${HOST}/${TOKEN}`), and a client's path that has such a literal of a route in it shows `***`
instead. Numbers are the exception in messages that count (`no byte for 30 s`), as is the TCP
address of `relay: listening on`. `$${` is a literal `${`, and `$NAME` without braces stands as it is.
A JMESPath that makes an object with a member `file` has a space: `{file: x}`. Relative paths, here
and in `tls_ca`, `directory` and `translate`, start from the folder of the file.

## Paths and targets

A `path` is matched segment by segment. `{name}` is one segment that is not empty; `{name...}` is
the rest, stands last, and may be empty: `/api/{rest...}` takes `/api/x/y` and `/api/`, not
`/api`. The most specific route that takes the method wins whatever the order in the file: a
literal before `{name}` before `{name...}`. So a catch-all serves what a route above it does not
take; no route is a 404, no route for the method a 405. Two routes that match the same paths need
disjoint methods. What means a parameter elsewhere (`/b/*`, `/c/:id`, `{rest:path}`) is a mistake,
and `relay check` says what it is called here. Literals are compared after percent-decoding within a segment, so that no
encoding slips past a route; `%2F` is never a slash, and `//`, `;` and `\\` are part of a segment.
A path that some server would read as one of another route (decoded, also twice; `//` merged;
without `;parameters`; `\\` for `/`; without a leading `//host`) is refused with a 400
(`ambiguous_path`), unless `ambiguous_paths = "pass"`. Within one route such paths keep their bytes.

An `upstream_path`, and the `path` of a request that relay makes, is a target with placeholders:
`{x}` a parameter of the route, `{query.x}` of the client's query, `{body.x.y}` a member of the
client's JSON body, `{reply.x.y}` of the first answer. In the path a parameter keeps the bytes
that the client sent and everything else is percent-encoded; after the `?` everything is. A value
that is missing, null, a table or an array, or that would make a dot segment, is a 400.

Where a `forward` route keeps a prefix of the path (its path goes on as it came, or `upstream_path`
ends with the route's `{rest}`), an address of the upstream's own in `Location`, `Content-Location`
or `Refresh` becomes a path on relay: `http://127.0.0.1:8080/one/x` becomes `/two/x`. Everything
else in those fields passes as it came.
"""

_SECTIONS: Final = (
    ("[server]", server.SERVER, ""),
    ("[limits]", server.LIMITS, ""),
    (
        "[limits.by.NAME]",
        quotas.SHARED,
        "A limit for each value of a key, counted per process. NAME stands in the 429 and in the log.",
    ),
    ("[timeouts]", server.TIMEOUTS, ""),
    ("[upstreams.NAME]", upstreams.UPSTREAM, ""),
    ("[upstreams.NAME.health]", upstreams.HEALTH, ""),
    ("[streams]", resume.STREAMS, "For routes with `[routes.resume]`."),
    ("[[routes]]", route_keys.ROUTE, ""),
    ("routes.timeouts", server.ROUTE_TIMEOUTS, "Defaults are those of `[timeouts]`."),
    ("routes.limits", server.ROUTE_LIMITS, "Defaults are those of `[limits]`."),
    (
        "[routes.limits.by.NAME]",
        quotas.OWN,
        'The same, counted on the route alone; `request_rate` and `streams` `"off"` switch one of `[limits.by]` off here.',
    ),
    ("routes.cors", route_keys.CORS, ""),
    ("[routes.auth]", resume.AUTH, "On any route: an upstream says who may."),
    ("[routes.resume]", resume.RESUME, "The event streams of the route are resumable."),
    *(section for each in SOURCES.values() for section in each.sections),
    ("[translations.NAME]", translations.TRANSLATION, "Rules are tried in the order of the file."),
    ("[translations.NAME.KEY]", translations.RULE, "One rule."),
)


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_PREFACE, *_sections()])


def _sections() -> Iterator[str]:
    for title, table, note in _SECTIONS:
        yield f"## `{title}`\n"
        if note:
            yield f"{note}\n"
        yield "| key | type | default | meaning | when not |"
        yield "|---|---|---|---|---|"
        yield from (_row(key) for key in table.keys)
        yield ""


def _row(key: Key) -> str:
    default = {REQUIRED: "**required**", "": "not set"}.get(key.default, f"`{key.default}`")
    return f"| `{key.name}` | {_type(key)} | {default} | {key.meaning} | {key.unless} |"


def _type(key: Key) -> str:
    kind = key.kind
    if isinstance(kind, ListOf):
        each = kind.each.label
        return f"{each}, or an array of them" if kind.single else f"array of {each}"
    if isinstance(kind, Table | MapOf):
        return kind.label
    return kind.label


if __name__ == "__main__":
    print(reference(), end="")
