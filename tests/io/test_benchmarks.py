"""The benchmarks' own instruments: the origin, every load (tiny), the rules of the report.

The load runs straight against the origin: what it measures then is nothing, but that it measures.
"""

import http.client
import itertools
import os
import random
import shutil
import socket
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.load.beginning import beginning
from benchmarks.load.bulk import down, up
from benchmarks.load.curl import curl_upload
from benchmarks.load.leaving import leaving
from benchmarks.load.requests import small
from benchmarks.load.streams import PacedReader, burst, flood, idle, paced
from benchmarks.load.target import Target, percentile
from benchmarks.measures import MEASURES
from benchmarks.patterns import BODY_BLOCK, chunk, paced_event, pattern
from benchmarks.peers import PEERS
from benchmarks.plots import plot
from benchmarks.processes import StartError, free_port, running
from benchmarks.runner import Results, run_one
from benchmarks.targets import WANTED, verdicts

CORE = min(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An origin, and the origin itself in the place of the proxy."""
    port = free_port()
    log = tmp_path_factory.mktemp("origin") / "log"
    argv = [sys.executable, "-m", "benchmarks.origin", str(port)]
    with running(argv, port=port, core=CORE, log=log) as process:
        yield Target(port, process.pid, port, process.pid)
    assert log.read_text() == ""


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 70_000, BODY_BLOCK + 1])
def test_download_is_complete(origin: Target, framing: str, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
    connection.request("GET", f"/download?bytes={size}&framing={framing}")
    body = connection.getresponse().read()
    connection.close()
    block = pattern(65_536 if framing == "chunked" else BODY_BLOCK)
    assert body == (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("chunked", [False, True])
def test_upload_is_counted(origin: Target, chunked: bool) -> None:
    body = pattern(300_000)
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
    parts = iter([body[:1000], body[1000:]]) if chunked else body
    connection.request("POST", "/upload", body=parts, encode_chunked=chunked)
    answer = connection.getresponse().read()
    connection.close()
    framing = len(b"3e8\r\n\r\n" + b"48ff8\r\n\r\n" + b"0\r\n\r\n") if chunked else 0
    assert answer == b'{"received": %d}' % (300_000 + framing)


def test_paced_measures(origin: Target) -> None:
    figures = paced(origin, streams=4, rate=100, seconds=0.3, warm=0.05)
    assert figures["torn"] == 0
    assert figures["events_s"] > 0
    assert figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"]


def test_beginning_measures(origin: Target) -> None:
    figures = beginning(origin, times=5, streams=3)
    assert 0 < figures["quiet_p50_us"] <= figures["quiet_p99_us"]
    assert 0 < figures["busy_p50_us"] <= figures["busy_p99_us"]


@pytest.mark.parametrize("together", [1, 600])
def test_flood_measures(origin: Target, together: int) -> None:
    figures = flood(origin, streams=2, together=together, seconds=0.1, warm=0.02)
    assert figures["events_s"] > 0
    assert figures["cpu_us"] > 0


def test_idle_measures(origin: Target) -> None:
    figures = idle(origin, streams=30, settle=0.02)
    assert figures["files_per_stream"] == pytest.approx(1.0)


@pytest.mark.parametrize("distinct", [False, True])
def test_small_measures(origin: Target, distinct: bool) -> None:
    figures = small(origin, connections=4, distinct=distinct, seconds=0.1, warm=0.02)
    assert figures["requests_s"] > 0


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_down_measures(origin: Target, framing: str) -> None:
    assert down(origin, connections=2, framing=framing, seconds=0.1, warm=0.02)["mb_s"] > 0


def test_up_measures(origin: Target) -> None:
    assert up(origin, connections=2, seconds=0.1, warm=0.02)["mb_s"] > 0


def test_upload_by_curl_measures(origin: Target) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert curl_upload(origin, mb=2, times=1)["mb_s"] > 0


def test_burst_measures(origin: Target) -> None:
    assert "kib_per_stream" in burst(origin, streams=20, rate=20, settle=0.05)


def test_the_floor_passes_bytes_both_ways() -> None:
    options = {"connections": 2, "seconds": 0.1, "warm": 0.05}
    assert run_one(MEASURES["small"], PEERS["floor"], options, CORE, CORE)["requests_s"] > 0


def test_peers_are_for_measures_that_exist() -> None:
    assert {name for peer in PEERS.values() for name in peer.only} <= set(MEASURES)


def test_leaving_is_noticed_in_every_phase(origin: Target) -> None:
    figures = leaving(origin, times=3)
    assert figures["missed"] == 0
    assert figures["upload_tried"] == 3


def test_paced_reader_counts_the_same_however_the_bytes_are_cut() -> None:
    wire = b"".join(chunk(paced_event(1 + n, b" " + b"x" * 40)) for n in range(20))
    for seed in range(20):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(wire)), 12))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader = PacedReader([ours])
        for begin, end in itertools.pairwise([0, *cuts, len(wire)]):
            theirs.send(wire[begin:end])
            reader.run(0.0)
            for fd, _ in reader.ep.poll(1):
                reader.read_ready(fd)
        theirs.close()
        reader.close()
        assert (len(reader.delays), reader.torn) == (20, 0)


def test_a_run_leaves_no_process_behind(tmp_path: Path) -> None:
    pids: list[int] = []
    with running(
        [sys.executable, "-m", "benchmarks.origin", str(port := free_port())],
        port=port,
        core=CORE,
        log=tmp_path / "log",
    ) as process:
        pids.append(process.pid)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no, thank you')"]
    with (
        pytest.raises(StartError, match="no, thank you"),
        running(argv, port=free_port(), core=CORE, log=tmp_path / "log"),
    ):
        pytest.fail("it did not listen")


def test_a_measure_runs_over_a_peer() -> None:
    """The whole way: fresh origin, fresh proxy (the plain relay), figures with the start's."""
    options = {"connections": 2, "seconds": 0.1, "warm": 0.05}
    figures = run_one(MEASURES["small"], PEERS["plain"], options, CORE, CORE)
    assert figures["requests_s"] > 0
    assert figures["started_ms"] > 0
    assert figures["start_mib"] > 0


def test_results_keep_the_worst_and_add_up_misses() -> None:
    runs = [{"p50_us": float(n), "head_worst_us": float(n), "missed": float(n)} for n in (1, 9, 2)]
    medians = Results(runs={"leaving": {"relay": runs}}).medians()
    assert medians["leaving"]["relay"] == {"p50_us": 2.0, "head_worst_us": 9.0, "missed": 12.0}


@pytest.mark.parametrize(
    ("own", "peer", "met"), [(10.0, 10.0, True), (10.1, 10.0, False), (None, 10.0, None)]
)
def test_targets_are_ratios(own: float | None, peer: float, met: bool | None) -> None:
    figures = {"nginx": {"cpu_us": peer}} | ({"relay": {"cpu_us": own}} if own else {})
    assert verdicts({"paced": figures})[0].met is met


def test_targets_speak_of_measures_and_peers_that_exist() -> None:
    assert {wanted.measure for wanted in WANTED} <= set(MEASURES)
    assert {wanted.peer for wanted in WANTED if wanted.peer} <= set(PEERS)


@pytest.mark.parametrize(("share", "value"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 99)])
def test_percentile(share: float, value: int) -> None:
    assert percentile(range(100), share) == value


@pytest.mark.parametrize(
    ("memory", "wrong"),
    [
        ([20, 20, 20, 20, 20, 20], []),
        ([20, 26, 22, 25, 20, 26], []),  # up and down is not growth
        ([20, 22, 24, 26, 28, 30], ["memory_mib grew from 22 to 28"]),
    ],
)
def test_soak_finds_growth(memory: list[float], wrong: list[str]) -> None:
    samples = [soak.Sample(60.0 + n, 2000, mib, 100, None) for n, mib in enumerate(memory)]
    assert soak.growth(samples) == wrong


def test_plot_is_a_picture() -> None:
    lines = {"relay": [(1000.0, 60.0), (5000.0, 80.0)], "nginx": [(1000.0, 55.0), (5000.0, 79.0)]}
    picture = ET.fromstring(plot("Latency", "events a second", "µs", lines))
    assert len(picture.findall("{http://www.w3.org/2000/svg}polyline")) == 2
