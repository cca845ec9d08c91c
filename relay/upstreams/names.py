"""The addresses of a name.

    many dials ─► one look-up ─► its thread ─► every dial that waits

getaddrinfo blocks, for as long as a name server keeps it waiting: 5 to 30 seconds, or for ever with a broken NSS module.

Rules
  * A name that hangs holds nobody but those that want this name: a look-up has a thread of its own, and takes none from
    a common stock.
  * Who wants a name that is being looked up waits for that look-up. So a name holds at most THREADS threads, and all of
    them together as many as the configuration has names.
  * A look-up that takes long gets another beside it every ANEW seconds, up to THREADS: a lost packet must not cost
    everybody the time that the resolver waits for it. The first answer counts.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from math import inf
from typing import Any, Final

import trio

THREADS: Final = 3  # for one name, at a time
# Seconds; below the 5 s that glibc waits for a name server, and that a dial has by default
ANEW: Final = 3.0

AddrInfo = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]

# A look-up is an abandoned thread when it is not wanted any more: only the number per name bounds it.
_UNBOUNDED: Final = trio.CapacityLimiter(inf)


class _Wanted:
    """An answer that somebody waits for."""

    __slots__ = ("answer", "here")

    def __init__(self) -> None:
        self.answer: AddrInfo | Exception = []
        self.here = trio.Event()


class _Name:
    """One name and port, with its look-ups under way. One for each that a configuration had."""

    __slots__ = ("host", "port", "running", "started", "wanted")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.running = 0  # look-ups under way, wanted or not
        self.started = -inf  # when the last one was that may still bring what is wanted
        self.wanted: _Wanted | None = None

    def want(self) -> _Wanted:
        """What is to be waited for; a look-up is begun where none is under way, or the last one takes too long."""
        if self.wanted is None:
            self.wanted = _Wanted()
        now = trio.current_time()
        if self.running < THREADS and now - self.started >= ANEW:
            self.running += 1
            self.started = now
            trio.lowlevel.spawn_system_task(self._look_up)
        return self.wanted

    async def _look_up(self) -> None:
        """One look-up. A system task: it outlives the dial that began it, because others wait for it too."""
        answer: AddrInfo | Exception
        try:
            answer = await _getaddrinfo(self.host, self.port)
        except Exception as error:
            answer = error
        self.running -= 1
        if self.wanted is not None:
            wanted, self.wanted = self.wanted, None
            self.started = -inf
            wanted.answer = answer
            wanted.here.set()


_names: trio.lowlevel.RunVar[dict[tuple[str, int], _Name]] = trio.lowlevel.RunVar("relay.names")


async def look_up(host: str, port: int) -> AddrInfo | Exception:
    """The stream addresses of `host`, or why there are none (OSError, UnicodeError).

    The caller owns the deadline. Cancellation: the look-up goes on for the others.
    """
    try:
        names = _names.get()
    except LookupError:
        names = {}
        _names.set(names)
    name = names.get((host, port))
    if name is None:
        name = names[host, port] = _Name(host, port)
    wanted = name.want()
    while not wanted.here.is_set():
        with trio.move_on_after(ANEW):
            await wanted.here.wait()
            break
        name.want()  # the same answer; perhaps one more look-up for it
    return wanted.answer


"".encode("idna")  # loads the codec that getaddrinfo uses: there may be no descriptor for it later


async def _getaddrinfo(host: str, port: int) -> AddrInfo:
    custom = trio.socket.set_custom_hostname_resolver(None)
    if custom is not None:
        trio.socket.set_custom_hostname_resolver(custom)
        return await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await trio.to_thread.run_sync(
        lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        abandon_on_cancel=True,
        limiter=_UNBOUNDED,
    )
