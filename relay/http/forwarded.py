"""Who the client is: X-Forwarded-* and Forwarded (RFC 7239), believed only from trusted peers.

Rules of this module:

* From a peer that is not trusted nothing is believed and nothing is passed on.
* From a trusted peer the chain of addresses is walked from the right, as far as the hops are
  trusted; the first one that is not is the client. What stands left of it was said by the client,
  so it is dropped: the chain that goes upstream starts at the client.
* Where a trusted peer sends both, X-Forwarded-For counts: many proxies write it and pass a
  Forwarded on unread.
* A hop that is not an address (`unknown`, `_hidden`, nonsense) ends the walk: the hop that reported
  it is the client.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, NamedTuple

from relay.http.bodies import Fields
from relay.http.heads import RequestHead
from relay.http.targets import HOST

# What the configuration trusts. None among the networks: peers on unix sockets, which have no
# address.
Trusted = tuple[IPv4Network | IPv6Network | None, ...]

MAX_HOPS: Final = 32  # addresses of a chain that are looked at (arbitrary; real chains have three)
_MAX_KNOWN: Final = 4096  # peers remembered as trusted or not
UNIX: Final = b"unix"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(
    rb"[ \t]*(" + _TOKEN + rb")=(" + _TOKEN + rb'|"(?:[\t !#-\[\]-~]|\\[\t -~])*")[ \t]*'
)
_PLAIN = re.compile(_TOKEN)


class ClientView(NamedTuple):
    """The client of a request, as relay sees it. A NamedTuple: frozen, slotted and cheap; one per
    request.
    """

    address: (
        bytes  # IP address as text, without brackets or port; b"unix" for a peer on a unix socket
    )
    scheme: bytes  # b"http" | b"https": what the client used
    host: bytes  # the host the client asked for; b"" if it named none (HTTP/1.0)
    x_forwarded_for: bytes  # the whole value to send; b"" if no address is known
    forwarded: bytes  # the whole value to send
    trusted: bool = False  # the peer is trusted: its other forwarding fields are passed on


def client_view(
    head: RequestHead,
    peer_address: str | None,
    networks: Trusted,
    default_scheme: bytes = b"http",
) -> ClientView:
    """Who sent this request.

    Args:
        peer_address: the IP address at the other end of the connection, or the one from its PROXY
            header; None for a unix socket.
        networks: the trusted peers; None among them stands for unix sockets.
        default_scheme: of the listener; what counts where no trusted peer says otherwise.
    """
    if not networks or not is_trusted(peer_address, networks):
        return _direct(peer_address, head.host, default_scheme)
    return _through_proxy(head.fields, _text(peer_address), head.host, networks, default_scheme)


@lru_cache(maxsize=1024)
def _direct(peer: str | None, host: bytes, scheme: bytes) -> ClientView:
    address = _text(peer)
    chain = [] if address == UNIX else [address]
    return ClientView(address, scheme, host, b"".join(chain), _forwarded(chain, host, scheme))


def _through_proxy(
    fields: Fields, peer: bytes, host: bytes, networks: Trusted, scheme: bytes
) -> ClientView:
    for_lines: list[bytes] = []
    forwarded_lines: list[bytes] = []
    scheme_said = host_said = b""
    for name, value in fields:
        if name == b"x-forwarded-for":
            for_lines.append(value)
        elif name == b"forwarded":
            forwarded_lines.append(value)
        elif name == b"x-forwarded-proto":
            scheme_said = value
        elif name == b"x-forwarded-host":
            host_said = value
    if for_lines or not forwarded_lines:
        chain = _believed(b",".join(for_lines).split(b","), networks)
        scheme_said, host_said = _nth(scheme_said, len(chain)), _nth(host_said, len(chain))
    else:
        elements = _elements(b",".join(forwarded_lines))
        chain = _believed([element.get(b"for", b"") for element in elements], networks)
        said = elements[-max(1, len(chain))] if elements else {}
        scheme_said, host_said = said.get(b"proto", b""), said.get(b"host", b"")
    if scheme_said.lower() in (b"http", b"https"):
        scheme = scheme_said.lower()
    if HOST.fullmatch(host_said) is not None:
        host = host_said
    if peer != UNIX:
        chain.append(peer)
    address = chain[0] if chain else UNIX
    return ClientView(
        address, scheme, host, b", ".join(chain), _forwarded(chain, host, scheme), True
    )


def _nth(value: bytes, hops: int) -> bytes:
    """Of a list that every hop appended to, the entry of the client's own hop; mostly there is just
    one.
    """
    if b"," not in value:
        return value
    entries = value.split(b",")
    return entries[max(0, len(entries) - max(1, hops))].strip(b" \t")


def _believed(nodes: list[bytes], networks: Trusted) -> list[bytes]:
    """The addresses from the client to the hop before the peer, of a chain as the trusted peer sent
    it.
    """
    chain: list[bytes] = []
    for node in reversed(nodes[-MAX_HOPS:]):
        address = _address(node.strip(b" \t"))
        if address is None:
            break
        chain.append(address.encode("ascii"))
        if not is_trusted(address, networks):
            break
    chain.reverse()
    return chain


def _address(node: bytes) -> str | None:
    """The IP address of a node, without brackets and port; None if it is not one."""
    if node[:1] == b"[":
        node = node[1:].partition(b"]")[0]
    elif node.count(b":") == 1:
        node = node.partition(b":")[0]
    try:
        address = ip_address(node.decode("ascii"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address) if b"%" not in node else None


def _elements(value: bytes) -> list[dict[bytes, bytes]]:
    """The elements of a Forwarded field (RFC 7239 §4); from the last malformed one on leftwards
    nothing is read.
    """
    elements: list[dict[bytes, bytes]] = [{}]
    at = 0
    while at < len(value):
        match = _PAIR.match(value, at)
        if match is not None:
            text = match[2]
            if text[:1] == b'"':
                text = re.sub(rb"\\(.)", rb"\1", text[1:-1])
            elements[-1][match[1].lower()] = text
            at = match.end()
        separator = value[at : at + 1]
        if separator == b",":
            elements.append({})
        elif separator not in (b";", b""):
            # Nonsense: what stands left of the next comma cannot be told apart any more, so it is
            # as if it were not there.
            comma = value.find(b",", at)
            if comma < 0:
                return []
            elements, at = [{}], comma
        at += 1
    return elements


def _forwarded(chain: list[bytes], host: bytes, scheme: bytes) -> bytes:
    """The Forwarded value: one element per hop; host and proto are the client's, so they stand with
    it. A host with a `;` is left out: a reader that takes it for a separator, quotes or not, would
    find parameters there that the client has written.
    """
    first = b"for=" + (_node(chain[0]) if chain else b"unknown")
    if host and b";" not in host:
        first += b";host=" + (host if _PLAIN.fullmatch(host) else b'"' + host + b'"')
    first += b";proto=" + scheme
    return b", ".join([first, *(b"for=" + _node(address) for address in chain[1:])])


def _node(address: bytes) -> bytes:
    return b'"[' + address + b']"' if b":" in address else address


def _text(peer: str | None) -> bytes:
    """A peer's address as it is written: no zone, no IPv4-mapped form."""
    if peer is None:
        return UNIX
    peer = peer.partition("%")[0]
    if peer.startswith("::ffff:") and "." in peer:
        peer = peer[7:]
    return peer.encode("ascii", "replace")


# One table of known peers for the trust list in force, found by identity: hashing the networks
# would cost 1 µs each.
_known_for: Trusted = ()
_known: dict[str, bool] = {}


def is_trusted(address: str | None, networks: Trusted) -> bool:
    """Whether a peer (None: on a unix socket) is among the trusted ones."""
    global _known_for, _known
    if address is None:
        return None in networks
    if networks is not _known_for:
        _known_for, _known = networks, {}
    trusted = _known.get(address)
    if trusted is None:
        trusted = _is_within(_text(address).decode("ascii"), networks)
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[address] = trusted
    return trusted


def _is_within(address: str, networks: Trusted) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:  # an embedding server may name its peers in other ways
        return False
    return any(network is not None and parsed in network for network in networks)
