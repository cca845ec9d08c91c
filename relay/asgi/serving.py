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
  * What the person who starts it got wrong (a configuration, a file, a port that is taken) is a sentence and an exit code
    that tells, as of `relay serve`. Bare Hypercorn says it with a traceback, and ends with 0 where a worker failed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from hypercorn.config import Config, Sockets


USAGE: Final = 2  # the exit code of bad usage or configuration, as of `relay serve`


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
    import hypercorn.__main__ as command
    from hypercorn.trio import run

    run.trio_worker = worker  # the processes that Hypercorn spawns find it by its name
    command.run = _run  # type: ignore[attr-defined] # imported there from hypercorn.run
    try:
        return command.main(["--worker-class", "trio", *arguments])
    except (OSError, ValueError) as error:  # of --config; a TOMLDecodeError is a ValueError
        return _refused(f"the configuration of Hypercorn cannot be read: {error}")


def _run(config: Config) -> int:
    """Hypercorn's own, which forgets the exit code of the first worker that ends. Returns: 0 clean, 1 fault, 2 bad usage."""
    from hypercorn import run

    codes: list[int] = []
    plain = run._join_exited

    def join_exited(processes: Any) -> int:
        codes.append(plain(processes))
        return codes[-1]

    run._join_exited = join_exited
    try:
        codes.append(run.run(config))
    except OSError as error:
        where = ", ".join((*config.bind, *config.insecure_bind, *config.quic_bind))
        _complain(f"cannot start on {where}: {error.strerror or error}")
        return 1
    # A worker that a SIGTERM met before it could take one was ended as it was asked to.
    failed = next((code for code in codes if code not in (0, -signal.SIGTERM)), 0)
    return failed if failed in (0, USAGE) else 1


def worker(config: Config, sockets: Sockets | None = None, shutdown_event: Any = None) -> None:
    """One process of Hypercorn's. A SIGTERM drains it: bare Hypercorn dies of one with `--workers 0`, where a whole process
    group is signalled, and when another of its workers has drained first.
    """
    _contain()
    from hypercorn.utils import NoAppError

    from relay.asgi.contained import plain_worker
    from relay.config import ConfigError

    try:
        config.create_ssl_context()
    except OSError as error:
        files = " and ".join(filter(None, (config.certfile, config.keyfile)))
        sys.exit(_refused(f"the certificate ({files}) cannot be used: {error.strerror or error}"))
    shutdown: Any = _Shutdown(shutdown_event)
    try:
        plain_worker(config, sockets, shutdown)
    except (ConfigError, NoAppError) as error:
        sys.exit(_refused(error))


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


def _refused(why: object) -> int:
    """Say what was got wrong. Returns: the exit code for it."""
    _complain(why)
    return USAGE


def _complain(why: object) -> None:
    print(f"relay: {why}", file=sys.stderr, flush=True)


def _contain() -> None:
    try:
        from relay.asgi.contained import contain
    except (ImportError, AttributeError) as error:
        raise UnknownServer(
            f"relay knows Hypercorn 0.18, which its extra `asgi` brings, and not this one: {error}"
        ) from None
    contain()
