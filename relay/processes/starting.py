"""How the supervisor's children are started, and what each of them puts down first.

    Starter ─► fork ─► worker N: its slot's sockets, the shared ones, its end of the slot
                    └► admin: the admin listener, the asking ends of all slots

A child has copies of all that the supervisor has open. What it kept of another's would keep that
open: a connection that nobody closes, a pipe that never ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from relay.config.values import Config
from relay.processes.children import Slot, fork
from relay.processes.standard_streams import StandardStreams
from relay.processes.worker import Seat, admin_main, worker_main
from relay.processes.worker_sockets import WorkerSockets
from relay.serving.listeners import Listener


class Starter:
    """Forks. Each call gives a pid and the reading end of the child's report.

    Raises: OSError: there is no room for a process.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        sockets: WorkerSockets,
        admin: Sequence[Listener],
        standard: StandardStreams,
        put_down: Callable[[], None],
    ) -> None:
        """`put_down` closes, in a child, what only the supervisor needs."""
        self._slots = slots
        self._sockets = sockets
        self._admin = admin
        self._standard = standard
        self._put_down = put_down
        self._lifeline, self._life = os.pipe()  # the children's end and ours; nobody writes

    @property
    def has_admin(self) -> bool:
        return bool(self._admin)

    def worker(self, slot: Slot, config: Config, beat: float) -> tuple[int, int]:
        seat = Seat(
            slot.number,
            config,
            [*slot.listeners, *self._sockets.shared],
            slot.worker_end,
            self._lifeline,
            generation=self._sockets.generation,
            beat=beat,
        )

        def keep() -> None:
            self._keep()
            for other in self._slots:
                other.asker.close()
                if other is not slot:
                    other.worker_end.close()
                    other.close()
            for listener in self._admin:
                listener.close()

        def run(report: int) -> int:
            seat.report = report
            seat.messages = self._standard.err  # renewed since
            return worker_main(seat)

        return fork(run, keep, self._standard, f"relay: worker {slot.number}")

    def admin(self, config: Config) -> tuple[int, int]:

        def keep() -> None:
            self._keep()
            for slot in self._slots:
                slot.worker_end.close()
                slot.close()
            for listener in self._sockets.shared:
                listener.close()

        def run(report: int) -> int:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it shows how the workers drain
            askers = [slot.asker for slot in self._slots]
            socks = [listener.sock for listener in self._admin]
            return admin_main(socks, config, askers, self._lifeline)

        return fork(run, keep, self._standard, "relay")

    def _keep(self) -> None:
        os.close(self._life)
        self._put_down()
