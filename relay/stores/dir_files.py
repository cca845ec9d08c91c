"""The files of a directory store, and the rules by which several processes change them at once. No Trio, no sockets.

    pepper                           made once, put in place with link()
    runs/IDENTITY/head               the card and the owner's process
                 /fields             of the response head: put down when the key moves
                 /s-SEQ              a segment: chunks (RFC 9112 §7.1) from event SEQ on; `0` ends it when the next begins
                 /end                the end: put in place with link(), which fails if there is one
                 /claim              who unlinks it may release what it claims, and nobody else
    keys/KEY/a-NUMBER-IDENTITY       a run below the key, under way
            /e-NUMBER-IDENTITY       one that has ended: the same entry, renamed by who put down the end
            /c-NUMBER-IDENTITY       its head comes; of those that have `fields` the greatest is the key's current run
            /r-REQUEST               the claim of a candidate: a second link of its `claim`

Rules
  * No lock is waited for, so a process that is stopped at any place holds up nobody.
  * Who makes a c- entry looks afterwards: it removes those with smaller numbers, or its own if there is a greater one. Of
    two who do so at once the later one sees the other, whichever that is, so none stays that would come back when the
    greater one is forgotten.
  * An r- entry is made by link(), which one of several wins, and removed by who unlinked the claim of its run, which one of
    several does. If that one dies in between, requests like this one are just not shared until the janitor has been here.
  * An end is written beside and linked, so it is whole or not there.
  * What is found may be anybody's: a run with a file that is not what relay writes is not there (NotOurs), costs the others
    nothing, and is taken away by the janitor. No link is followed, no pipe is waited for, and a file is read up to LARGEST.
  * Nothing is synced: what a process wrote outlives that process, not the loss of power.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from relay.http.bodies import Fields
from relay.stores.store import Card, Known, Look, Sealed, StoreUnusable
from relay.stores.written import (
    NotOurs,
    as_json,
    read_card,
    read_end,
    read_fields,
    written_card,
    written_end,
    written_fields,
)

_CLAIM_TRIES: Final = 3
# Runs of a key that have ended, as a look knows them beside the current one (arbitrary)
_ENDED: Final = 16
# Bytes of a file that is read whole: a head of 1 MiB, escaped (arbitrary)
LARGEST: Final = 8 * 1024 * 1024
_RUN: Final = re.compile("[0-9a-f]{32}")  # a run's name
_ENTRY: Final = re.compile("[ace]-[0-9]{20}-[0-9a-f]{32}")
_SEGMENT: Final = re.compile("s-([1-9][0-9]{0,18})")
_DIGITS: Final = 20  # of a number, so that names sort as numbers do

Alive = Callable[[str], bool]


class Files:
    """One directory. Raises: OSError, everywhere but where it says otherwise."""

    def __init__(self, root: str) -> None:
        """Make it where it is not there. Raises: StoreUnusable: it cannot be, or is somebody else's too."""
        self.root = root
        self.processes = f"{root}/processes"
        try:
            os.makedirs(root, 0o700, exist_ok=True)
            found = os.stat(root)
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
                raise StoreUnusable(f"the streams' directory {root} belongs to somebody else")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StoreUnusable(
                    f"the streams' directory {root} is open to others: chmod 700 {root}"
                )
            for name in ("runs", "keys", "processes"):
                os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
            self.pepper = self._shared_pepper()
        except OSError as error:
            raise StoreUnusable(
                f"the streams' directory {root} cannot be used: {error.strerror}"
            ) from None

    def _shared_pepper(self) -> bytes:
        path = f"{self.root}/pepper"
        put_once(path, secrets.token_bytes(16))
        pepper = _read(path)
        if len(pepper) != 16:
            raise StoreUnusable(f"{path} is not a file of relay's")
        return pepper

    def run(self, identity: bytes) -> str:
        return f"{self.root}/runs/{identity.hex()}"

    def lock(self, process: str) -> str:
        return f"{self.processes}/{process}.lock"

    def key(self, key: str) -> str:
        return f"{self.root}/keys/{key}"

    # -- beginning -----------------------------------------------------------------------------------------------

    def enter(self, card: Card, process: str, alive: Alive | None) -> Known | None:
        """Put down a candidate; a Known: it would repeat that one, and nothing was put down. `alive` None: it is not
        shared."""
        path = self.run(card.identity)
        os.mkdir(path, 0o700)
        _write(f"{path}/head", written_card(card, process))
        if card.keyed and alive is not None:
            _write(f"{path}/claim", card.identity)
            repeated = self._claim(card, alive)
            if repeated is not None:
                self.remove(path)
                return repeated
        self._mark(card, "a")
        return None

    def _claim(self, card: Card, alive: Alive) -> Known | None:
        """Have the request to oneself, unless another candidate has it."""
        claim, entry = f"{self.run(card.identity)}/claim", self._request(card)
        for _ in range(_CLAIM_TRIES):
            try:
                os.link(claim, entry)
                return None
            except FileNotFoundError:
                os.makedirs(self.key(card.key), 0o700, exist_ok=True)
                continue
            except FileExistsError:
                pass
            with suppress(FileNotFoundError):
                there = _read(entry)
                known = self.known(there, alive)
                if known is not None and known.under_way:
                    return known
                self._release(there, entry)
        with suppress(FileNotFoundError):
            os.unlink(claim)  # it is not shared
        return None

    def release(self, card: Card) -> None:
        """It is no candidate any more."""
        if card.keyed:
            self._release(card.identity, self._request(card))

    def _release(self, identity: bytes, entry: str) -> None:
        try:
            os.unlink(f"{self.run(identity)}/claim")
        except FileNotFoundError:
            return
        with suppress(FileNotFoundError):
            os.unlink(entry)

    def _request(self, card: Card) -> str:
        return f"{self.key(card.key)}/r-{card.request.hex()}"

    def _mark(self, card: Card, kind: str) -> None:
        directory = self.key(card.key)
        path = f"{directory}/{_entry(card, kind)}"
        try:
            _write(path, b"")
        except FileNotFoundError:  # the janitor finds empty directories
            os.makedirs(directory, 0o700, exist_ok=True)
            _write(path, b"")

    def head(self, card: Card, fields: Fields) -> None:
        """The head of a run has come: its key moves to it, by the rule above."""
        self._mark(card, "c")
        put_once(f"{self.run(card.identity)}/fields", written_fields(fields))  # which moves the key
        mine = _entry(card, "c")
        for name in self._entries(card.key, "c"):
            if name != mine:
                smaller = min(name, mine)
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.key(card.key)}/{smaller}")
        self.release(card)

    # -- the end -------------------------------------------------------------------------------------------------

    def seal(self, identity: bytes, sealed: Sealed) -> Sealed | None:
        """Put down an end. Returns: the one that stands; None: there is no such run."""
        try:
            put_once(f"{self.run(identity)}/end", as_json(written_end(sealed)))
        except FileNotFoundError:
            return None
        found = self.card(identity)
        if found is not None:
            card, directory = found[0], self.key(found[0].key)
            with suppress(FileNotFoundError):
                os.rename(f"{directory}/{_entry(card, 'a')}", f"{directory}/{_entry(card, 'e')}")
        return self.end(identity)

    def end(self, identity: bytes) -> Sealed | None:
        """The end of a run; None: there is none."""
        try:
            return read_end(_read(f"{self.run(identity)}/end"))
        except FileNotFoundError:
            return None

    def forget(self, card: Card) -> None:
        """Take a run away. Those that it superseded first: they must not come back."""
        directory, mine = self.key(card.key), _entry(card, "c")
        names = self._entries(card.key, "c")
        gone = [name for name in names if name < mine] if mine in names else []
        for name in (*gone, mine, _entry(card, "a"), _entry(card, "e")):
            with suppress(FileNotFoundError):
                os.unlink(f"{directory}/{name}")
        self.release(card)
        self.remove(self.run(card.identity))
        with suppress(OSError):
            os.rmdir(directory)

    def remove(self, path: str) -> None:
        """The directory of a run. What is in it and none of ours may stay: without a head it is no run."""
        names = ["head"]  # first: without it the rest counts as no run
        with suppress(FileNotFoundError, NotADirectoryError):
            names += os.listdir(path)
        for name in names:
            with suppress(FileNotFoundError, NotADirectoryError):
                try:
                    os.unlink(f"{path}/{name}")
                except (IsADirectoryError, PermissionError):  # what unlink says of a folder
                    os.rmdir(f"{path}/{name}")
        with suppress(OSError):
            os.rmdir(path)

    # -- looking -------------------------------------------------------------------------------------------------

    def known(self, identity: bytes, alive: Alive) -> Known | None:
        """A run as it is now; None: there is none, or what there is is not ours."""
        try:
            return self._known(identity, alive)
        except NotOurs:
            return None

    def _known(self, identity: bytes, alive: Alive) -> Known | None:
        found = self.card(identity)
        if found is None:
            return None
        card, process = found
        sealed = self.end(identity)
        if sealed is not None and sealed.until < time.time():
            return None
        lost = sealed is None and not alive(process)
        if lost:
            sealed = self.end(identity)  # it may have put down its end and gone
            lost = sealed is None
        first = next(iter(self.segments(identity)), 1)
        return Known(card, self.fields(identity), first, sealed, lost=lost)

    def card(self, identity: bytes) -> tuple[Card, str] | None:
        """What a run is, and whose process owns it."""
        try:
            card, process = read_card(_read(f"{self.run(identity)}/head"))
        except (FileNotFoundError, NotOurs):  # a head that is being written, too
            return None
        return (card, process) if card.identity == identity else None

    def fields(self, identity: bytes) -> Fields | None:
        """Of its response head; None: it has none yet."""
        try:
            return read_fields(_read(f"{self.run(identity)}/fields"))
        except FileNotFoundError:
            return None

    def segments(self, identity: bytes) -> list[int]:
        """The numbers of the first events of its segments, in order."""
        try:
            names = os.listdir(self.run(identity))
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for name in names if (found := _SEGMENT.fullmatch(name)))

    def runs(self) -> list[bytes]:
        """The identities of all runs, whatever is in them."""
        names = os.listdir(f"{self.root}/runs")
        return [bytes.fromhex(name) for name in names if _RUN.fullmatch(name)]

    def look(self, identity: bytes | None, key: str | None, alive: Alive) -> Look:
        """See store.Store.look."""
        run = self.known(identity, alive) if identity is not None else None
        keys = {each for each in (key, run.key if run is not None else None) if each is not None}
        below: list[Known] = []
        for each in sorted(keys):
            below += self._below(each, alive)
        if run is not None:
            run = next((known for known in below if known.card.identity == identity), run)
        return Look(run, below)

    def _below(self, key: str, alive: Alive) -> list[Known]:
        """What goes on, what is current, and of what has ended the latest: a key may have thousands of those.

        The runs first, and then which of them is current: one whose fields were there has its entry by then.
        """
        names = self._entries(key, "a") + self._entries(key, "e")[-_ENDED:]
        identities = {bytes.fromhex(name[-32:]) for name in names}
        found = {identity: self.known(identity, alive) for identity in identities}
        heads = [bytes.fromhex(name[-32:]) for name in self._entries(key, "c")]
        for identity in heads:
            if identity not in found:
                found[identity] = self.known(identity, alive)
        below = [known for known in found.values() if known is not None]
        below.sort(key=lambda known: known.card.number)
        for at in range(len(below) - 1, -1, -1):
            if below[at].fields is not None and below[at].card.identity in heads:
                below[at] = below[at]._replace(current=True)
                break
        return below

    def _entries(self, key: str, kind: str) -> list[str]:
        try:
            names = os.listdir(self.key(key))
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name[:1] == kind and _ENTRY.fullmatch(name))


# -- files -------------------------------------------------------------------------------------------------------


def put_once(path: str, data: bytes) -> bool:
    """A whole file, or nothing; False: there is one already."""
    beside = f"{path}.{secrets.token_hex(4)}"
    try:
        _write(beside, data)
        os.link(beside, path)
        return True
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    """A whole file. Raises: NotOurs: what stands there is none, or larger than any of ours."""
    fd = open_file(path)
    try:
        data = part = os.read(fd, 1 << 16)
        while len(part) == 1 << 16:
            if len(data) > LARGEST:
                raise NotOurs
            part = os.read(fd, 1 << 16)
            data += part
        return data
    finally:
        os.close(fd)


def open_file(path: str) -> int:
    """A file for reading. Raises: NotOurs: what stands there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a link, no run, a socket
            raise NotOurs from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotOurs
    return fd


def _entry(card: Card, kind: str) -> str:
    return f"{kind}-{card.number:0{_DIGITS}d}-{card.identity.hex()}"
