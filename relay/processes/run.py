"""From a configuration to running processes with an exit code (docs/reference/command-line.md)."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress

import trio

from relay.config.values import Config
from relay.processes.file_watch import FileWatch
from relay.processes.notify import Notifier
from relay.processes.setup import Setup
from relay.processes.single import Single
from relay.processes.standard_streams import StandardStreams
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, Listener, open_listeners
from relay.serving.reload import Refused
from relay.stores.opening import prepare, put_away
from relay.stores.store import StoreUnusable

FAULT = 1
# A full collection looks at every object: 100 ms with 8,000 connections, in which no stream moves. By default one comes
# whenever the heap has grown by a quarter. An exchange leaves no circles behind (tests/guarantees/test_garbage.py), so it
# is for what we have overlooked: after 700,000 containers more than were freed, about 10,000 connections and their streams.
_COLLECTING = (700, 10, 100)
# Behind "cannot listen on 127.0.0.1:8000: Address already in use".
_TAKEN = "; to take over from a relay that listens there: relay serve --takeover"
_TAKEN_WITHOUT_A_FILE = "; another address is chosen with --listen"
_DOES_NOT_SHARE = "; who listens there does not share it: is it a relay, and of this user?"
logger = logging.getLogger("relay")


def serve(config: Config, *, takeover: bool = False, watch: FileWatch | None = None) -> int:
    """Bind, announce, serve until a signal. Returns: the exit code.

    The first of two signals drains, the second ends at once; both are a clean end.

    Args:
        takeover: share the addresses of a relay that runs, until it has drained.
        watch: of the file, for a reload whenever it changes.
    """
    standard = StandardStreams("relay")
    try:
        return _serve(config, standard, takeover, watch)
    except Exception:
        traceback.print_exc()  # here, where it waits for nobody: see `standard_streams`
        return FAULT
    finally:
        standard.give_back()


def _serve(
    config: Config, standard: StandardStreams, takeover: bool, watch: FileWatch | None
) -> int:
    gc.freeze()  # what is loaded by now stays as long as the process
    gc.set_threshold(*_COLLECTING)
    gc.enable()
    notifier = Notifier.from_environment(os.environ)
    _raise_descriptor_limit()
    for number in (signal.SIGHUP, signal.SIGUSR1):  # until somebody reloads: the file is being read
        signal.signal(number, signal.SIG_IGN)
    opened: list[Listener] = []
    try:
        config = prepare(config, os.environ)
        passed = Passed.from_environment(os.environ)
        served = open_listeners(config.server.listen, passed, takeover=takeover)
        opened += served
        where = [config.server.admin] if config.server.admin is not None else []
        admin = open_listeners(where, passed, takeover=takeover)
        opened += admin
        for name in passed.untaken():
            logger.warning("%s was passed in, and nothing in the configuration names it", name)
        if watch is not None:
            watch.start()
        setup = Setup(config, served, admin, passed, notifier, standard)
        if config.server.workers > 1:
            from relay.processes.supervisor import Supervisor

            return Supervisor(setup).run()
        return trio.run(Single(setup).run)
    except (BindError, OSError, Refused, StoreUnusable) as error:
        hint = ""
        if isinstance(error, BindError) and error.taken:
            hint = _TAKEN if config.path else _TAKEN_WITHOUT_A_FILE
            if takeover:
                hint = _DOES_NOT_SHARE
        print(f"relay: {error}{hint}", file=sys.stderr)
        return FAULT
    finally:
        for listener in opened:
            listener.remove_file()
        put_away(config)


def _raise_descriptor_limit() -> None:
    """Every stream has two descriptors; the customary soft limit of 1024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
