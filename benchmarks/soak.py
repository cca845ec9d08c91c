"""``python -m benchmarks.soak``: minutes of coming and going, and nothing may grow.

2,000 event streams open and leave at random, some before the response head, with uploads and small
requests beside them. Every few seconds it prints what the relay holds. What counts as growth: the
least of the last third of the samples above the most of the first third (after the first minute) by
more than the slack below. At the end everybody leaves: descriptors and exchanges have to be back
where they began.
"""

import argparse
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accounting import cpu, descriptors, pss_kib
from benchmarks.load.opening import close_all, connect, request
from benchmarks.load.target import Target
from benchmarks.machine import cores, raise_file_limit
from benchmarks.patterns import SMALL_BODY
from benchmarks.processes import StartError, free_port, running

MEMORY_SLACK = 0.05  # share; the number of live streams varies by about that much
SETTLED = 60.0  # seconds; before it pools and arenas still fill
LONGEST = 25.0  # seconds a client stays: the relay's own limit for a stalled upload is 30
LEFT_OVER = 40  # descriptors that may be left above the start: the pool of idle connections


@dataclass(frozen=True, slots=True)
class Sample:
    """What the relay held at a moment."""

    at: float
    streams: int
    memory_mib: float
    files: int
    tasks: int | None
    """Live exchanges by the admin listener, or None without one."""


