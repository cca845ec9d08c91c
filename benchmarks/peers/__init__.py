"""The peers: how each is started, and why it cannot be where it cannot.

The configurations are the files beside this one, with the reason for each line; ``@LISTEN@``,
``@ORIGIN@`` and ``@FOLDER@`` in them are replaced for a run. Every peer gets one core, one worker
or thread, keep-alive to the upstream, event streams passed on at once, and the setting that makes
it notice a client that left, if it has one.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy that can be put between load and origin."""

    name: str
    argv: Callable[[int, int, Path], list[str]]
    """From the port to listen on, the origin's port and a folder for its files to the command."""
    version: tuple[str, ...]
    """A command that prints the version; the first line is kept."""
    needs: Callable[[], str | None]
    """Why it cannot run here, or None."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """``@ORIGIN@`` in a value is replaced."""
    only: frozenset[str] = frozenset()
    """The measures that it is for; empty: all of them."""


def program(name: str) -> Callable[[], str | None]:
    """Needs a program on the PATH."""
    return lambda: None if shutil.which(name) else f"{name} is not installed"


def modules(*names: str) -> Callable[[], str | None]:
    """Needs importable Python packages (``pip install --group bench``)."""

    def missing() -> str | None:
        gone = [name for name in names if importlib.util.find_spec(name) is None]
        return f"python packages missing: {', '.join(gone)}" if gone else None

    return missing


def configured(template: str, listen: int, origin: int, folder: Path) -> str:
    """Write the configuration of a run and return its path."""
    text = (HERE / template).read_text()
    for mark, value in (("@LISTEN@", listen), ("@ORIGIN@", origin), ("@FOLDER@", folder)):
        text = text.replace(mark, str(value))
    path = folder / template
    path.write_text(text)
    return str(path)


def node_folder() -> Path:
    """Where http-proxy is kept: a cache outside the project."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "relay-bench"


def node_needs() -> str | None:
    """Install http-proxy into the cache unless it is there."""
    for name in ("node", "npm"):
        if not shutil.which(name):
            return f"{name} is not installed"
    folder = node_folder()
    if not (folder / "node_modules" / "http-proxy").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "http-proxy@1.18.1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"npm install http-proxy failed: {done.stderr.strip()[-200:]}"
    return None


def version_of(peer: Peer) -> str:
    """The first line the version command prints, on either stream."""
    done = subprocess.run(peer.version, capture_output=True, text=True, check=False, timeout=20)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def _python(*argv: str) -> list[str]:
    return [sys.executable, *argv]


def _versions(*packages: str) -> tuple[str, ...]:
    code = (
        "import sys; from importlib.metadata import version as v;"
        f"print(*(p + ' ' + v(p) for p in {packages!r}), 'python ' + sys.version.split()[0])"
    )
    return (sys.executable, "-c", code)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            RELAY,
            # All defaults: clocks, event scanning, counters and the access log are on.
            lambda listen, origin, folder: _python(
                "-m", "relay", "forward", f"http://127.0.0.1:{origin}",
                "--listen", f"127.0.0.1:{listen}",
            ),
            (sys.executable, "-m", "relay", "--version"),
            modules("relay.__main__"),
        ),
        Peer(
            # relay again, with every event stream resumable.
            "resumed",
            lambda listen, origin, folder: _python(
                "-m", "relay", "serve", configured("resumed.toml", listen, origin, folder)
            ),
            (sys.executable, "-m", "relay", "--version"),
            modules("relay.__main__"),
            only=frozenset(("paced", "ticks", "beginning", "idle", "burst")),
        ),
        Peer(
            "nginx",
            lambda listen, origin, folder: [
                "nginx", "-p", str(folder), "-c", configured("nginx.conf", listen, origin, folder)
            ],
            ("nginx", "-v"),
            program("nginx"),
        ),
        Peer(
            "haproxy",
            lambda listen, origin, folder: [
                "haproxy", "-f", configured("haproxy.cfg", listen, origin, folder)
            ],
            ("haproxy", "-v"),
            program("haproxy"),
        ),
        Peer(
            "caddy",
            lambda listen, origin, folder: [
                "caddy", "run", "--adapter", "caddyfile",
                "--config", configured("Caddyfile", listen, origin, folder),
            ],
            ("caddy", "version"),
            program("caddy"),
            # One core is what it gets: more threads would only take turns on it.
            {"GOMAXPROCS": "1"},
        ),
        Peer(
            "node",
            lambda listen, origin, folder: [
                "node", str(HERE / "http_proxy.cjs"), str(node_folder()), str(listen), str(origin)
            ],
            ("node", "--version"),
            node_needs,
            {"NODE_ENV": "production"},
        ),
        Peer(
            "aiohttp",
            lambda listen, origin, folder: _python(
                "-m", "benchmarks.peers.aiohttp_relay", str(listen), str(origin)
            ),
            _versions("aiohttp"),
            modules("aiohttp"),
        ),
        Peer(
            "hypercorn",
            lambda listen, origin, folder: _python(
                "-m", "hypercorn", "-k", "trio", "--bind", f"127.0.0.1:{listen}",
                "--backlog", "4096", "benchmarks.peers.httpx_app:app",
            ),
            _versions("hypercorn", "httpx", "trio"),
            modules("hypercorn", "httpx"),
            {"RELAY_BENCH_ORIGIN": "@ORIGIN@"},
        ),
        Peer(
            "uvicorn",
            # What "uvicorn[standard]" brings; no access log: the faster variant.
            lambda listen, origin, folder: _python(
                "-m", "uvicorn", "--port", str(listen), "--backlog", "4096",
                "--loop", "uvloop", "--http", "httptools", "--no-access-log",
                "--log-level", "warning", "benchmarks.peers.httpx_app:app",
            ),
            _versions("uvicorn", "httpx", "uvloop"),
            modules("uvicorn", "httpx", "uvloop", "httptools"),
            {"RELAY_BENCH_ORIGIN": "@ORIGIN@"},
        ),
        Peer(
            # No relay: what Python itself costs for the same system calls.
            "floor",
            lambda listen, origin, folder: _python(
                "-m", "benchmarks.peers.floor", str(listen), str(origin)
            ),
            (sys.executable, "--version"),
            modules(),
            only=frozenset(("paced", "ticks", "small", "distinct")),
        ),
        Peer(
            "plain",
            lambda listen, origin, folder: _python(
                "-m", "benchmarks.peers.plain_relay", str(listen), str(origin)
            ),
            _versions("trio", "h11"),
            modules("trio", "h11"),
        ),
    )
}  # fmt: skip
