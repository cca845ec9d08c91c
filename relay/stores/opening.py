"""Which store a configuration means, and where it is. Each is imported where it is used only.

    prepare, once, before there are workers ─► open_store in each process ─► put_away with the last: the directory of `auto`

Rule: which store it is stays as long as the process and its workers: a reload changes its limits only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress

from relay import INSTALL
from relay.config.values import Config, Streams
from relay.stores.store import Store, StoreUnusable

_DIR = "dir:"

logger = logging.getLogger("relay")


def prepare(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with the directory that its processes share. Raises: StoreUnusable: where it must not be.

    Where nothing can be written (a container with a read-only file system) `auto` is the memory of each process.
    """
    streams = config.streams
    directory = streams.store.removeprefix(_DIR) if streams.store.startswith(_DIR) else ""
    if streams.store == "auto" and config.server.workers > 1:
        try:
            directory = _private(config, environ)
        except StoreUnusable as error:
            if resumes(config) and streams.required:
                raise
            say = logger.error if resumes(config) else logger.info
            say("%s: streams are kept in the memory of each process", error)
    config = config._replace(streams=streams._replace(directory=directory))
    if directory and streams.required and resumes(config):
        from relay.stores.dir_files import Files

        Files(directory)
    if streams.store.startswith("redis") and streams.required and resumes(config):
        _redis(streams)
        from relay.config.values.redis_place import Place
        from relay.stores.redis_link import reach

        reach(Place.parse(streams.store))
    return config


def keep_store(before: Config, after: Config) -> Config:
    """A configuration that was read again, with the store as it was."""
    was = before.streams
    return after._replace(streams=after.streams._replace(store=was.store, directory=was.directory))


def resumes(config: Config) -> bool:
    """Whether streams are to be kept at all."""
    return any(route.resume is not None for route in config.routes)


def open_store(streams: Streams, limits: Callable[[], Streams]) -> Store | None:
    """The store of this process, opened; None: its memory is all.

    Args:
        limits: as they are configured just now.

    Raises: StoreUnusable: where it is required.
    """
    if streams.store.startswith("redis"):
        return _redis(streams)
    directory = streams.directory or streams.store.removeprefix(_DIR)
    if not directory.startswith("/"):
        return None
    try:
        from relay.stores.dir_store import DirStore

        return DirStore(directory, lambda: limits().space)
    except StoreUnusable as error:
        if streams.required:
            raise
        logger.error("%s: streams are kept in the memory of each process", error)
        return None


def _private(config: Config, environ: Mapping[str, str]) -> str:
    """The directory of `auto`: the same for who takes over from this one, with the same file and the same addresses."""
    what = "\n".join([os.path.realpath(config.path or ""), *map(str, config.server.listen)])
    name = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    base = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    try:
        base = base or tempfile.gettempdir()
        path = f"{base}/relay-streams-{os.geteuid()}-{name}"
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            os.chmod(path, 0o700)
            return path
        logger.warning("%s belongs to somebody else: streams do not outlive this relay", path)
        return tempfile.mkdtemp(prefix="relay-streams-", dir=base)
    except OSError as error:
        raise StoreUnusable(
            f"no directory for streams{f' in {base}' * bool(base)}: {error.strerror}; name one with [streams] store"
        ) from None


def put_away(config: Config) -> None:
    """The last process of a relay ends: the directory of `auto` goes, unless one that took over lives in it."""
    directory = config.streams.directory
    if config.streams.store != "auto" or not directory:
        return
    from relay.stores.dir_process import lives

    with suppress(OSError):
        processes = f"{directory}/processes"
        if any(lives(f"{processes}/{name}") for name in os.listdir(processes) if "lock" in name):
            return
    shutil.rmtree(directory, ignore_errors=True)


def _redis(streams: Streams) -> Store:
    from relay.config.values.redis_place import Place

    try:
        from relay.stores.redis_store import RedisStore
    except ImportError:
        raise StoreUnusable(
            f"streams in Redis need coredis: {INSTALL.format(extra='redis')}"
        ) from None
    return RedisStore(Place.parse(streams.store), streams.prefix)
