"""Hypercorn (0.18) as relay starts it: what goes wrong on one connection costs that connection alone.

    serve(app, config)         in a program of one's own, in the place of `hypercorn.trio.serve`
    python -m relay.asgi …     in the place of the command `hypercorn`, with its options, workers too

Why. Hypercorn runs each connection in the nursery of its server, so an exception that its own code raises about what a
peer sent ends the server, with every connection and every worker: a path that is not ASCII is enough, from anybody
(docs/technical-notes/hypercorn.md has each case and its cause). HTTP/3 is one task for all connections.

Rules
  * Hypercorn's classes are extended, not copied, and its modules are told of them once in a process, for good: see
    relay.asgi.contained. A Hypercorn that has other names is refused at the start, and not found out by a peer.
  * Hypercorn is imported when it is asked for: `relay.asgi` is there without it.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from hypercorn.config import Config, Sockets


class UnknownServer(Exception):
    """There is no Hypercorn, or not one that relay knows; for people."""


async def serve(
    app: Any,
    config: Config,
    *,
    shutdown_trigger: Callable[..., Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application (relay's, or one of yours around it) until the trigger returns.

    The arguments are those of `hypercorn.trio.serve`. Raises: UnknownServer.
    """
    _contain()
    from hypercorn.trio import serve as hypercorn_serve

    await hypercorn_serve(app, config, shutdown_trigger=shutdown_trigger, task_status=task_status)


def main(arguments: Sequence[str]) -> int:
    """The command `hypercorn` with the same arguments, on Trio. Returns: the exit code. Raises: UnknownServer."""
    _contain()
    from hypercorn.__main__ import main as command
    from hypercorn.trio import run

    run.trio_worker = worker  # the processes that Hypercorn spawns find it by its name
    return command(["--worker-class", "trio", *arguments])


def worker(config: Config, sockets: Sockets | None = None, shutdown_event: Any = None) -> None:
    """One process of Hypercorn's. A SIGTERM drains it: bare Hypercorn dies of one with `--workers 0`, where a whole process
    group is signalled, and when another of its workers has drained first.
    """
    _contain()
    from relay.asgi.contained import plain_worker

    shutdown: Any = _Shutdown(shutdown_event)
    plain_worker(config, sockets, shutdown)


class _Shutdown:
    """What a worker of Hypercorn's looks at ten times a second: its parent's event, and its own signals.

    A second signal ends a process that has no parent at once. A parent sends one to all workers when the first has ended,
    and waits for them.
    """

    def __init__(self, parents: Any) -> None:
        self._parents = parents
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a worker's SIGINT is its parent's
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True
        if self._parents is None:
            signal.signal(number, signal.SIG_DFL)

    def is_set(self) -> bool:
        return self._asked or (self._parents is not None and bool(self._parents.is_set()))


def _contain() -> None:
    try:
        from relay.asgi.contained import contain
    except (ImportError, AttributeError) as error:
        raise UnknownServer(
            f"relay knows Hypercorn 0.18, which its extra `asgi` brings, and not this one: {error}"
        ) from None
    contain()
