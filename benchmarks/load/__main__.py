"""``python -m benchmarks.load KIND --proxy PORT --pid PID``: one load against a running proxy.

For looking into one proxy by hand (a profile, strace -c); the report is ``python -m benchmarks``.
The origin has to be running too: ``taskset -c 1 python -m benchmarks.origin 9000``.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable

from benchmarks.load import bulk, leaving, requests, streams
from benchmarks.load.target import SATURATED, Figures, Target
from benchmarks.machine import cores, raise_file_limit

LOADS: dict[str, Callable[..., Figures]] = {
    "paced": streams.paced,
    "flood": streams.flood,
    "idle": streams.idle,
    "small": requests.small,
    "down": bulk.down,
    "up": bulk.up,
    "leaving": leaving.leaving,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("kind", choices=sorted(LOADS))
    parser.add_argument("--proxy", type=int, required=True, help="port of the proxy")
    parser.add_argument("--pid", type=int, required=True, help="its process id")
    parser.add_argument("--origin", type=int, default=9000, help="port of the origin")
    parser.add_argument("--origin-pid", type=int, default=os.getpid())
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an argument of the load"
    )
    wish = parser.parse_args()
    raise_file_limit(10_000)
    os.sched_setaffinity(0, {cores()[1]})
    options = {}
    for pair in wish.set:
        name, _, value = pair.partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    target = Target(wish.proxy, wish.pid, wish.origin, wish.origin_pid)
    figures = LOADS[wish.kind](target, **options)
    for name, value in figures.items():
        print(f"{name:20} {value:12.3f}")
    if figures.get("load_share", 0.0) > SATURATED:
        print("warning: the load itself was the limit", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
