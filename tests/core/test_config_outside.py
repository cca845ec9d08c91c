"""What came from outside the file is used, and never printed, whatever key it stands in.

The keys are found in the schema, so a new one is tried as well.
"""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.config import ConfigError, describe, loads, warnings
from relay.config.keys.resume import AUTH, RESUME, STREAMS
from relay.config.keys.route_keys import CORS, ROUTE
from relay.config.keys.server import LIMITS, SERVER, TIMEOUTS
from relay.config.keys.sources.answer import ANSWER
from relay.config.keys.sources.enqueue import CANCEL, ENQUEUE, FOLLOW
from relay.config.keys.sources.files import FILES
from relay.config.keys.sources.local import LOCAL
from relay.config.keys.translations import RULE
from relay.config.keys.upstreams import HEALTH, UPSTREAM
from relay.config.reading.schema import ListOf, MapOf, Table
from relay.config.values import Address, Config, Url
from relay.config.values.filled import Filled, value_of, written_as

Raw = dict[str, Any]
KeyPath = tuple[str | int, ...]
SECRET = "s3cr3t-from-outside"
VALUES: dict[
    str, object
] = {  # a value of every kind of key that takes a text, each unlike any other
    "server.listen": ["127.0.0.71:7100", "unix:/tmp/s3cr3t-listen.sock"],
    "server.admin": "unix:/tmp/s3cr3t-admin.sock",
    "server.admin_token": "s3cr3t-token",
    "server.trusted_proxies": ["10.71.72.0/24"],
    "server.access_log": "/tmp/s3cr3t-access.log",
    "server.via": "s3cr3t-via",
    "server.request_id_header": "x-s3cr3t-id",
    "limits.request_rate": "71/s",
    "upstreams.a.url": "http://s3cr3t-host.example:7101/s3cr3t-base",
    "upstreams.b.urls": ["http://s3cr3t-one.example", "unix:/run/s3cr3t-two"],
    "upstreams.c.url": "https://s3cr3t-tls.example",
    "upstreams.c.tls_server_name": "s3cr3t-name.example",
    "upstreams.a.request_headers.X-Key": "s3cr3t-field",
    "upstreams.a.health.path": "/s3cr3t-health",
    "routes.0.path": "/s3cr3t-path/{id}",
    "routes.0.name": "s3cr3t-label",
    "routes.0.methods": ["S3CR3T"],
    "routes.0.upstream_path": "/x/{id}?key=s3cr3t-query",
    "routes.0.response_headers.X-Out": "s3cr3t-response",
    "routes.0.complete_when": "event:s3cr3t-done",
    "routes.0.cors.origins": ["https://s3cr3t-origin.example"],
    "routes.0.cors.methods": ["S3CR3T-CORS"],
    "routes.0.cors.headers": ["x-s3cr3t-allow"],
    "routes.0.cors.expose": ["x-s3cr3t-expose"],
    "routes.0.heartbeat": "7103ms",
    "routes.0.retries": "7",
    "routes.0.retry_hint": "7104ms",
    "routes.0.first_event": "7105ms",
    "routes.0.commit": "after 7106ms",
    "routes.0.timeouts.idle": "7107ms",
    "routes.0.limits.max_event": "7108B",
    "routes.1.path": "/s3cr3t-enqueue",
    "routes.1.enqueue.path": "/s3cr3t-job/{body.s3cr3t-member}",
    "routes.1.enqueue.order_by": "body.s3cr3t",
    "routes.1.follow.path": "/s3cr3t-stream/{reply.id}",
    "routes.1.cancel.path": "/s3cr3t-cancel/{reply.id}",
    "routes.1.follow.method": "S3CR3T-FOLLOW",
    "routes.2.path": "/s3cr3t-answer",
    "routes.2.answer.path": "/s3cr3t-ask",
    "routes.2.answer.text": "s3cr3t_text",
    "routes.2.answer.require": ["s3cr3t-require"],
    "routes.3.path": "/s3cr3t-local",
    "routes.3.local.body": "s3cr3t-body",
    "routes.3.local.content_type": "text/s3cr3t",
    "routes.3.local.status": "471",
    "translations.t.done.event": "s3cr3t-event",
    "translations.t.done.data.token": "s3cr3t-data",
}
NUMBERS = ("7103", "7104", "7105", "7106", "7107", "7108", "471", "7.1")
BASE: Raw = {
    "server": {},
    "upstreams": {
        "a": {"url": "http://a"},
        "b": {"urls": ["http://b"]},
        "c": {"url": "https://c"},
    },
    "routes": [
        {"path": "/a", "upstream": "a", "translate": "t"},
        {
            "path": "/b",
            "source": "enqueue",
            "enqueue": {"upstream": "b", "path": "/"},
            "follow": {"path": "/"},
            "cancel": {"path": "/"},
        },
        {"path": "/c", "source": "answer", "answer": {"upstream": "c", "path": "/", "text": "x"}},
        {"path": "/d", "source": "local", "local": {}},
        {"path": "/{rest...}", "upstream": "a"},
    ],
    "translations": {"t": {"done": {}}},
}


