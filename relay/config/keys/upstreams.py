"""The keys of `[upstreams.NAME]`, and from such a table to an Upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from relay.config.reading import kinds
from relay.config.reading.kinds import plain_name
from relay.config.reading.mistakes import KeyPath, nearest, shown
from relay.config.reading.schema import INVALID, Key, ListOf, Parts, Reader, Table
from relay.config.values import HealthCheck, Upstream
from relay.config.values.filled import made_of, value_of

HEALTH: Final = Table(
    (
        Key("path", kinds.TARGET, '"/"', "What is asked for with GET, on every url."),
        Key("interval", kinds.DURATION, '"5s"', "Between two checks of a url."),
        Key("timeout", kinds.DURATION, '"2s"', "For connection and head of the answer together."),
        Key("status", ListOf(kinds.STATUS, single=True, least=1), "[200]", "What counts as well."),
        Key("rise", kinds.whole(1, 100), "2", "Successes until a url counts as up again."),
        Key("fall", kinds.whole(1, 100), "3", "Failures until a url counts as down."),
    ),
    make=lambda values: HealthCheck(**values),
)

UPSTREAM: Final = Table(
    (
        Key(
            "url",
            kinds.URL_OR_OFF,
            "",
            "`http://host:port/base`, `https://…` or `unix:/path`. `off`: there is none; only "
            "`fallback` may then name this upstream.",
            "Either this or `urls`.",
        ),
        Key("urls", ListOf(kinds.URL, least=1), "", "Several urls that serve the same."),
        Key(
            "balance",
            kinds.choice("least-streams", "round-robin"),
            '"least-streams"',
            "How one of several urls is chosen.",
            "`round-robin` suits short requests only: streams pile up on one url.",
        ),
        Key(
            "tls_ca",
            kinds.STRING,
            "",
            "PEM file of the authorities to trust for https; not set: the system's.",
        ),
        Key(
            "tls_server_name",
            kinds.STRING,
            "",
            "Name to ask and verify the certificate for; not set: the url's host.",
            "Only where the url has an address instead of the name.",
        ),
        Key(
            "request_headers",
            kinds.FIELD_EDITS,
            "{}",
            'Fields set on every request to this upstream; `""` removes one.',
            "The place for credentials: they replace what the client sent.",
        ),
        Key(
            "host_header",
            kinds.choice("upstream", "client"),
            '"upstream"',
            "Which `Host` the upstream sees.",
            "`client` only where the upstream builds links from it and trusts relay.",
        ),
        Key(
            "keepalive_idle",
            kinds.TIME,
            '"4s"',
            "How long an idle connection is kept; `0s`: not at all.",
            "Stay below the upstream's own limit (5 s in Node, uvicorn and Hypercorn).",
        ),
        Key("keepalive_connections", kinds.whole(0, 10_000), "64", "Idle connections per url."),
        Key(
            "slow_start",
            kinds.TIME,
            '"0s"',
            "A url that came back gets its full share only after this time.",
        ),
        Key("health", HEALTH, "", "Active checks of every url; not set: only real traffic tells."),
    ),
    parts=True,
)


class Upstreams:
    """The upstreams of a configuration by name; finding one notes a mistake where there is none.

    Attributes:
        found: those that are right, in the order of the file.
    """

    def __init__(self, reader: Reader, base: Path) -> None:
        self._reader = reader
        self._base = base
        self._absent: set[str] = set()  # url = "off"
        self._broken: set[str] = set()  # had a mistake of their own: not reported twice
        self.found: dict[str, Upstream] = {}

    def read(self, raw: object) -> None:
        if not isinstance(raw, dict):
            self._reader.mistake(
                ("upstreams",), f"found {shown(raw)}, expected a table: write [upstreams.NAME]"
            )
            return
        for name, each in raw.items():
            path = ("upstreams", name)
            try:
                plain_name(name)
            except ValueError as error:
                self._reader.mistake(path, str(error))
                continue
            values = self._reader.read(UPSTREAM, each, path)
            if values is INVALID or not self._add(name, values, path):
                self._broken.add(name)

    def find(self, name: str, path: KeyPath, *, optional: bool = False) -> Upstream | None:
        """The upstream called `name`; `optional`: one that is "off" is simply not there."""
        if name in self.found:
            return self.found[name]
        if name in self._absent and not optional:
            self._reader.mistake(path, f'the url of upstream {shown(name)} is "off"')
        elif name not in self._absent and name not in self._broken:
            known = (*self.found, *self._absent, *self._broken)
            hint = nearest(name, known) if known else "; there is none: write [upstreams.NAME]"
            self._reader.mistake(path, f"no upstream {shown(name)}{hint}")
        return None

    def _add(self, name: str, values: Parts, path: KeyPath) -> bool:
        given = [key for key in ("url", "urls") if key in values or key in values.broken]
        if len(given) != 1:
            both = "`url` and `urls` exclude each other" if given else "needs `url` or `urls`"
            self._reader.mistake(path, both)
            return False
        if given[0] in values.broken:
            return False
        if "url" in values:
            url = values.pop("url")
            if url is None:
                self._absent.add(name)
                return True
            values["urls"] = (url,)
        if len(set(values["urls"])) < len(values["urls"]):
            self._reader.mistake((*path, "urls"), "has the same url twice")
            return False
        if not self._tls(values, path) or values.broken:
            return False
        self.found[name] = Upstream(name, **values)
        return True

    def _tls(self, values: Parts, path: KeyPath) -> bool:
        wanted = [key for key in ("tls_ca", "tls_server_name") if key in values]
        if wanted and all(url.scheme == "http" for url in values["urls"]):
            self._reader.mistake((*path, wanted[0]), "has no effect: no url is https")
            return False
        if "tls_ca" not in values:
            return True
        file = self._base / value_of(values["tls_ca"])
        values["tls_ca"] = made_of(values["tls_ca"], str(file))
        import ssl  # loaded only where a file is named: it takes a part of the start

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError:
            self._reader.mistake((*path, "tls_ca"), "is no PEM file with certificates in it")
            return False
        except OSError as error:
            self._reader.mistake((*path, "tls_ca"), f"cannot be read: {error.strerror}")
            return False
        return True
