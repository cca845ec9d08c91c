"""Where a Redis is: the value of `[streams] store`, read.

    redis://user:password@host:6379/0   rediss://…   redis+unix:/path?db=0   redis+sentinel://host:26379,host:26379/name/0

Rule: what is shown to people has no user and no password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

FORMS = "redis://HOST:PORT/DB, rediss://…, redis+unix:/PATH or redis+sentinel://HOST:PORT,HOST:PORT/NAME"


@dataclass(frozen=True, slots=True)
class Place:
    """One Redis, or the sentinels that know where it is.

    Attributes:
        hosts: of the server (one), or of the sentinels.
        path: of a unix socket, instead.
        master: its name, where there are sentinels.
        ca: a file of certificates to trust, `?ca=`; None: the system's.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a URL. Raises: ValueError, for people: without a word of what stands in the URL, which may be a secret."""
        scheme = text.partition(":")[0]
        try:
            parts = urlsplit(text)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            login: dict[str, Any] = {
                "user": unquote(parts.username) if parts.username else None,
                "password": unquote(parts.password) if parts.password else None,
                "ca": query.pop("ca", None),
            }
            if scheme == "redis+unix":
                path = unquote(parts.path)
                db = int(query.pop("db", "0"))
                if query or not path.startswith("/"):
                    raise ValueError
                return cls(path=path, db=db, **login)
            if scheme not in ("redis", "rediss", "redis+sentinel") or query:
                raise ValueError
            segments = parts.path.strip("/").split("/") if parts.path.strip("/") else []
            if scheme == "redis+sentinel":
                _, _, hosts = parts.netloc.rpartition("@")
                master, db = segments[0], int(segments[1]) if len(segments) > 1 else 0
                return cls(tuple(map(_sentinel, hosts.split(","))), master=master, db=db, **login)
            if not parts.hostname or len(segments) > 1:
                raise ValueError
            db = int(segments[0]) if segments else 0
            where = (parts.hostname, parts.port or 6379)
            return cls((where,), db=db, tls=scheme == "rediss", **login)
        except (ValueError, IndexError):
            raise ValueError(f"a Redis is written {FORMS}") from None

    def __str__(self) -> str:
        if self.path:
            return f"redis+unix:{self.path}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        if self.master:
            return f"redis+sentinel://{hosts}/{self.master}"
        return f"redis{'s' if self.tls else ''}://{hosts}/{self.db}"


def _sentinel(text: str) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or 26379
