"""Which field names are one name, and which of them do not pass (RFC 3875 §4.1.18, RFC 9110 §6.5.1).

Rules of this module:

* CGI, WSGI, PHP and their like make a variable of a field's name: upper case, and `_` for every
  character that is neither a letter nor a digit. `X-Api-Key`, `X_Api_Key` and `x.api~key` are one
  variable to them, and two fields of that variable are joined. So relay compares names as they do:
  folded.
* A name that is written plainly (letters, digits, hyphens) folds to what only an odd one could
  equal. It is compared as it stands; only odd names and trailers are folded.
* An odd name that frames a body is refused where it stands in a head: it can only be meant to make
  two servers disagree. Any other odd name that folds to one that the configuration sets or removes,
  or that relay writes or removes, is dropped, from trusted peers too: the proxy in front has cleaned
  the name that it knows, and not this one.
* A trailer is as good as a head to a server that merges the two, so the same names are dropped
  there, and those besides that RFC 9110 §6.5.1 bars from trailers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

Fields = list[tuple[bytes, bytes]]

_FOLD: Final = bytes(
    c if c in b"abcdefghijklmnopqrstuvwxyz0123456789" else c + 32 if 65 <= c <= 90 else 95
    for c in range(256)
)
# In a head: a line whose name has more than letters, digits and hyphens.
ODD_LINE: Final = re.compile(rb"\r\n[A-Za-z0-9\-]*+[^A-Za-z0-9\-:\r]")
_ODD_NAME: Final = re.compile(rb"[^a-z0-9\-]")

FRAMING: Final = frozenset((b"content_length", b"transfer_encoding"))  # folded

# What a sender may not put into trailers, and a recipient may not merge from them: what frames,
# routes, authenticates, controls or says how to read the content (RFC 9110 §6.5.1; the list of RFC
# 7230 §4.1.2, Go's, and cookies).
_NOT_LATE: Final = frozenset(
    b"age authorization cache-control connection content-encoding content-length content-range"
    b" content-type cookie date expect expires host http2-settings keep-alive location max-forwards"
    b" pragma proxy proxy-authenticate proxy-authentication-info proxy-authorization"
    b" proxy-connection range retry-after set-cookie te trailer transfer-encoding upgrade vary"
    b" warning www-authenticate".split()
)
_NOT_LATE_FAMILIES: Final = (b"access_control_", b"if_")


def folded(name: bytes) -> bytes:
    """The name as a CGI's variable, in lower case and without its HTTP_."""
    return name.translate(_FOLD)


def is_odd(name: bytes) -> bool:
    """Whether a lower-case name is not written plainly, so that only its folded form tells."""
    return _ODD_NAME.search(name) is not None


def plainly(names: Iterable[bytes]) -> frozenset[bytes]:
    """The names, and for those that are odd their plain spelling too."""
    return frozenset(names) | {folded(name).replace(b"_", b"-") for name in names}


class Barred(NamedTuple):
    """Names, folded, that do not pass; whole families of them by how they begin."""

    names: frozenset[bytes]
    families: tuple[bytes, ...] = ()

    def bars(self, name: bytes) -> bool:
        """Whether a field of this name is dropped."""
        fold = name.translate(_FOLD)
        return fold in self.names or fold.startswith(self.families)

    def without_odd(self, fields: Fields) -> Fields:
        """The fields of a head but for the odd ones that are barred."""
        return [field for field in fields if not (is_odd(field[0]) and self.bars(field[0]))]

    def and_named(self, names: Iterable[bytes]) -> Barred:
        """These, and names besides (of a Connection field)."""
        return Barred(self.names.union(map(folded, names)), self.families)

    def late(self) -> Barred:
        """What is dropped among trailers where these are dropped in the head."""
        return Barred(self.names | LATE.names, self.families + LATE.families)


def barred(names: Iterable[bytes], families: tuple[bytes, ...] = ()) -> Barred:
    """What does not pass under any spelling."""
    return Barred(frozenset(map(folded, names)), families)


LATE: Final = barred(_NOT_LATE, _NOT_LATE_FAMILIES)  # whatever the route
