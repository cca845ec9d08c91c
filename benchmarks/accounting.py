"""What a process tree costs, read from /proc: CPU, memory, descriptors.

CPU is the sum over every thread of every process of the tree. ``/proc/PID/task/TID/schedstat``
counts nanoseconds on a core; where the kernel lacks it, utime + stime of ``/proc/PID/stat`` (ticks
of 10 ms) are taken. A process that ended inside the window is missing from it: no peer here starts
short-lived workers.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU used since the start of the processes."""

    exact_ns: int
    """From schedstat, or the ticks where there is none."""
    ticks_ns: int
    """utime + stime, in steps of 10 ms: the cross-check."""

    def __sub__(self, earlier: "Cpu") -> "Cpu":
        return Cpu(self.exact_ns - earlier.exact_ns, self.ticks_ns - earlier.ticks_ns)


def tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            found.extend(
                int(child) for child in _read(f"/proc/{parent}/task/{thread}/children").split()
            )
    return found


def cpu(pid: int) -> Cpu:
    """CPU of the tree below (and with) ``pid``."""
    exact = ticks = 0
    for process in tree(pid):
        stat = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
        if not stat:
            continue
        own_ticks = (int(stat[11]) + int(stat[12])) * _NS_PER_TICK
        ticks += own_ticks
        exact += _schedstat(process) or own_ticks
    return Cpu(exact, ticks)


def pss_kib(pid: int) -> int:
    """Proportional set size of the tree in KiB: shared pages are divided by their users."""
    return sum(_pss(process) for process in tree(pid))


def descriptors(pid: int) -> int:
    """Open file descriptors of the tree."""
    count = 0
    for process in tree(pid):
        try:
            count += len(os.listdir(f"/proc/{process}/fd"))
        except OSError:
            continue
    return count


def _schedstat(process: int) -> int:
    total = 0
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:
        return 0
    for thread in threads:
        fields = _read(f"/proc/{process}/task/{thread}/schedstat").split()
        total += int(fields[0]) if fields else 0
    return total


def _pss(process: int) -> int:
    for line in _read(f"/proc/{process}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # it ended while we looked
