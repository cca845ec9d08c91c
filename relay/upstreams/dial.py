"""One new connection to one url: addresses, connect, TLS.

Rules
  * The caller owns the deadline; nothing here knows a time-out but the pause between two addresses.
  * However a dial ends (refused, cancelled while connecting, in the middle of the handshake) no
    descriptor is left.
  * Certificates and names are always verified; there is no switch for it.
  * TLS contexts are made once per CA file and worker, never per dial: loading the system's store
    costs milliseconds.

Several addresses are tried as in RFC 8305: address families take turns; the next attempt begins HEAD_START
seconds after the one before, or at once when one has failed; the first connection wins and the others are closed.
Unlike RFC 8305 §3, no attempt begins before all addresses are known: getaddrinfo gives them in one answer, in the
order of RFC 6724.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from functools import cache, lru_cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal

import trio

from relay.observing.ending import Side
from relay.upstreams.names import look_up
from relay.wires.alarms import Alarms
from relay.wires.connecting import Address, Connecting
from relay.wires.dead_links import probe
from relay.wires.descriptors import is_lack, none_left, refuse_reserve
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from relay.wires.tls_wire import TlsWire
from relay.wires.wire import Gone

if TYPE_CHECKING:
    from relay.config.values import Upstream, Url

HEAD_START = 0.25  # seconds for one address before the next is tried beside it (RFC 8305 §5)
FULL_BACKLOG_PAUSE = 0.01  # seconds; arbitrary: a full unix backlog has no event to wait for
ALPN = ["http/1.1"]

DialCause = Literal["refused", "dns", "tls", "exhausted", "unreachable"]

_NOT_LISTENING = {errno.ECONNREFUSED, errno.ENOENT}  # ENOENT: the unix socket is not there (yet)


class DialError(Exception):
    """No connection. Nothing was sent of the request, so another url may always be tried.

    Attributes:
        cause: "refused" (nobody listens), "dns", "tls" (handshake, certificate), "exhausted" (this
            machine is out of descriptors, ports or memory), "unreachable" (anything else).
        message: for the operator; names the url and the reason, no secret.
    """

    __slots__ = ("cause", "message")

    def __init__(self, cause: DialCause, message: str) -> None:
        super().__init__(message)
        self.cause: DialCause = cause
        self.message = message


async def dial(
    url: Url, upstream: Upstream, engine: Engine, alarms: Alarms, begun: Connecting | None = None
) -> SocketWire:
    """Connect to `url`, with TLS where its scheme says so; the wire is ready for a request head.

    Args:
        begun: by `begin_dial`, for the same url. Owned by this from now on.

    Raises: DialError.
    Resource handling: the caller owns the wire. Cancellation: leaves nothing open.
    """
    if url.scheme != "https":
        return SocketWire(await _connect(url, engine, begun), engine, alarms, Side.UPSTREAM)
    context, name = _tls_terms(url, upstream)
    wire = TlsWire(_wrapped(url, await _connect(url, engine), context, name), engine, alarms)
    try:
        await wire.handshake()
    except (OSError, Gone) as error:
        wire.close()
        raise DialError("tls", f"{url}: {tls_reason(error)}") from None
    except BaseException:
        wire.close()
        raise
    return wire


def begin_dial(url: Url, engine: Engine, alarms: Alarms) -> SocketWire | Connecting | None:
    """Begin to connect where one step can: to one address, without TLS. None: `dial` it.

    Within this machine a connection is there when `connect` returns, although that says EINPROGRESS; a second `connect`
    tells, without a wait for the engine's word.
    """
    if url.scheme == "https":
        return None
    address = _literal(url.host, url.port) if url.unix is None else (socket.AF_UNIX, url.unix)
    if address is None:
        return None
    try:
        sock = _open(address[0])
    except OSError:
        return None
    code = sock.connect_ex(address[1])
    if code == errno.EINPROGRESS:
        code = sock.connect_ex(address[1])
        if code == errno.EALREADY:
            return Connecting(sock, address, engine)
    if code or _set_up(sock, address):
        sock.close()
        return None
    return SocketWire(sock, engine, alarms, Side.UPSTREAM)


def finish_dial(connecting: Connecting, engine: Engine, alarms: Alarms) -> SocketWire | None:
    """The wire of what was begun and has come to its end; None where that is no connection, and `dial` says why."""
    if _error_of(connecting):
        return None
    return SocketWire(connecting.sock, engine, alarms, Side.UPSTREAM)


def _tls_terms(url: Url, upstream: Upstream) -> tuple[ssl.SSLContext, str]:
    """The context, and the name the certificate must have. Raises: DialError."""
    name = upstream.tls_server_name or url.host
    try:
        # `wrap_socket` would do the same, but only once it has taken the socket from us.
        return tls_context(upstream.tls_ca), name.encode("idna").decode("ascii")
    except (OSError, UnicodeError) as error:
        raise DialError("tls", f"{url}: {tls_reason(error)}") from None


def _wrapped(url: Url, sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    """The TLS socket, before its handshake; `sock` is given up. Raises: DialError."""
    try:
        sock.getpeername()  # reset since it connected: `wrap_socket` could leave the socket open
        return context.wrap_socket(
            sock,
            server_hostname=name,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # an end without close_notify must be seen
        )
    except (OSError, ValueError) as error:  # ValueError: a name such as ".example"
        sock.close()
        reason = tls_reason(error)
    # Out here, so that nothing refers to the half-made SSLSocket and its descriptor any more.
    raise DialError("tls", f"{url}: {reason}")


@cache
def tls_context(ca: str | None) -> ssl.SSLContext:
    """The verifying client context for a CA file (None: the system's store).

    Raises: OSError (the file cannot be read, or is no PEM).
    """
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def forget_tls_contexts() -> None:
    """Read CA files anew from now on (reload). Connections that are open keep theirs."""
    tls_context.cache_clear()


def tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        # For a mismatch Python's message goes on with the name that was asked for, which may be secret.
        return f"certificate refused: {error.verify_message.partition(',')[0]}"
    if isinstance(error, ssl.SSLEOFError | ConnectionError | Gone):
        return "the connection ended during the TLS handshake"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {error.reason or 'unknown reason'}"
    if isinstance(error, OSError):
        return f"TLS cannot be set up: {_reason(error)}"
    return "TLS cannot be set up: the server name is not a host name"


# -- addresses -------------------------------------------------------------------------------------


async def _addresses(url: Url) -> list[Address]:
    """Where `url` may be reached, in the order of trying. Raises: DialError."""
    literal = _literal(url.host, url.port)
    if literal is not None:
        return [literal]  # no thread, and no checkpoint: connecting has one
    found = await look_up(url.host, url.port)
    if isinstance(found, OSError):
        # The resolver opens files and sockets, and calls it "no such name" when it cannot.
        cause: DialCause = "exhausted" if is_lack(found) or none_left() else "dns"
        raise DialError(cause, f"{url}: name not resolved: {found.strerror}")
    if isinstance(found, UnicodeError):
        raise DialError("dns", f"{url}: name not resolved: not a host name")
    if isinstance(found, Exception):
        raise found
    return interleave([(family, address) for family, _, _, _, address in found])


@lru_cache(maxsize=1024)
def _literal(host: str, port: int) -> Address | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return (family, (host, port) if family is socket.AF_INET else (host, port, 0, 0))
    return None


def interleave(addresses: list[Address]) -> list[Address]:
    """Families in turn, the first address's first, order kept within each (RFC 8305 §4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    pairs = zip_longest(first, other)
    return [address for address in chain.from_iterable(pairs) if address is not None]


# -- connecting ------------------------------------------------------------------------------------


async def _connect(url: Url, engine: Engine, begun: Connecting | None = None) -> socket.socket:
    """A connected non-blocking socket. Raises: DialError. Cancellation: leaves nothing open."""
    addresses: list[Address]
    if begun is not None:
        addresses = [begun.address]
    elif url.unix is not None:
        addresses = [(socket.AF_UNIX, url.unix)]
    else:
        addresses = await _addresses(url)
    if len(addresses) > 1:
        winner, errors = await race(addresses, engine)
    else:
        winner, errors = None, []
        try:
            winner = await _attempt(addresses[0], engine, begun)
        except OSError as error:
            errors.append(error)
    if winner is None:
        raise _dial_error(url, errors)
    return winner


async def race(
    addresses: list[Address], engine: Engine
) -> tuple[socket.socket | None, list[OSError]]:
    """Happy eyeballs: the first address that connects, or every address's error."""
    winner: socket.socket | None = None
    errors: list[OSError] = []

    async def attempt(address: Address, failed: trio.Event) -> None:
        nonlocal winner
        try:
            sock = await _attempt(address, engine)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if winner is None:
            winner = sock
            nursery.cancel_scope.cancel()
        else:  # two connected in the same turn of the scheduler
            sock.close()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(HEAD_START):
                    await failed.wait()
    except BaseException:  # cancelled from outside just as one had connected
        if winner is not None:
            winner.close()
        raise
    return winner, errors


async def _attempt(
    address: Address, engine: Engine, begun: Connecting | None = None
) -> socket.socket:
    """Connect to one address. Raises: OSError. Cancellation: leaves nothing open."""
    connecting = begun or await _begin(address, engine)
    try:
        await connecting.wait()
    except BaseException:
        connecting.close()
        raise
    if error := _error_of(connecting):
        connecting.close()
        raise OSError(error, os.strerror(error))
    return connecting.sock


async def _begin(address: Address, engine: Engine) -> Connecting:
    """Begin to connect, where it may have to be waited for. Raises: OSError. Cancellation: leaves nothing open."""
    family, where = address
    try:
        sock = _open(family)
    except OSError as error:
        if not is_lack(error):
            raise
        engine.on_lack()
        sock = _open(family)
    try:
        # A unix listener whose backlog is full gives EAGAIN, and no event to wait for.
        while (code := sock.connect_ex(where)) == errno.EAGAIN:  # noqa: ASYNC110
            await trio.sleep(FULL_BACKLOG_PAUSE)
        if code not in (0, errno.EINPROGRESS):
            await trio.lowlevel.checkpoint()
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return Connecting(sock, address, engine)


def _error_of(connecting: Connecting) -> int:
    """What became of a connect that has come to its end: its error number; 0: a connection, and it is ready for use."""
    if connecting.error is None:
        connecting.error = connecting.end() or _set_up(connecting.sock, connecting.address)
    return connecting.error


def _set_up(sock: socket.socket, address: Address) -> int:
    """Make a connection ready for use. Returns: the error number of one that is none, or was reset meanwhile."""
    family, where = address
    if family is socket.AF_UNIX:
        return 0
    try:
        if sock.getsockname() == where:
            # Nobody listens on this port of ours, and the kernel chose it as our own: TCP's
            # simultaneous open has connected the socket to itself.
            return errno.ECONNREFUSED
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe(sock)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _open(family: socket.AddressFamily) -> socket.socket:
    """A socket. Raises: OSError; the last descriptors are not for dialling."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        refuse_reserve(sock.fileno())
    except OSError:
        sock.close()
        raise
    return sock


def _dial_error(url: Url, errors: list[OSError]) -> DialError:
    """What a failed dial is called: refused only when every address refused."""
    codes = {error.errno for error in errors}
    cause: DialCause
    if codes <= _NOT_LISTENING:
        cause = "refused"
    elif all(is_lack(error) or error.errno == errno.EADDRNOTAVAIL for error in errors):
        cause = "exhausted"
    else:
        cause = "unreachable"
    reasons = ", ".join(dict.fromkeys(_reason(error) for error in errors))
    return DialError(cause, f"{url}: {reasons}")


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
