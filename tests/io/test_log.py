"""The log's writer, on real pipes, terminals, FIFOs and files: whoever reads, or does not, `write`
goes on, lines keep their order, and those that were dropped are counted."""

from __future__ import annotations

import os
import pty
import resource
import select
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.config import loads
from relay.observing.log import MAX_HELD, LineLog
from relay.serving.reload import open_log
from tests.interop.processes import wait_until

ROUTES = 'routes = [{ path = "/", source = "local" }]\n'
LINE = "%06d" + "x" * 250 + "\n"
TOO_MANY = 2 * MAX_HELD // len(LINE % 0)  # lines


class Reader:
    """Reads a descriptor to its end, in a thread."""

    def __init__(self, fd: int) -> None:
        self.data = b""
        self._fd = fd
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._fd, 65536):
            self.data += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode().splitlines()

    def to_the_end(self) -> list[str]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A reading and a writing end. The writing end is the log's to close."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def numbered(count: int, start: int = 0) -> list[str]:
    return [LINE % number for number in range(start, start + count)]


def numbers(lines: list[str]) -> list[int]:
    return [int(line[:6]) for line in lines]


def assert_kept(found: list[int], kept: int) -> None:
    """In order, each once; what the pipe takes makes room for some that come later."""
    assert len(found) == kept
    assert found == sorted(set(found))
    assert found[: kept // 2] == list(range(kept // 2))


def write_all(log: LineLog, lines: list[str]) -> None:
    for line in lines:
        log.write(line)


def threads() -> int:
    return sum(thread.name == "relay log" for thread in threading.enumerate())


def is_full(fd: int) -> bool:
    return not select.select([], [fd], [], 0)[1]


def fifo_log(path: Path) -> int:
    fd = open_log(loads(f'server.access_log = "{path}"\n' + ROUTES, {}))
    assert fd is not None
    return fd


def test_lines_come_in_order_and_the_end_waits_for_them(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reader = Reader(reading)
    log = LineLog(writing)
    write_all(log, numbered(20_000))
    log.close(20)
    assert numbers(reader.to_the_end()) == list(range(20_000))
    assert log.dropped == log.held == threads() == 0


def test_a_reader_that_stops(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """1. Nobody reads, and there are twice as many lines as may be held: the last are dropped and
    counted, the first are held. 2. Somebody reads: those come whole and in order, and one message
    tells what is missing. 3. What is written then comes too."""
    reading, writing = pipe
    log = LineLog(writing)
    lines = numbered(TOO_MANY)
    write_all(log, lines)
    assert 0 < log.held <= MAX_HELD
    kept = TOO_MANY - log.dropped
    assert TOO_MANY / 3 < kept < 2 * TOO_MANY / 3
    reader = Reader(reading)
    wait_until("all is read", lambda: len(reader.lines) == kept)
    wait_until("it is told", lambda: f"{TOO_MANY - kept} were dropped" in caplog.text)
    log.write(LINE % 999_999)
    log.close(20)
    *found, last = numbers(reader.to_the_end())
    assert last == 999_999
    assert_kept(found, kept)
    assert len(caplog.records) == 1


def test_a_full_backlog_takes_lines_again_as_soon_as_there_is_room(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = LineLog(writing)
    write_all(log, numbered(TOO_MANY))
    dropped = log.dropped
    reader = Reader(reading)
    wait_until("there is room", lambda: log.held < MAX_HELD / 2)
    write_all(log, numbered(100, 900_000))
    log.close(20)
    assert log.dropped == dropped
    assert numbers(reader.to_the_end())[-100:] == list(range(900_000, 900_100))


def test_a_line_costs_no_more_than_is_counted() -> None:
    """Short lines have a price too, and those that are not ASCII another one."""
    for line in ("\n", "é" * 100 + "\n", "\U0001f600" * 100 + "\n"):
        log = LineLog(None)
        log.idle = False  # there is no writer to be woken
        log.write(line)
        assert log.held >= sys.getsizeof(line) + 8


def test_a_terminal_that_is_stopped() -> None:
    """A write to it waits, whatever poll has said."""
    leader, terminal = pty.openpty()
    tty.setraw(terminal)
    log = LineLog(os.dup(terminal))
    write_all(log, numbered(TOO_MANY))
    assert log.dropped > 0
    log.close(0.1)
    assert log.dropped >= TOO_MANY - 300  # what the terminal's buffer took
    assert threads() == 1  # it is left behind, and ends when somebody reads
    reader = threading.Thread(target=drain, args=(leader,), daemon=True)
    reader.start()
    wait_until("the thread ends", lambda: threads() == 0)
    os.close(terminal)
    reader.join(20)
    os.close(leader)


def drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass  # EIO: nobody has the terminal any more


def test_two_writers_on_one_pipe_do_not_mix_lines(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    logs = [LineLog(writing), LineLog(os.dup(writing))]
    for number in range(5_000):
        for log, letter in zip(logs, "ab", strict=True):
            log.write(letter * (number % 1000 + 1) + "\n")
    reader = Reader(reading)
    for log in logs:
        log.close(20)
    lines = reader.to_the_end()
    for letter in "ab":
        found = [line for line in lines if line.startswith(letter)]
        assert found == [letter * (number % 1000 + 1) for number in range(5_000)]


def test_a_line_longer_than_the_pipe(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = LineLog(writing)
    write_all(log, ["short\n", "x" * 300_000 + "\n", "é\ud800" * 3000 + "\n", "short\n"])
    reader = Reader(reading)
    log.close(20)
    found = reader.to_the_end()
    assert found == ["short", "x" * 300_000, "é\\ud800" * 3000, "short"]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """1. The disk is full in the middle of a line: it is said once, the backlog waits and fills up.
    2. There is room again: the line goes on where it stopped, nothing that was held is missing, and
    it is said what was dropped."""
    path = tmp_path / "access.log"
    log = LineLog(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    with full_disk(100_001):
        write_all(log, numbered(TOO_MANY))
        wait_until("it is said", lambda: "the access log cannot be written" in caplog.text)
        assert path.stat().st_size == 100_001
        kept = TOO_MANY - log.dropped
        assert 0 < kept < TOO_MANY
    wait_until("it is over", lambda: f"{log.dropped} were dropped (File too large)" in caplog.text)
    log.close()
    assert_kept(numbers(path.read_text().splitlines()), kept)
    assert len(caplog.records) == 2


def test_a_disk_that_is_full_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.log"
    log = LineLog(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    with full_disk(0):
        write_all(log, numbered(10))
        wait_until("it is said", lambda: "the access log cannot be written" in caplog.text)
        log.close()
    assert log.dropped == 10
    assert "lines lost at the end: 10" in caplog.text


def test_a_file_is_opened_anew_before_its_first_line(tmp_path: Path) -> None:
    """1. The log is asked to open its file anew, when nothing was written yet and no thread runs. 2. The file is there."""
    path = tmp_path / "access.log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    path.rename(tmp_path / "old")
    log = LineLog(fd, path=str(path))
    log.reopen()
    wait_until("it is there", path.exists)
    log.write("one\n")
    log.close()
    assert path.read_text() == "one\n"


def test_a_line_that_was_torn_by_a_full_disk_is_whole_in_the_new_file(tmp_path: Path) -> None:
    """1. The disk is full in the middle of a line. 2. The file is moved away and opened anew, with room. 3. The new file
    begins with that line, whole."""
    path, old = tmp_path / "access.log", tmp_path / "old"
    log = LineLog(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), path=str(path))
    with full_disk(1001):
        write_all(log, numbered(100))
        wait_until("it is full", lambda: path.stat().st_size == 1001)
        path.rename(old)
    log.reopen()
    last = (LINE % 99).splitlines()[0]
    wait_until("all is written", lambda: path.exists() and last in path.read_text().splitlines())
    log.close()
    whole = old.read_text()[: old.read_text().rfind("\n") + 1]
    assert numbers((whole + path.read_text()).splitlines()) == list(range(100))


def test_a_fifo_that_nobody_reads_yet(tmp_path: Path) -> None:
    """Opening it does not wait for a reader, and whoever comes gets all the lines."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    log = LineLog(fifo_log(path))
    write_all(log, numbered(5_000))
    reader = Reader(os.open(path, os.O_RDONLY))
    log.close(20)
    assert numbers(reader.to_the_end()) == list(range(5_000))


def test_a_fifo_whose_reader_dies_and_another_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = LineLog(fifo_log(path))
    write_all(log, numbered(3))
    wait_until("it is written", lambda: log.held == 0)
    assert os.read(first, 65536).count(b"\n") == 3
    os.close(first)
    write_all(log, numbered(3, 10))
    wait_until("it is said", lambda: "cannot be written (Broken pipe)" in caplog.text)
    second = os.open(path, os.O_RDONLY)
    wait_until("it is over", lambda: "0 were dropped (Broken pipe)" in caplog.text)
    log.close()
    assert numbers(os.read(second, 65536).decode().splitlines()) == [10, 11, 12]
    os.close(second)


def test_a_fifo_is_left_at_once_when_its_log_moves(tmp_path: Path) -> None:
    """No thread and no descriptor stays behind, however often."""
    path, file = tmp_path / "fifo", tmp_path / "access.log"
    os.mkfifo(path)
    before = len(os.listdir("/proc/self/fd"))
    log = LineLog(fifo_log(path))
    write_all(log, numbered(5_000))
    for _ in range(20):
        log.move(fifo_log(path))
    log.move(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    log.close(20)
    assert log.dropped == threads() == 0
    # What the FIFO took is lost with it: nobody ever read it. The rest begins with a whole line.
    written = numbers(file.read_text().splitlines())
    assert written == list(range(written[0], 5_000))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_log_that_moves_leaves_its_lines_where_they_were_written(tmp_path: Path) -> None:
    """What logrotate does: what was logged before goes to the old file, if that takes it."""
    paths = [tmp_path / name for name in ("one", "two", "three")]
    fds = [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for path in paths]
    log = LineLog(fds[0])
    for number, fd in enumerate(fds):
        if number:
            log.move(fd)
        write_all(log, numbered(1_000, 1_000 * number))
    log.close(20)
    for number, path in enumerate(paths):
        found = numbers(path.read_text().splitlines())
        assert found == list(range(1_000 * number, 1_000 * number + 1_000))


def test_a_log_that_moves_away_from_a_stuck_reader(pipe: tuple[int, int], tmp_path: Path) -> None:
    """1. A pipe that nobody reads is full, and a thread is stuck in it. 2. The log moves to a file:
    what was held goes there, and what comes. 3. The pipe is read: only the piece that was being
    written is there still."""
    reading, writing = pipe
    log = LineLog(os.dup(writing))
    write_all(log, numbered(5_000))
    wait_until("the pipe is full", lambda: is_full(writing))
    file = tmp_path / "access.log"
    log.move(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    write_all(log, numbered(100, 5_000))
    wait_until("the last is written", lambda: (LINE % 5_099) in file.read_text())
    os.close(writing)
    reader = Reader(reading)
    in_pipe = numbers(reader.to_the_end())
    log.close()
    assert in_pipe == list(range(len(in_pipe)))
    assert numbers(file.read_text().splitlines()) == list(range(len(in_pipe), 5_100))


def test_off_and_on_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    def opened() -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    log = LineLog(opened())
    write_all(log, numbered(10))
    log.move(None)
    log.move(opened())
    write_all(log, numbered(10, 10))
    log.move(None)
    log.close(20)
    assert numbers(path.read_text().splitlines()) == list(range(20))
    assert threads() == 0


def test_the_end_does_not_wait_for_a_stuck_reader(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = LineLog(writing)
    write_all(log, numbered(10_000))
    wait_until("the pipe is full", lambda: is_full(writing))
    log.close(0.05)
    lost = log.dropped
    assert lost > 9_000
    log.write(LINE % 0)
    assert log.dropped == lost + 1
    reader = Reader(reading)  # the thread ends with the piece it is stuck in
    in_pipe = reader.to_the_end()
    assert numbers(in_pipe) == list(range(len(in_pipe)))


def test_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    """Whoever shares it may have made it so; and then it is full at times."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    log = LineLog(writing)
    write_all(log, numbered(5_000))
    reader = Reader(reading)
    log.close(20)
    assert numbers(reader.to_the_end()) == list(range(5_000))


STANDARD = r"""
import logging, os, sys, traceback, warnings
from relay.processes.standard_streams import StandardStreams

standard = StandardStreams("relay")
print("out", end=" ")
print("more")
sys.stdout.buffer.write(b"bytes\xff\n")
print("err", file=sys.stderr)
logging.getLogger("relay").warning("a %s", "warning")
try:
    1 / 0
except ZeroDivisionError:
    traceback.print_exc()
warnings.warn("beware")
sys.stderr.write("unfinished")
standard.give_back()
print("after", file=sys.stderr)
"""


def test_all_that_is_printed_goes_through_the_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STANDARD], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "out more\nbytes\\xff\n"
    lines = done.stderr.splitlines()
    assert lines[:2] == ["err", "relay: WARNING: a warning"]
    assert lines[2] == "Traceback (most recent call last):"
    assert "ZeroDivisionError: division by zero" in lines
    assert any("UserWarning: beware" in line for line in lines)
    assert lines[-2:] == ["unfinished", "after"]


CLOSED = """
import os, sys
from relay.processes.standard_streams import StandardStreams

os.close(1)
standard = StandardStreams("relay")
fd = os.open(os.devnull, os.O_RDONLY)
assert fd > 2, fd
print("into the void")
standard.give_back()
"""


def test_a_standard_descriptor_that_is_closed_is_nobody_elses() -> None:
    """What is opened next would have its number, and the log's lines would go there."""
    subprocess.run([sys.executable, "-c", CLOSED], timeout=30, check=True)
