"""Which fields of a request may stand in the access log.

Rule: no credential does. What is one by its name is refused wherever it stands, and so is a field that this configuration
uses as one. Names are compared as servers behind relay may compare them (http.names): `X_Api_Key` is `X-Api-Key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from relay.config.reading import kinds
from relay.config.reading.schema import ListOf
from relay.config.values import Route, Upstream
from relay.http.names import folded

MOST: Final = 16  # fields; each is cut at 256 characters
# What a name says that carries a key, a token, a password: anywhere in it, or (`auth`) as a word of its own.
_TELLING: Final = re.compile(
    rb"cookie|token|secret|passw|credential|signature|session|jwt|csrf|xsrf|authoriz|api_?key|(access|private|subscription)_key"
    rb"|(?<![a-z])auth(?![a-z])"
)


def _field(value: str) -> bytes:
    name: bytes = kinds.FIELD_NAME.read(value)
    if _TELLING.search(folded(name)):
        raise ValueError("it may be a credential, and no credential is ever logged")
    return name


def _fields(values: list[bytes]) -> tuple[bytes, ...]:
    if len(values) > MOST:
        raise ValueError(f"{len(values)} fields, at most {MOST} are logged")
    return tuple(dict.fromkeys(values))


LOG_FIELDS: Final = ListOf(kinds.text("a field name", _field, "field name"), _fields, single=True)


def secret_uses(
    names: Iterable[bytes], upstreams: Iterable[Upstream], routes: Iterable[Route]
) -> Iterable[tuple[bytes, str]]:
    """Those of `names` that the configuration uses as a secret, each with where."""
    uses: dict[bytes, str] = {}
    for upstream in upstreams:
        for name, _ in upstream.request_headers.set:
            uses.setdefault(folded(name), f"upstreams.{upstream.name}.request_headers sets it")
    for route in routes:
        for name, _ in route.request_headers.set:
            uses.setdefault(folded(name), f"request_headers of the route {route.name} sets it")
        principal = route.resume.principal if route.resume is not None else None
        for placeholder in principal.names if principal is not None else ():
            source, _, field = placeholder.partition(".")
            if source == "header":
                why = f"the route {route.name} takes it for whose a stream is"
                uses.setdefault(folded(field.encode()), why)
    for name in names:
        if folded(name) in uses:
            yield name, uses[folded(name)]
