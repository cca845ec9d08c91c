"""How long a new stream waits for its first event: on a quiet proxy, and beside streams that run.

Each stream comes on a new connection to the proxy, which has to dial the origin for it. The time is
from before ``connect`` to the blank line of the first event.
"""

import json
import os
import time

from benchmarks.load.opening import close_all, connect, open_streams, request
from benchmarks.load.streams import PacedReader
from benchmarks.load.target import Figures, LoadError, Target, percentile
from benchmarks.patterns import FIRST_LINE

PAUSE = 0.004  # seconds between two streams


def beginning(
    target: Target, *, times: int = 400, streams: int = 500, rate: float = 20.0
) -> Figures:
    """``times`` new streams, one after the other; quiet first, then beside ``streams`` paced ones."""
    figures = _named("quiet", _begin(target, times))
    reader = PacedReader(
        open_streams(target, f"/paced?rate={rate:g}&size=100", streams, FIRST_LINE)
    )
    try:
        reader.run(0.5)
        figures |= _named("busy", _beside(reader, target, times))
    finally:
        reader.close()
    return figures


def _named(where: str, delays: list[float]) -> Figures:
    ordered = sorted(delays)
    return {
        f"{where}_p50_us": percentile(ordered, 0.5) * 1e6,
        f"{where}_p99_us": percentile(ordered, 0.99) * 1e6,
    }


def _beside(reader: PacedReader, target: Target, times: int) -> list[float]:
    """A child opens the new streams, while this process goes on reading the running ones."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write_end, json.dumps(_begin(target, times)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as report:
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            reader.run(0.05)
        said = report.read()
    if not said:
        raise LoadError("the new streams did not begin")
    delays: list[float] = json.loads(said)
    return delays


def _begin(target: Target, times: int) -> list[float]:
    head = request(target, "/idle")
    delays = []
    socks = []
    try:
        for _ in range(times):
            began = time.monotonic()
            sock = connect(target)
            socks.append(sock)
            sock.sendall(head)
            seen = b""
            while FIRST_LINE not in seen:
                data = sock.recv(65536)
                if not data:
                    raise LoadError("a stream ended before its first event")
                seen += data
            delays.append(time.monotonic() - began)
            time.sleep(PAUSE)
    finally:
        close_all(socks)
    return delays