class Crowd:
    """The clients: streams that come and go, a few uploads, and small requests."""

    def __init__(self, target: Target, streams: int, seed: int) -> None:
        self.target = target
        self.wanted = streams
        self.chance = random.Random(seed)
        self.socks: dict[int, socket.socket] = {}
        self.leaves: dict[int, float] = {}
        self.asking: set[int] = set()
        self.ep = select.epoll()
        self.done = self.refused = self.opened = 0
        for _ in range(8):
            self._ask()

    def run(self, seconds: float, lifetime: float) -> None:
        """Be there for that long; a stream lives ``lifetime`` seconds on average."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for fd, _ in self.ep.poll(0.02):
                self._read(fd)
            for fd in [fd for fd, when in self.leaves.items() if when < now]:
                self._leave(fd)
            missing = self.wanted - len(self.leaves)
            for _ in range(min(missing, 20)):  # at most 1,000 a second: a crowd, not an attack
                self._open(now + min(self.chance.expovariate(1 / lifetime), LONGEST))

    def close(self) -> None:
        self.ep.close()
        close_all(list(self.socks.values()))

    def _open(self, leaves: float) -> None:
        dice = self.chance.random()
        if dice < 0.85:
            head = request(self.target, f"/paced?rate={self.chance.choice((0.2, 1, 5))}")
        elif dice < 0.9:
            head = request(self.target, "/silent")
        else:
            head = request(self.target, "/upload", "POST", b"Content-Length: 50000000\r\n")
            head += b"x" * self.chance.randrange(1, 60_000)
        fd = self._send(head)
        self.leaves[fd] = leaves
        self.opened += 1

    def _ask(self) -> None:
        self.asking.add(self._send(request(self.target, "/small")))

    def _send(self, data: bytes) -> int:
        sock = connect(self.target)
        sock.sendall(data)
        sock.setblocking(False)
        self.socks[sock.fileno()] = sock
        self.ep.register(sock.fileno(), select.EPOLLIN)
        return sock.fileno()

    def _read(self, fd: int) -> None:
        sock = self.socks[fd]
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.refused += 1
            again = fd in self.asking
            self._leave(fd)
            if again:
                self._ask()
        elif fd in self.asking and data.endswith(SMALL_BODY):
            self.done += 1
            if self.chance.random() < 0.01:  # now and then a new connection
                self._leave(fd)
                self._ask()
            else:
                sock.send(request(self.target, f"/small?n={self.done}"))

    def _leave(self, fd: int) -> None:
        self.leaves.pop(fd, None)
        self.asking.discard(fd)
        self.ep.unregister(fd)
        self.socks.pop(fd).close()


def soak(wish: argparse.Namespace) -> list[str]:
    """Run it and return what is wrong; nothing when the relay holds."""
    proxy_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    with tempfile.TemporaryDirectory(prefix="relay-soak-") as name:
        folder = Path(name)
        origin_port, port, admin = free_port(), free_port(), free_port()
        config = folder / "relay.toml"
        where = "off" if wish.without_admin else f"127.0.0.1:{admin}"
        config.write_text(_CONFIG.format(port=port, admin=where, origin=origin_port))
        origin_argv = [sys.executable, "-m", "benchmarks.origin", str(origin_port)]
        relay_argv = [sys.executable, "-m", "relay", "serve", str(config)]
        log = folder / "relay.log"
        with (
            running(origin_argv, port=origin_port, core=load_core, log=folder / "origin") as origin,
            running(relay_argv, port=port, core=proxy_core, log=log) as proxy,
        ):
            target = Target(port, proxy.pid, origin_port, origin.pid)
            crowd = Crowd(target, wish.streams, wish.seed)
            try:
                samples = _watch(target, admin, wish.minutes * 60, wish.every, crowd)
            except OSError as error:
                return [f"the relay is gone: {error}", *log.read_text().splitlines()[-12:]]
            used = cpu(proxy.pid).exact_ns / 1e9
            print(
                f"{crowd.opened} opened, {crowd.done} small requests, {crowd.refused} ended by "
                f"the relay, {used:.0f} s of CPU"
            )
            wrong = growth(samples[1:-1])
            first, last = samples[0], samples[-1]
            if last.files > first.files + LEFT_OVER:
                wrong.append(f"descriptors left: {first.files} at first, {last.files} at the end")
            if last.tasks:
                wrong.append(f"exchanges left after everybody went: {last.tasks}")
            if crowd.refused:
                wrong.append(f"{crowd.refused} exchanges were ended by the relay")
            return wrong + _errors(log)


_CONFIG = """\
[server]
listen = ["127.0.0.1:{port}"]
admin = "{admin}"
[upstreams.origin]
url = "http://127.0.0.1:{origin}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
"""


def growth(samples: list[Sample]) -> list[str]:
    """What grew after the first minute, in words; see the rule on top."""
    settled = [sample for sample in samples if sample.at >= SETTLED] or samples
    third = max(1, len(settled) // 3)
    early, late = settled[:third], settled[-third:]
    wrong = []
    for what, slack in (("memory_mib", MEMORY_SLACK), ("files", MEMORY_SLACK)):
        before = max(getattr(sample, what) for sample in early)
        after = min(getattr(sample, what) for sample in late)
        if after > before * (1 + slack):
            wrong.append(f"{what} grew from {before:.0f} to {after:.0f}")
    return wrong


def _watch(target: Target, admin: int, seconds: float, every: float, crowd: Crowd) -> list[Sample]:
    samples = [_sample(target, admin, 0.0, 0)]
    began = time.monotonic()
    try:
        while (at := time.monotonic() - began) < seconds:
            crowd.run(min(every, seconds - at), lifetime=10.0)
            at = time.monotonic() - began
            samples.append(_sample(target, admin, at, len(crowd.leaves)))
    finally:
        crowd.close()
    time.sleep(3.0)  # closes are on their way; what is held after this is left over
    samples.append(_sample(target, admin, time.monotonic() - began, 0))
    return samples


def _sample(target: Target, admin: int, at: float, streams: int) -> Sample:
    memory = pss_kib(target.pid) / 1024
    sample = Sample(at, streams, memory, descriptors(target.pid), _live(admin))
    tasks = "-" if sample.tasks is None else str(sample.tasks)
    print(
        f"{at:7.0f} s  {streams:6} streams  {memory:7.1f} MiB  "
        f"{sample.files:6} descriptors  {tasks:>6} exchanges",
        flush=True,
    )
    return sample


def _live(admin: int) -> int | None:
    """How many exchanges the relay itself says are alive."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/streams", timeout=5) as answer:
            listed = json.load(answer)
    except (OSError, ValueError):
        return None
    return len(listed.get("streams", listed) if isinstance(listed, dict) else listed)


def _errors(log: Path) -> list[str]:
    """Lines of the log that speak of a bug."""
    lines = log.read_text(errors="replace").splitlines()
    bad = [line for line in lines if "Traceback" in line or '"level": "error"' in line]
    return [f"logged: {line[:200]}" for line in bad[:5]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--without-admin", action="store_true", help="no count of exchanges")
    wish = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_file_limit()
    try:
        wrong = soak(wish)
    except (StartError, OSError) as error:
        wrong = [f"could not run: {error}"]
    print(*(wrong or ["held"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
