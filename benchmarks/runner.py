"""Runs measures over peers, interleaved: A B C A B C, so that a slow minute of the machine meets
all of them."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accounting import pss_kib
from benchmarks.load.target import SATURATED, Figures, LoadError, Target
from benchmarks.machine import cores
from benchmarks.measures import Measure
from benchmarks.peers import Peer
from benchmarks.processes import StartError, free_port, running


@dataclass(slots=True)
class Results:
    """Every figure of every run, and what went wrong."""

    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    """measure → peer → one Figures per run."""
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def medians(self) -> dict[str, dict[str, Figures]]:
        """measure → peer → figure → median; the worst stays the worst, misses add up."""
        return {
            measure: {peer: _merge(figures) for peer, figures in peers.items() if figures}
            for measure, peers in self.runs.items()
        }


def run_all(
    measures: Iterable[Measure], peers: Iterable[Peer], *, runs: int, quick: bool
) -> Results:
    """Run them all; a peer that fails a measure is left out of it and named.

    Cancellation: Ctrl-C ends the processes of the run and raises KeyboardInterrupt.
    """
    results = Results()
    own_cores = os.sched_getaffinity(0)
    proxy_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    try:
        for measure in measures:
            by_peer = results.runs.setdefault(measure.name, {peer.name: [] for peer in peers})
            options = measure.quick if quick else measure.full
            for turn in range(runs):
                for peer in peers:
                    if peer.only and measure.name not in peer.only:
                        continue
                    label = f"{measure.name} {turn + 1}/{runs} {peer.name}"
                    print(f"\r{label:50}", end="", file=sys.stderr, flush=True)
                    try:
                        figures = run_one(measure, peer, options, proxy_core, load_core)
                    except (LoadError, StartError, OSError) as error:
                        results.failures.append(f"{label}: {error}")
                        continue
                    by_peer[peer.name].append(figures)
                    _warn(results, label, figures)
    finally:
        os.sched_setaffinity(0, own_cores)
        print(f"\r{'':50}\r", end="", file=sys.stderr, flush=True)
    return results


def run_one(
    measure: Measure, peer: Peer, options: object, proxy_core: int, load_core: int
) -> Figures:
    """One measure on fresh processes: origin, proxy, load.

    Raises:
        StartError, LoadError, OSError: it could not be measured.
    """
    assert isinstance(options, dict)
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx workers run as another user when started by root
        origin_port, port = free_port(), free_port()
        environment = {
            key: value.replace("@ORIGIN@", str(origin_port))
            for key, value in peer.environment.items()
        }
        origin_argv = [sys.executable, "-m", "benchmarks.origin", str(origin_port), *measure.origin]
        with (
            running(origin_argv, port=origin_port, core=load_core, log=folder / "origin") as origin,
            running(
                peer.argv(port, origin_port, folder),
                port=port,
                core=proxy_core,
                log=folder / "proxy",
                environment=environment,
            ) as proxy,
        ):
            time.sleep(0.2)  # what the peer still does after it listens is not part of a window
            start: Figures = {
                "started_ms": proxy.started_ms,
                "start_mib": pss_kib(proxy.pid) / 1024,
            }
            target = Target(port, proxy.pid, origin_port, origin.pid)
            try:
                return {**start, **measure.run(target, **options)}
            except (LoadError, OSError) as error:
                raise LoadError(f"{error}; its log ends with: {_end_of(proxy.log)}") from error


def _end_of(log: Path, lines: int = 4) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])[-800:]


def _merge(runs: list[Figures]) -> Figures:
    merged: Figures = {}
    for key in runs[0]:
        values = [figures[key] for figures in runs if key in figures]
        if "worst" in key:
            merged[key] = max(values)
        elif "missed" in key or "tried" in key:
            merged[key] = sum(values)
        else:
            merged[key] = statistics.median(values)
    return merged


def _warn(results: Results, label: str, figures: Figures) -> None:
    """Say when the load's core was the limit: a rate is then a lower bound."""
    busy = figures.get("load_share", 0.0) + figures.get("origin_share", 0.0)
    if busy > SATURATED and figures.get("proxy_share", 1.0) < 0.95:
        results.warnings.append(
            f"{label}: the load's core was {busy:.0%} busy, the proxy's "
            f"{figures.get('proxy_share', 0.0):.0%}: its rate is a lower bound"
        )
