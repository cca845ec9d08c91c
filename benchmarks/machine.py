"""The machine a figure belongs to: cores, file limit, and a description that goes with the
figures."""

import datetime
import os
import platform
import resource
import sys
from pathlib import Path

# 8,000 streams cost a proxy 16,000 descriptors, and the origin and the load 8,000 each; the rest is
# room for pools and logs.
FILES_NEEDED = 20_000


def cores() -> tuple[int, int]:
    """The core of the proxy under test, and the core of everything else."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]


def raise_file_limit(needed: int = FILES_NEEDED) -> int:
    """Raise this process's descriptor limit (children inherit it) and return it.

    Raises:
        SystemExit: the limit stays below what was asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(needed, hard)
    for target in ((max(wanted, 65_536), max(wanted, 65_536)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, target)
        except (ValueError, OSError):
            continue  # only root may raise the hard limit: then the hard limit has to do
        break
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        raise SystemExit(
            f"benchmarks: ulimit -n is {soft}, {needed} are needed (hard limit {hard})"
        )
    return soft


def describe(command: list[str]) -> dict[str, object]:
    """What has to stand beside a figure for it to mean something."""
    proxy_core, load_core = cores()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "proxy_core": proxy_core,
        "load_core": load_core,
        "kernel": platform.release(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "python": sys.version.split()[0],
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
