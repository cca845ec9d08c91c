"""`relay demo`: an origin, a relay and a page to see the six systems on, in one command.

Processes, as in life: the origin (Hypercorn, started again when it dies, for the page can kill it),
a proxy that buffers, and `relay serve relay/demo/relay.toml`. They end together.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import trio

from relay import INSTALL
from relay.config import parse_address
from relay.processes.standard_streams import StandardStreams
from relay.serving.listeners import BindError, bind

HERE = Path(__file__).parent
RESTART_AFTER = 2.0  # seconds until a killed origin comes back: long enough to be seen
FAULT = 1
USAGE = 2


def run(listen: str = "127.0.0.1:8000") -> int:
    """Run the demo until SIGINT or SIGTERM; the exit code of relay."""
    if find_spec("hypercorn") is None:
        print(f"relay demo needs Hypercorn: {INSTALL.format(extra='asgi')}", file=sys.stderr)
        return FAULT
    try:
        _try_to_listen(listen)  # before anything is started for it
    except ValueError as error:
        print(f"relay demo: --listen {listen}: {error}", file=sys.stderr)
        return USAGE
    except BindError as error:
        print(f"relay demo: {error}; another address is chosen with --listen", file=sys.stderr)
        return FAULT
    standard = StandardStreams("relay")
    try:
        return trio.run(_run, listen)
    finally:
        standard.give_back()


def _try_to_listen(listen: str) -> None:
    """Raises: ValueError: it is no address; BindError."""
    address = parse_address(listen)
    if address.kind == "fd":
        return
    for listener in bind(address):
        listener.remove_file()
        listener.close()


async def _run(listen: str) -> int:
    origin_port, buffering_port, shared_port = free_ports(3)
    origin = f"127.0.0.1:{origin_port}"
    environment = {
        **os.environ,
        "LISTEN": listen,
        # A browser opens six connections to an address, and the other systems and the page take those.
        "SHARED_LISTEN": f"{listen.rpartition(':')[0]}:{shared_port}",
        "SHARED_PORT": str(shared_port),
        "ORIGIN_URL": f"http://{origin}",
        "BUFFERING_PORT": str(buffering_port),
        "BACKEND_TOKEN": secrets.token_urlsafe(),
        "BROKER_API_KEY": secrets.token_urlsafe(),
        "PIPELINE_THINK": "1.5",
    }
    python = [sys.executable, "-m"]
    hypercorn = [*python, "hypercorn", "-k", "trio", "--workers", "0", "--log-level", "ERROR"]
    buffering = [*python, "relay.demo.buffering", f"http://{origin}", "--port", str(buffering_port)]
    relay = [*python, "relay", "serve", str(HERE / "relay.toml")]
    code = 0  # where a signal ends it
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            nursery.start_soon(
                _keep_running, [*hypercorn, "--bind", origin, "relay.demo.origin:app"], environment
            )
            nursery.start_soon(_keep_running, buffering, environment)
            print(f"relay demo: open http://{listen}/ (Ctrl-C ends it)", file=sys.stderr)
            code = await _child(relay, environment)
            nursery.cancel_scope.cancel()
    return code


async def _child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run to the end, in a process group of its own so that a Ctrl-C reaches only the demo.

    Cancellation: SIGTERM, and SIGKILL if that was not enough (Trio's default delivery).
    """
    process = await trio.run_process(
        command, env=environment, check=False, start_new_session=True, stdin=subprocess.DEVNULL
    )
    return process.returncode


async def _keep_running(command: Sequence[str], environment: Mapping[str, str]) -> None:
    while True:
        code = await _child(command, environment)
        print(f"relay demo: {command[2]} ended ({code}), starting it again", file=sys.stderr)
        await trio.sleep(RESTART_AFTER)


async def _stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
