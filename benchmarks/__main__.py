"""``python -m benchmarks``: relay beside its peers."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.machine import describe, raise_file_limit
from benchmarks.measures import MEASURES, PLOTTED, QUICK
from benchmarks.peers import PEERS, Peer, version_of
from benchmarks.plots import write_plots
from benchmarks.report import save, table, verdict_table, write_figures
from benchmarks.runner import run_all
from benchmarks.targets import WANTED

QUICK_PEERS = ("relay", "nginx", "haproxy", "caddy", "node", "aiohttp")
NOTES = Path(__file__).parent.parent / "docs" / "technical-notes"
PAGE = NOTES / "performance.md"
PLOTS = NOTES / "plots"


def main(argv: list[str]) -> int:
    wish = _parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways out clean up
    raise_file_limit()
    names = wish.measures or _all(quick=wish.quick, plots=wish.plots)
    measures = [MEASURES[name] for name in names]
    peers, missing = _available(wish.peers.split(",") if wish.peers else _default(wish.quick))
    versions = {peer.name: version_of(peer) for peer in peers}
    machine = describe(["python -m benchmarks", *argv])
    runs = wish.runs or (1 if wish.quick else 3)
    results = run_all(measures, peers, runs=runs, quick=wish.quick)
    medians = results.medians()
    sections = [
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, {machine['date']}\n"
        f"proxies on core {machine['proxy_core']}, load and origin on core {machine['load_core']}, "
        f"load average before: {machine['load_average_before']}\n"
        f"{machine['command']}\n"
        f"medians of {runs} interleaved; in brackets: relay's figure divided by that one",
        table(measures, [peer.name for peer in peers], medians),
    ]
    if any(wanted.measure in medians for wanted in WANTED):
        sections.append(verdict_table(medians))
    for heading, lines in (
        ("not run", missing),
        ("failed", results.failures),
        ("warnings", results.warnings),
        ("versions", [f"{name}: {version}" for name, version in versions.items()]),
    ):
        if lines:
            sections.append("\n  ".join([f"{heading}:", *lines]))
    print("\n\n".join(sections))
    if wish.write:
        write_figures(PAGE, "\n\n".join(sections))
    if wish.json:
        save(Path(wish.json), machine, versions, results)
    if wish.plots:
        write_plots(PLOTS, medians)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="measure", help=", ".join(MEASURES))
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--runs", type=int, help="interleaved runs (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small and short: under 3 minutes")
    parser.add_argument("--json", metavar="FILE", help="write every figure of every run there")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    parser.add_argument(
        "--plots",
        action="store_true",
        help=f"measure what the plots show and write them to {PLOTS}",
    )
    wish = parser.parse_args(argv)
    for name in wish.measures:
        if name not in MEASURES:
            parser.error(f"no measure {name!r}; there are: {', '.join(MEASURES)}")
    for name in wish.peers.split(",") if wish.peers else ():
        if name not in PEERS:
            parser.error(f"no peer {name!r}; there are: {', '.join(PEERS)}")
    return wish


def _all(*, quick: bool, plots: bool) -> list[str]:
    return [name for name in MEASURES if (plots if name in PLOTTED else not quick or name in QUICK)]


def _default(quick: bool) -> list[str]:
    return list(QUICK_PEERS) if quick else list(PEERS)


def _available(names: list[str]) -> tuple[list[Peer], list[str]]:
    found, missing = [], []
    for name in names:
        why = PEERS[name].needs()
        if why is None:
            found.append(PEERS[name])
        else:
            missing.append(f"{name}: {why}")
    return found, missing


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
