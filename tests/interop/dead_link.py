"""Run in a network namespace of its own: a client of relay whose link goes down without a word.

    upstream ─ loopback ─ relay ─ veth pair ─ client, in a namespace of its own

    python dead_link.py ROUTE EVERY       # lines of TOML for the route; seconds between two events, 0: one and no more

Prints one JSON object: the seconds from the link's end to the end of the upstream's connection, and the access record.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE, THERE = "10.77.0.1", "10.77.0.2"
LONGEST = 60.0  # seconds until the test has failed
CLIENT = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
while b"data: 0" not in sock.recv(65536):
    pass
print("reads", flush=True)
while True:
    time.sleep(0.1)
    sock.recv(65536)
"""
CONFIG = """
[server]
listen = "{here}:0"
[timeouts]
write = "1s"
[upstreams.backend]
url = "http://127.0.0.1:{port}"
[[routes]]
path = "/"
upstream = "backend"
{route}
"""


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


class Upstream:
    """One event stream, and when its connection ended."""

    def __init__(self, every: float) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ended = 0.0
        self._every = every
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        sock, _ = self.listener.accept()
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 0\n\n")
        sock.settimeout(self._every or None)
        while True:
            try:
                if not sock.recv(1):
                    break
            except TimeoutError:
                sock.sendall(b"data: 1\n\n")
            except OSError:
                break
        self.ended = time.monotonic()


def main(route: str, every: float) -> None:
    run("ip", "link", "set", "lo", "up")
    other = subprocess.Popen(["unshare", "-n", "sleep", str(LONGEST * 2)])
    try:
        connect(other.pid)
        upstream = Upstream(every)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "relay.toml"
            file.write_text(CONFIG.format(here=HERE, port=upstream.port, route=route))
            print(json.dumps(measure(file, other.pid, upstream)))
    finally:
        other.kill()
        other.wait()


def connect(other: int) -> None:
    """A veth pair from here to the namespace of process `other`."""
    while os.readlink(f"/proc/{other}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.01)  # it has not unshared yet
    run("ip", "link", "add", "here0", "type", "veth", "peer", "name", "there0", "netns", other)
    run("ip", "address", "add", f"{HERE}/24", "dev", "here0")
    run("ip", "link", "set", "here0", "up")
    there = ("nsenter", "-t", other, "-n", "ip")
    run(*there, "address", "add", f"{THERE}/24", "dev", "there0")
    run(*there, "link", "set", "there0", "up")


def measure(config: Path, other: int, upstream: Upstream) -> dict[str, object]:
    relay = subprocess.Popen(
        [sys.executable, "-m", "relay", "serve", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    client = None
    try:
        assert relay.stdout and relay.stderr
        port = ""
        while not port:
            line = relay.stderr.readline()
            assert line, "relay did not start"
            port = line.rpartition(":")[2].strip() if "listening on" in line else ""
        client = subprocess.Popen(
            ["nsenter", "-t", str(other), "-n", sys.executable, "-c", CLIENT, HERE, port],
            stdout=subprocess.PIPE,
        )
        assert client.stdout
        client.stdout.readline()
        run("nsenter", "-t", other, "-n", "ip", "link", "set", "there0", "down")
        down = time.monotonic()
        upstream.thread.join(LONGEST)
        assert upstream.ended, "the upstream runs on"
        for line in relay.stdout:
            record = json.loads(line)
            if record["at"] == "end":
                break
        return {"seconds": upstream.ended - down, "record": record}
    finally:
        for process in (client, relay):
            if process is not None:
                process.kill()
                process.communicate()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
