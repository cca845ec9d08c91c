"""A new configuration for a running process: what it changes, found before anything is changed.

Rule: everything that can fail (reading, binding, opening the log) comes first, and fails as one
`Refused` that leaves things as they were.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.config import ConfigError, loads
from relay.config.values import Address, Config
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, Listener, open_listeners


class Refused(Exception):
    """Why a configuration does not take effect; for people."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload does."""

    config: Config
    text: str  # of the file, for the workers
    opened: list[Listener]  # new, to be served
    closed: list[Address]  # no longer in the file
    log_fd: int | None  # where its access log goes
    restart: list[str]  # keys that differ and take effect at the next start only


def plan(
    current: Config, bound: Sequence[Address], passed: Passed, environ: Mapping[str, str]
) -> Change:
    """Read the file of `current` again. Raises: Refused.

    Args:
        bound: what is listened on now.
    """
    if current.path is None:
        raise Refused("there is no file to read again")
    here = {address.text for address in bound}
    try:
        text = Path(current.path).read_bytes().decode()
        config = loads(text, environ, path=current.path)
        new = [address for address in config.server.listen if address.text not in here]
        log_fd = open_log(config)
        opened = open_listeners(new, passed)
    except (ConfigError, BindError) as error:
        raise Refused(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{current.path} cannot be read: {error}") from None
    wanted = {address.text for address in config.server.listen}
    closed = [address for address in bound if address.text not in wanted]
    return Change(config, text, opened, closed, log_fd, _restart_needed(current, config))


def _restart_needed(before: Config, after: Config) -> list[str]:
    fixed = ("workers", "admin", "admin_token")
    return [
        f"server.{name}"
        for name in fixed
        if getattr(before.server, name) != getattr(after.server, name)
    ]


def open_log(config: Config) -> int | None:
    """A descriptor of the caller's for the access log, or None for off. Raises: Refused."""
    where = config.server.access_log
    if where == "off":
        return None
    if where in ("stdout", "stderr"):
        return 1 if where == "stdout" else 2
    try:
        return os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise Refused(f"the access log {where} cannot be opened: {error.strerror}") from None
