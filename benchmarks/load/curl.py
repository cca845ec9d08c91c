"""One upload as people make it: ``curl -T FILE``.

Unlike ``up`` it has a beginning and an end, one connection, and a client that reads its file in pieces: what a proxy does
at each read is then not hidden by a backlog.
"""

import shutil
import subprocess
import tempfile

from benchmarks.load.target import Figures, LoadError, Target, Window
from benchmarks.patterns import pattern

_LIMIT = 60.0  # seconds; a second is much for the slowest peer


def curl_upload(target: Target, *, mb: int = 200, times: int = 3) -> Figures:
    """``times`` uploads of ``mb`` megabytes, one after the other. MB/s are of all of them together, with curl's start."""
    if shutil.which("curl") is None:
        raise LoadError("curl is not installed")
    url = f"http://127.0.0.1:{target.port}/upload"
    # Without `Expect: 100-continue`, for which curl waits a second where an origin does not know it.
    command = ["curl", "--silent", "--fail", "--http1.1", "-H", "Expect:", "-T"]
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        block = pattern(1_000_000)
        for _ in range(mb):
            file.write(block)
        file.flush()
        with Window(target) as window:
            for _ in range(times):
                done = subprocess.run(
                    [*command, file.name, url], capture_output=True, check=False, timeout=_LIMIT
                )
                if done.returncode or done.stdout != b'{"received": %d}' % (mb * 1_000_000):
                    raise LoadError(f"curl: {done.returncode} {done.stdout[:80]!r}")
    total = mb * times * 1_000_000
    return {
        "mb_s": total / 1e6 / window.seconds,
        "cpu_s_gb": window.proxy.exact_ns / total,
        **window.shares(),
    }
