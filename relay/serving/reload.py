"""A new configuration for a running process: what it changes, found before anything is changed.

    SIGHUP ─► Planning: `plan` in a thread ─► a Change to be taken, or why it is Refused

Rules
  * Everything that can fail (reading, binding, opening the log) comes first, and fails as one
    `Refused` that leaves things as they were: nothing changed, nothing open.
  * Nobody waits for it but the reload itself. A file may be on a disk that hangs, be a FIFO that
    nobody writes to, name a module that takes its time: streams and signals go on meanwhile, and
    after PATIENCE the reload is refused.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from relay.config import ConfigError, loads
from relay.config.values import Address, Config
from relay.config.values.filled import written_as
from relay.observing.log_file import open_path
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, Listener, open_listeners

PATIENCE = 30.0  # seconds a new configuration may take to be read
STANDARD = {"stdout": 1, "stderr": 2}

logger = logging.getLogger("relay")


class Refused(Exception):
    """Why a configuration does not take effect; for people."""


class Change(NamedTuple):
    """What a reload does. Resource handling: who takes it owns all that is open in it, or calls
    `release`."""

    config: Config
    text: int  # the file as it was read: a descriptor, for the workers
    opened: list[Listener]  # new, to be served
    beside: list[list[Listener]]  # for each worker but the first, its own of those
    closed: list[Address]  # no longer in the file
    log_fd: int | None  # where its access log goes
    restart: list[str]  # keys that differ and take effect at the next start only

    def release(self) -> None:
        """Nobody takes it: close what was opened for it."""
        for listener in [*self.opened, *chain(*self.beside)]:
            listener.remove_file()
            listener.close()
        close_log(self.log_fd)
        os.close(self.text)


class Planning:
    """One `plan` in a thread. `close` it whatever comes of it."""

    __slots__ = ("_closed", "_done", "_lock", "_outcome", "_plan")

    def __init__(self, plan: Callable[[], Change], done: Callable[[], None]) -> None:
        """`done` is called in the thread, where there is an outcome before `close`."""
        self._plan = plan
        self._done = done
        self._lock = threading.Lock()  # over the two below
        self._outcome: Change | Refused | None = None
        self._closed = False
        threading.Thread(target=self._run, name="relay reload", daemon=True).start()

    def _run(self) -> None:
        try:
            outcome: Change | Refused = self._plan()
        except Refused as refused:
            outcome = refused
        except Exception:
            logger.exception("a fault of relay's own in a reload")
            outcome = Refused("of a fault of relay's own")
        with self._lock:
            if not self._closed:
                self._outcome = outcome
                self._done()
            elif isinstance(outcome, Change):
                outcome.release()

    def take(self) -> Change:
        """The change; it is the caller's now. Raises: Refused: there is none, or not in time."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            if outcome is None:
                raise Refused(f"it was not read within {PATIENCE:g} s")
            if isinstance(outcome, Refused):
                raise outcome
            return outcome

    def close(self) -> None:
        """Release what nobody took, now or when it comes."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            self._closed = True
        if isinstance(outcome, Change):
            outcome.release()


def plan(
    current: Config,
    bound: Sequence[Address],
    passed: Passed,
    environ: Mapping[str, str],
    workers: int = 1,
) -> Change:
    """Read the file of `current` again. Raises: Refused.

    Args:
        bound: what is listened on now.
        workers: how many have sockets of their own.
    """
    if current.path is None:
        raise Refused("there is no file to read again")
    here = {address.text for address in bound}
    with ExitStack() as undo:
        try:
            text = _read(current.path)
            config = loads(text.decode(), environ, path=current.path, overrides=current.overrides)
            new = [address for address in config.server.listen if address.text not in here]
            log_fd = open_log(config)
            undo.callback(close_log, log_fd)
            text_fd = _in_memory(text)
            undo.callback(os.close, text_fd)
            opened = open_listeners(new, passed)
            for listener in opened:
                undo.callback(listener.close)
                undo.callback(listener.remove_file)
            beside = [
                [
                    undo.enter_context(closing(each.beside()))
                    for each in opened
                    if each.is_per_worker
                ]
                for _ in range(workers - 1)
            ]
        except UnicodeDecodeError as error:
            raise Refused(f"{current.path} cannot be read: {error}") from None
        except (ConfigError, BindError, OSError) as error:
            raise Refused(str(error)) from None
        undo.pop_all()
    wanted = {address.text for address in config.server.listen}
    closed = [address for address in bound if address.text not in wanted]
    restart = _restart_needed(current, config)
    return Change(config, text_fd, opened, beside, closed, log_fd, restart)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error}") from None


def _in_memory(text: bytes) -> int:
    """A descriptor of a file with this text."""
    fd = os.memfd_create("relay.toml")
    with open(fd, "wb", closefd=False) as file:
        file.write(text)
    return fd


def _restart_needed(before: Config, after: Config) -> list[str]:
    fixed = ("workers", "admin", "admin_token")
    changed = [
        f"server.{name}"
        for name in fixed
        if getattr(before.server, name) != getattr(after.server, name)
    ]
    return changed + ["streams.store"] * (before.streams.store != after.streams.store)


def open_log(config: Config) -> int | None:
    """A descriptor of the caller's for the access log, or None for off (see observing.log). Raises: Refused."""
    where = config.server.access_log
    if where == "off":
        return None
    if where in STANDARD:
        return STANDARD[where]
    try:
        return open_path(where)
    except OSError as error:
        shown = written_as(where) or where
        raise Refused(f"the access log {shown} cannot be opened: {error.strerror}") from None


def close_log(fd: int | None) -> None:
    """Close what `open_log` opened."""
    if fd is not None and fd not in STANDARD.values():
        os.close(fd)
