"""Limits by key: `[limits.by.NAME]` and `[routes.limits.by.NAME]`, counted for each value that the key has.

    request ─► placeholders of the key ─► its values, hashed ─► the tally of the limit ─► in, or 429

Rules
  * A limit of `[limits]` counts over all routes, one of a route on that route alone.
  * A key with `{auth.x}` is known once `[routes.auth]` has answered, and counted then; every other one before
    anybody is asked, so that it stands before the upstream of `[routes.auth]` too.
  * Where a request has no such value its client's address is the key: nobody escapes by leaving a field away.
  * A field counts in every spelling that a server behind relay may take for it (http.names): `X_Api_Key` is `X-Api-Key`,
    and with both there are two, of which nobody knows which counts.
  * Keys are hashed with a secret of this process, so that neither memory nor a core dump holds credentials, and a
    key costs the same however long it is.
  * A reload keeps what was counted, by the limit's name and the text of its key.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

from relay.config.values import Quota, Route
from relay.exchange.admission import has_address, who
from relay.exchange.tally import Entry, Tally
from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.http.names import folded
from relay.routing.subject import Subject, Values
from relay.sources.authorize import Grant

_SECRET: Final = secrets.token_bytes(16)
_DIGEST: Final = 16  # bytes: two keys of 65,536 fall together once in 10^29


class Counted(NamedTuple):
    """A limit by key on a route, and its books."""

    key: Subject
    tally: Tally
    # The request's fields that the key names, by their folded names
    spellings: Mapping[bytes, bytes]


class Quotas:
    """The books of all limits by key of one worker."""

    __slots__ = ("tallies",)

    def __init__(self) -> None:
        self.tallies: dict[tuple[str | None, str, str], Tally] = {}

    def configure(self, routes: Iterable[Route]) -> None:
        """Keep the books of what is still configured, and open those of what is new."""
        wanted: dict[tuple[str | None, str, str], Quota] = {}
        for route in routes:
            for quota in route.limits.by:
                if quota.limits:
                    wanted[_place(route, quota)] = quota
        before, self.tallies = self.tallies, {}
        for place, quota in wanted.items():
            tally = before.get(place) or Tally(quota.name, f'for the limit "{quota.name}"')
            tally.configure(quota.request_rate, quota.request_burst, quota.streams)
            self.tallies[place] = tally

    def of(self, route: Route) -> tuple[tuple[Counted, ...], tuple[Counted, ...]]:
        """The limits on a route: those counted at once, and those counted when its auth has answered."""
        found = [
            Counted(quota.key, self.tallies[_place(route, quota)], _spellings(quota.key))
            for quota in route.limits.by
            if quota.limits and (route.auth is not None or not quota.key.reads_auth)
        ]
        late = tuple(each for each in found if each.key.reads_auth)
        return tuple(each for each in found if each not in late), late


def keys_of(
    counted: Iterable[Counted],
    head: RequestHead,
    params: Mapping[str, bytes],
    granted: Grant | None,
    address: str,
) -> list[Entry]:
    """What a request is counted against. `granted`: what `[routes.auth]` answered."""
    auth = granted.fields if granted is not None else ()
    client = who(address) if has_address(address) else ""
    entries: list[Entry] = []
    for key, tally, spellings in counted:
        fields: Fields = head.fields
        if spellings:
            fields = [(spellings.get(folded(name), name), value) for name, value in fields]
        parts = key.parts(Values(params, head.query, fields=fields, auth=auth, client=client))
        if parts is not None:
            entries.append((tally, _hashed(parts)))
        elif has_address(address):
            entries.append((tally, who(address)))
    return entries


def _spellings(key: Subject) -> Mapping[bytes, bytes]:
    names = [name.partition(".") for name in key.names]
    headers = [name.encode() for source, _, name in names if source == "header"]
    return {folded(name): name for name in headers}


def _place(route: Route, quota: Quota) -> tuple[str | None, str, str]:
    """Where a limit counts: everywhere (None), or on one route; and what."""
    return (None if quota.everywhere else route.name, quota.name, quota.key.text)


def _hashed(parts: Iterable[str]) -> bytes:
    digest = blake2b(digest_size=_DIGEST, key=_SECRET)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))  # so that "a", "bc" and "ab", "c" are two
        digest.update(data)
    return digest.digest()
