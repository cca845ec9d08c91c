"""What a start loads: what its configuration needs. Every module is a part of the time until the first connection, and of a
worker's memory. By name and never by time: what a machine makes of it is the benchmarks' business (`startup`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

# It ends by SIGTERM like any other, and then says what it had loaded.
PROGRAM = (
    "import atexit, sys; atexit.register(lambda: print('loaded', *sorted(sys.modules)));"
    "from relay.cli import main; sys.exit(main())"
)
PLAIN = """
[server]
listen = ["127.0.0.1:0"]
access_log = "off"
[upstreams.a]
url = "http://127.0.0.1:9"
[[routes]]
path = "/{rest...}"
upstream = "a"
"""
# For keys that a plain forward route does not have, for other commands, and for what is off by default.
HEAVY = [
    "asyncio",
    "coredis",
    "email.utils",
    "hypercorn",
    "jmespath",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "regex",
    "relay.admin.listener",
    "relay.asgi",
    "relay.demo",
    "relay.exchange.feed",
    "relay.exchange.resumption",
    "relay.exchange.stream_answers",
    "relay.feeds.decisions",
    "relay.feeds.elsewhere",
    "relay.observing.exposition",
    "relay.observing.prometheus",
    "relay.observing.spans",
    "relay.shell_completion",
    "relay.sources.answer",
    "relay.sources.enqueue",
    "relay.sources.files",
    "relay.sources.local",
    "relay.stores.dir_store",
    "relay.stores.redis_store",
    "relay.terminators",
]
READERS = ["difflib", "relay.config.keys", "relay.config.reading.schema", "tomllib"]  # of a file
MANY = ["relay.processes.supervisor", "relay.processes.worker"]


def loaded(*arguments: str) -> set[str]:
    """The modules that `relay ARGUMENTS` has loaded when it listens, and when it has ended."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        try:
            told: list[bytes] = []
            while not told or b"listening" not in told[-1]:
                told.append(child.stderr.readline())
                assert told[-1], told  # it has ended
            child.send_signal(signal.SIGTERM)
            said = child.stdout.read()
        finally:
            child.kill()
    [line] = [line for line in said.splitlines() if line.startswith(b"loaded ")]
    return set(line.decode().split())


def among(names: Sequence[str], modules: set[str]) -> list[str]:
    """Those of `names` that were loaded, with what is in them."""
    return [name for name in names if any(f"{each}.".startswith(f"{name}.") for each in modules)]


def file(tmp_path: Path, text: str = PLAIN) -> str:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [*(each for each in HEAVY if each.startswith("relay.")), *MANY])
def test_what_is_listed_is_there(name: str) -> None:
    """A module that has another name by now would never be found among those that were loaded."""
    assert find_spec(name) is not None


def test_a_plain_route_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """1. A file with one `forward` route. 2. relay serves it, and ends. 3. Nothing of the list was loaded."""
    assert among([*HEAVY, *MANY], loaded("serve", file(tmp_path))) == []


def test_without_a_file_nothing_is_loaded_that_reads_one() -> None:
    modules = loaded("forward", "http://127.0.0.1:9", "--listen", "127.0.0.1:0")
    assert among([*HEAVY, *MANY, *READERS], modules) == []


def test_workers_load_no_more_than_what_supervises_them(tmp_path: Path) -> None:
    """What the supervisor loads it loads once, before it forks: the workers have it already."""
    modules = loaded("serve", file(tmp_path), "--set", "server.workers=2")
    assert among(HEAVY, modules) == []
    assert among(MANY, modules) == MANY


@pytest.mark.parametrize(
    ("more", "modules"),
    [
        ('methods = ["GET"]\nresume = {}', ["relay.exchange.feed", "relay.exchange.resumption"]),
        ('capture.a = "b"', ["jmespath"]),
    ],
)
def test_a_key_loads_what_it_needs_before_anybody_is_served(
    tmp_path: Path, more: str, modules: list[str]
) -> None:
    """The list above can fail: loaded is what the configuration asks for, and no request has to wait for it."""
    assert among(modules, loaded("serve", file(tmp_path, PLAIN + more))) == modules
