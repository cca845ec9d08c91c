"""What a process that serves begins with, with one worker or with many: what was read, opened and handed down to it."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config.values import Config
from relay.processes.notify import Notifier
from relay.processes.standard_streams import StandardStreams
from relay.serving.activation import Passed
from relay.serving.listeners import Listener


@dataclass(frozen=True, slots=True)
class Setup:
    """Resource handling: the listeners and the standard streams stay the caller's, who closes them when `run` has returned.

    Attributes:
        config: as it is at the start; a reload brings another one.
        listeners: for clients, bound.
        admin: for the admin listener; empty where it is off.
        passed: the sockets that a parent handed down.
        notifier: word to the service manager.
        standard: stdout and stderr.
    """

    config: Config
    listeners: list[Listener]
    admin: list[Listener]
    passed: Passed
    notifier: Notifier
    standard: StandardStreams
