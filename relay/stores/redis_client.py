"""Asking a Redis: one client, scripts by their text, and what becomes of what fails.

    run ─► connected ─► the beat of the store, until the connection ends ─► again, a little later

Rules
  * What fails is counted in `errors` and answered with None, never raised. The log says it once a minute, and the
    end of it.
  * Who asks while the connection is down waits for ASK seconds from its end on, and not at all after that: a Redis that is
    away costs a request nothing.
  * Nothing that was sent is in what is said: an error of Redis's is its first word.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio  # coredis stands on it, and lets its exceptions through
import coredis
import trio
from coredis.connection import TCPLocation
from coredis.exceptions import RedisError

from relay.config.values.redis_place import Place
from relay.stores.redis_link import OTHER_KIND, tls

if TYPE_CHECKING:
    from coredis import Redis

logger = logging.getLogger("relay")
logging.getLogger("coredis").propagate = False  # what fails is said here, once
logging.getLogger("coredis").addHandler(logging.NullHandler())

ASK: Final = 2.0  # seconds that one question may take

_QUIET: Final = 60.0  # seconds between two lines of the log

# What coredis raises where Redis fails: anyio's own where a connection ends in that moment, a RuntimeError where its pool
# was closed since the question was asked.
FAILURES: Final = (
    RedisError,
    OSError,
    RuntimeError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)


class Client:
    """One client of one Redis.

    Attributes:
        redis: it; None: there is no connection.
        since: from when on every question was answered, in time and not with a refusal: a full Redis does not have the
            leases and runs that its owners cannot write again.
        errors: what failed, by what was tried.
    """

    def __init__(self, place: Place, prefix: str) -> None:
        self.place = place
        self.prefix = prefix
        self.redis: Redis[bytes] | None = None
        self.since = 0.0
        self.errors: dict[str, int] = {}
        self._ready = trio.Event()
        self._down = 0.0  # when the connection ended
        self._scripts: dict[str, coredis.commands.Script[bytes]] = {}
        self._say_again = 0.0  # when the log may be told again; 0: nothing has failed

    async def run(
        self, beat: Callable[[Redis[bytes], Callable[[], None]], Awaitable[None]]
    ) -> None:
        """Connect, and again when it ends, for ever. `beat` runs while it is there; it says when others may ask."""
        pause = 0.1
        self._down = trio.current_time()
        while True:
            try:
                async with await self._open() as redis:
                    await redis.ping()
                    self.redis, self.since = redis, trio.current_time()
                    pause = 0.1
                    await beat(redis, self._usable)
            except* Exception as errors:  # also what a server says that is no Redis
                self.failed("connect", why(errors))
            finally:
                self.redis = None
                self._ready = trio.Event()
                self._down = trio.current_time()
            await trio.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _usable(self) -> None:
        self._ready.set()
        if self._say_again:
            self._say_again = 0.0
            logger.warning("streams: %s answers again", self.place)

    async def _open(self) -> Redis[bytes]:
        place = self.place
        more: dict[str, Any] = {
            "db": place.db,
            "username": place.user,
            "password": place.password,
            "connect_timeout": 5,
            "max_connections": 1,  # who asks waits its turn: a question takes less than a millisecond
            "decode_responses": False,
        }
        if place.path:
            return coredis.Redis(unix_socket_path=place.path, verify_version=False, **more)
        host, port = await self.where()
        context = tls(place)
        return coredis.Redis(host, port, ssl_context=context, verify_version=False, **more)

    def _sentinel(self) -> coredis.Sentinel[bytes]:
        hosts = [TCPLocation(host, port) for host, port in self.place.hosts]
        return coredis.Sentinel(hosts, decode_responses=False)

    async def where(self) -> tuple[str, int]:
        """The server's address just now. Raises: OSError."""
        place = self.place
        if not place.master:
            return place.hosts[0]
        try:
            async with self._sentinel() as sentinel:
                return await sentinel.discover_primary(place.master)
        except* (RedisError, TimeoutError) as errors:
            raise OSError(why(errors)) from None

    def key(self, kind: str, name: str) -> str:
        """A key of relay's, with the configured prefix."""
        return f"{self.prefix}{kind}:{name}"

    async def ask(self, what: str, script: str, *args: str | bytes | int) -> Any:
        """Run a script; None: it failed, which is counted under `what`."""
        if self.redis is None:
            with trio.move_on_at(self._down + ASK):
                await self._ready.wait()
        redis = self.redis
        if redis is None:
            self.count(what)
            return None
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = coredis.commands.Script[bytes](script=script)
        try:
            with trio.fail_after(ASK):
                return await known(args=[self.prefix, *args], client=redis)
        except FAILURES as error:
            if OTHER_KIND not in str(error):  # a key of another kind says nothing of Redis
                self.since = trio.current_time()
            self.failed(what, why(error))
            return None

    async def guarded(self, call: Callable[..., Awaitable[object]], *args: object) -> None:
        """A bug in here, or a reply that is none of ours, costs one answer and not the process."""
        try:
            await call(*args)
        except Exception:
            self.count("fault")
            logger.exception("a fault of relay's own, with streams in %s", self.place)

    def count(self, what: str) -> None:
        """Count a failure."""
        self.errors[what] = self.errors.get(what, 0) + 1

    def failed(self, what: str, reason: str) -> None:
        """As `count`, and say so in the log."""
        self.count(what)
        now = trio.current_time()
        if now >= self._say_again:
            self._say_again = now + _QUIET
            logger.warning("streams: %s: %s", self.place, reason)


def why(error: BaseException) -> str:
    """For people; never what was sent."""
    if isinstance(error, BaseExceptionGroup):
        return why(error.exceptions[0])
    if isinstance(error, coredis.exceptions.ResponseError):
        return str(error).partition(" ")[0]
    if isinstance(error, trio.TooSlowError):
        return "it does not answer in time"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