def toml(value: object) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def document(raw: Raw) -> str:
    return "\n".join(f"{name} = {toml(value)}" for name, value in raw.items())


def put(raw: Any, key: str, value: object) -> None:
    """Set the value of a key with dots in it."""
    *way, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in way:
        raw = raw[part] if isinstance(part, int) else raw.setdefault(part, {})
    raw[last] = value


def configured(*, filled: bool) -> Config:
    """Every value as it is, or from the environment."""
    raw = json.loads(json.dumps(BASE))
    environ: dict[str, Any] = {}
    for number, (key, value) in enumerate(VALUES.items()):
        texts = value if isinstance(value, list) else [value]
        names = [f"V{number}_{index}" for index in range(len(texts))]
        environ.update(zip(names, texts, strict=True))
        places: list[object] = [f"${{{name}}}" for name in names] if filled else list(texts)
        put(raw, key, places if isinstance(value, list) else places[0])
    return loads(document(raw), environ)


PRINTED = ("name", "_parts")  # they have what is printed


def values_in(value: object) -> Iterator[object]:
    """What a configuration comes to, as far as it can be compared: no functions."""
    if is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            if each.compare and not each.name.startswith(PRINTED):
                yield from values_in(getattr(value, each.name))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name in value._fields:
            if not name.startswith(PRINTED):
                yield from values_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from values_in(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from values_in(each)
    elif not callable(value):
        yield value


def test_a_value_from_outside_works_as_if_it_stood_in_the_file() -> None:
    assert list(values_in(configured(filled=True))) == list(values_in(configured(filled=False)))


def test_nothing_that_is_printed_shows_it() -> None:
    config = configured(filled=True)
    told = describe(config) + "\n".join(warnings(config)) + repr(config)
    told += "".join(str(each) for each in config.server.listen) + f"{config.server.admin}"
    for upstream in config.upstreams.values():
        told += "".join(f"{url} {url!r}" for url in upstream.urls) + repr(upstream)
    for route in config.routes:
        told += f"{route.name} {route.pattern} {route!r}"
    assert "s3cr3t" not in told.lower()
    for number in NUMBERS:
        assert number not in describe(config)


def test_what_is_printed_instead_is_what_was_written() -> None:
    raw = json.loads(json.dumps(BASE))
    put(raw, "upstreams.a.url", "http://${HOST}:${PORT}/x/${TOKEN}")
    put(raw, "routes.0.path", "/hook/${TOKEN}/{id}")
    put(raw, "routes.0.heartbeat", "${BEAT}s")
    put(raw, "server.listen", ["unix:${DIR}/relay.sock"])
    environ = {"HOST": "h", "PORT": "1", "TOKEN": SECRET, "BEAT": "77", "DIR": "/tmp"}
    config = loads(document(raw), environ)
    assert str(config.upstreams["a"].urls[0]) == "http://${HOST}:${PORT}/x/${TOKEN}"
    assert config.upstreams["a"].urls[0].base_path == f"/x/{SECRET}"
    [hook] = [route for route in config.routes if route.heartbeat == 77]
    assert hook.name == "/hook/${TOKEN}/{id}"
    assert str(config.server.listen[0]) == "unix:${DIR}/relay.sock"
    assert config.server.listen[0].text == "unix:/tmp/relay.sock"
    text = describe(config)
    assert "heartbeat ${BEAT}s" in text
    assert "listen   unix:${DIR}/relay.sock" in text


def test_a_default_stands_in_the_file() -> None:
    url = "http://${HOST:-127.0.0.1}:${PORT:-8080}"
    raw = json.loads(json.dumps(BASE))
    put(raw, "upstreams.a.url", url)
    assert str(loads(document(raw), {}).upstreams["a"].urls[0]) == "http://127.0.0.1:8080"
    assert str(loads(document(raw), {"PORT": "9"}).upstreams["a"].urls[0]) == url


def test_two_urls_that_differ_outside_are_two() -> None:
    """What is printed counts for nothing where values are compared."""
    same = Url("http", "a", 80, written="${A}")
    assert same == Url("http", "a", 80)
    assert same != Url("http", "b", 80, written="${A}")
    assert Address("tcp", "a", 1, written="${A}") == Address("tcp", "a", 1)


# -- every key of the schema, with a text that it cannot take --------------------------------------


def keys_of(table: Table, at: str) -> Iterator[str]:
    """The keys of a table that take a text, those of the tables in it too."""
    for key in table.keys:
        kind = key.kind
        if isinstance(kind, Table):
            yield from keys_of(kind, f"{at}.{key.name}")
        elif isinstance(kind, MapOf):
            yield f"{at}.{key.name}.X-Any"
        elif isinstance(kind, ListOf):
            yield f"{at}.{key.name}[]"
        else:
            yield f"{at}.{key.name}"


TABLES = [
    (SERVER, "server"), (LIMITS, "limits"), (TIMEOUTS, "timeouts"), (STREAMS, "streams"),
    (UPSTREAM, "upstreams.a"), (HEALTH, "upstreams.a.health"), (ROUTE, "routes.0"),
    (CORS, "routes.0.cors"), (RESUME, "routes.0.resume"), (AUTH, "routes.0.auth"),
    (ENQUEUE, "routes.1.enqueue"), (FOLLOW, "routes.1.follow"), (CANCEL, "routes.1.cancel"),
    (ANSWER, "routes.2.answer"), (LOCAL, "routes.3.local"), (FILES, "routes.3.files"),
    (RULE, "translations.t.done"),
]  # fmt: skip
EVERY_KEY = sorted({key for table, at in TABLES for key in keys_of(table, at)})
AFFIXES = [  # around the secret, so that it gets past one check or another
    ("", ""), ("/", ""), ("/{", "}"), ("http://", "/"), ("http://h/", "?x"), ("unix:/", ""),
    ("unix:/run/", ""), ("127.0.0.1:", ""), ("{body.", "}"), ("{", "}"), ("os:", ""), ("event:", ""),
    ("https://", ""), ("", "("), ("after ", ""), ("", "\\n"),
]  # fmt: skip


@pytest.mark.parametrize("key", EVERY_KEY)
def test_a_secret_in_any_key(key: str) -> None:
    """Right or wrong there, alone or with something around it: neither the mistake, nor its traceback, nor
    what is printed of the configuration has it.
    """
    for before, after in AFFIXES:
        raw = json.loads(json.dumps(BASE))
        text = f"{before}${{SECRET}}{after}"
        put(raw, key.removesuffix("[]"), [text] if key.endswith("[]") else text)
        try:
            config = loads(document(raw), {"SECRET": SECRET})
        except ConfigError as error:
            told = "".join(traceback.format_exception(error)) + repr(error.mistakes)
        else:
            told = describe(config) + repr(config) + "".join(warnings(config))
        assert SECRET not in told, (key, text)
        assert SECRET.replace("-", "_") not in told


def test_the_keys_are_found() -> None:
    assert len(EVERY_KEY) > 110
    for key in VALUES:
        if not key.startswith("translations"):
            parts = [part for part in key.split(".") if not part.isdigit()]
            assert any(found.removesuffix("[]").endswith(parts[-1]) for found in EVERY_KEY) or (
                parts[-1] in ("X-Key", "X-Out")
            ), key


# -- the type --------------------------------------------------------------------------------------


def test_a_filled_text_prints_as_it_was_written() -> None:
    text = Filled(SECRET, "${X}")
    assert (str(text), repr(text), f"{text}", f"{text:>6}") == ("${X}", "'${X}'", "${X}", "  ${X}")
    assert "%s" % text == "${X}"  # noqa: UP031 - logging does it so
    assert text == SECRET
    assert text.encode() == SECRET.encode()
    assert value_of(text) == SECRET
    assert type(value_of(text)) is str
    assert written_as(text) == "${X}"
    assert Path(value_of(text)).name == SECRET


def test_a_copy_prints_as_the_original() -> None:
    for outside in (True, False):
        text = Filled(SECRET, "${X}", outside=outside)
        again = copy.deepcopy(text)
        assert (again, str(again), again.written) == (text, str(text), "${X}")
