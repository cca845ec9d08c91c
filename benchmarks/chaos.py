"""``python -m benchmarks.chaos``: everything that may happen to relays over one store, for minutes, with a crowd of readers.

    python -m benchmarks.chaos --store dir --store redis --seconds 300 --runs 200 --readers 4 --seed 1

What happens, and what is looked at, is in `tests/guarantees/outlive_setup.py`: a run here is the test's, longer and larger.
With Redis it goes twice: with processes that die, and with a Redis that fails.
"""

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from random import Random

import trio

from benchmarks.machine import raise_file_limit
from tests.guarantees.outlive_setup import PROCESSES, REDIS, Chaos, Size
from tests.guarantees.redis_server import redis
from tests.harness import Upstream


async def once(store: str, troubles: tuple[str, ...], size: Size, seed: int) -> bool:
    """Returns: whether all was as it should be."""
    up = await Upstream.open()
    with (
        tempfile.TemporaryDirectory() as folder,
        redis() if store == "redis" else nullcontext() as server,
    ):
        made = Chaos(up, Path(folder), Random(seed), size, server)
        begun = time.monotonic()
        try:
            await trio.to_thread.run_sync(made.start)
            before = made.descriptors()
            await made.run(troubles)
            await trio.sleep(10)
            print(f"{store}, seed {seed}, {time.monotonic() - begun:.0f} s: {', '.join(troubles)}")
            print(f"  readers {made.readers}, connections {made.visits}, gaps {made.gaps}")
            print(f"  ends {dict(made.ends)}")
            print(f"  happened {dict(made.happened)}")
            print(f"  descriptors before {before}, after {made.descriptors()}")
            for fault in made.faults():
                print(f"  FAULT {fault}")
            return not made.faults()
        finally:
            made.close()
            up.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--store", action="append", choices=("dir", "redis"))
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--runs", type=int, default=200, help="at once")
    parser.add_argument("--readers", type=int, default=4, help="of each, beside who begins it")
    parser.add_argument("--seed", type=int, default=1)
    wish = parser.parse_args()
    raise_file_limit()
    size = Size(
        seconds=wish.seconds,
        runs=wish.runs,
        readers=wish.readers,
        events=100,
        pause=0.2,
        workers=4,
    )
    good = True
    for store in wish.store or ("dir", "redis"):
        sets = (
            [(*PROCESSES, "full disk")]
            if store == "dir"
            else [PROCESSES, REDIS, (*PROCESSES, *REDIS)]
        )
        for troubles in sets:
            good &= trio.run(once, store, troubles, size, wish.seed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
