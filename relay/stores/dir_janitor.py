"""Takes away what is past its time in a directory store, what belongs to nobody, and what is too much. Runs in a thread.

Rules
  * One janitor at a time in a directory, by a lock that nobody waits for. It touches only files, and nothing that a process
    could be making just now: what belongs to nobody is left alone for YOUNG seconds.
  * What is none of relay's stops it nowhere: a run with a broken file goes when it is old, a foreign name stays.
  * Above `space` finished runs go first, those of the principal that has most, oldest first; then the older segments of runs
    under way, of the largest.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from relay.stores.dir_files import Files
from relay.stores.dir_process import lives
from relay.stores.store import Card, Sealed
from relay.stores.written import NotOurs

YOUNG: Final = 60.0  # seconds in which something may still be in the making
_ROOM: Final = 0.9  # of `space` that is left after making room


@dataclass(frozen=True, slots=True)
class _Kept:
    card: Card
    sealed: Sealed | None
    size: int
    process: str


def sweep(files: Files, space: int) -> None:
    """Once through the directory. Raises: OSError."""
    path = f"{files.root}/janitor"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept = _sweep_runs(files)
        _sweep_keys(files)
        _sweep_processes(files)
        _make_room(files, kept, space)
    except BlockingIOError:
        pass  # another one is at work
    finally:
        os.close(fd)


def _sweep_runs(files: Files) -> list[_Kept]:
    kept: list[_Kept] = []
    for identity in files.runs():
        with suppress(OSError):  # a run that cannot be taken away does not keep the others here
            found = _sweep_run(files, identity)
            if found is not None:
                kept.append(found)
    return kept


def _sweep_run(files: Files, identity: bytes) -> _Kept | None:
    now = time.time()
    path = files.run(identity)
    if os.path.islink(path):  # the link goes; what it leads to belongs to somebody else
        os.unlink(path)
        return None
    size, touched = _measure(path)
    found = files.card(identity)
    sealed = None
    try:
        sealed = files.end(identity)
        files.fields(identity)
        broken = found is None
    except NotOurs:
        broken = True
    if found is None or broken:
        if touched + YOUNG < now:
            if found is not None:
                files.forget(found[0])
            files.remove(path)
        return None
    card, process = found
    if sealed is not None:
        over = sealed.until < now
    else:
        over = touched + max(card.keep, YOUNG) < now and not lives(files.lock(process))
    if over:
        files.forget(card)
        return None
    return _Kept(card, sealed, size, process)


def _measure(path: str) -> tuple[int, float]:
    """The bytes of a run's files, and when they were last written to."""
    size, touched = 0, 0.0
    with suppress(FileNotFoundError, NotADirectoryError):
        touched = os.lstat(path).st_mtime
        for entry in os.scandir(path):
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                size += found.st_size
                touched = max(touched, found.st_mtime)
    return size, touched


def _sweep_keys(files: Files) -> None:
    """Entries whose run is gone."""
    now = time.time()
    for key in os.listdir(f"{files.root}/keys"):
        directory = files.key(key)
        if os.path.islink(directory):
            continue
        with suppress(OSError):
            for name in os.listdir(directory):
                path = f"{directory}/{name}"
                with suppress(OSError):
                    if os.lstat(path).st_mtime + YOUNG < now and not _has_run(files, path, name):
                        os.unlink(path)
            os.rmdir(directory)


def _has_run(files: Files, path: str, name: str) -> bool:
    """Whether the run of an entry is there. Of a claim: whether it is a candidate still."""
    if name.startswith("r-"):
        return os.lstat(path).st_nlink > 1
    return os.path.exists(f"{files.root}/runs/{name[-32:]}/head")


def _sweep_processes(files: Files) -> None:
    for name in os.listdir(files.processes):
        if name.endswith(".lock"):
            lock = f"{files.processes}/{name}"
            with suppress(OSError):
                if not lives(lock):
                    with suppress(FileNotFoundError):
                        os.unlink(lock.removesuffix(".lock") + ".sock")
                    os.unlink(lock)


def _make_room(files: Files, kept: list[_Kept], space: int) -> None:
    total = sum(each.size for each in kept)
    if total <= space:
        return
    goal = int(space * _ROOM)
    held: dict[bytes, int] = defaultdict(int)
    theirs: dict[bytes, list[_Kept]] = defaultdict(list)
    for each in sorted(kept, key=lambda each: each.card.number):
        if each.sealed is not None:
            held[each.card.owner] += each.size
            theirs[each.card.owner].append(each)
    while total > goal and held:
        most = max(held, key=lambda owner: held[owner])
        each = theirs[most].pop(0)
        held[most] -= each.size
        if not theirs[most]:
            del held[most]
        files.forget(each.card)
        total -= each.size
    for each in sorted(kept, key=lambda each: each.size, reverse=True):
        if total <= goal:
            return
        if each.sealed is None:
            total -= _trim(files, each.card)


def _trim(files: Files, card: Card) -> int:
    """Take away all segments of a run but the one that is written to. Returns: the bytes that this frees."""
    freed = 0
    for first in files.segments(card.identity)[:-1]:
        path = f"{files.run(card.identity)}/s-{first}"
        with suppress(FileNotFoundError):
            freed += os.stat(path).st_size
            os.unlink(path)
    return freed
