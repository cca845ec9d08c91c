"""A whole file becomes values, and what a file leaves out is what the reference page says."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from math import inf
from pathlib import Path

import pytest

from relay.config import forward_config, loads, parse_address
from relay.config.keys.route_keys import CORS, ROUTE
from relay.config.keys.server import LIMITS, SERVER, TIMEOUTS
from relay.config.keys.sources.answer import ANSWER, Answer
from relay.config.keys.sources.enqueue import CANCEL, ENQUEUE, FOLLOW, Enqueue
from relay.config.keys.sources.files import Files
from relay.config.keys.sources.local import LOCAL, Local
from relay.config.keys.sources.steps import Step
from relay.config.keys.translations import RULE
from relay.config.keys.upstreams import HEALTH, UPSTREAM
from relay.config.reading.interpolation import Interpolation
from relay.config.reading.lines import Lines
from relay.config.reading.schema import REQUIRED, Reader, Table
from relay.config.values import (
    Cors,
    Forward,
    HealthCheck,
    Limits,
    Route,
    Rule,
    Server,
    Timeouts,
    Upstream,
)
from relay.sse.event import Event

DESIGN = """
[server]
listen = ["127.0.0.1:8000", "unix:/run/relay.sock?mode=660"]
admin = "127.0.0.1:9900"
workers = "auto"
trusted_proxies = ["10.0.0.0/8", "::1"]
proxy_protocol = "on"

[limits]
request_head = "8KiB"
request_rate = "20/s"
request_body_rate = "1KiB/s"
connections_per_address = 7

[timeouts]
idle = "10m"

[upstreams.backend]
urls = ["http://127.0.0.1:8080/base/", "https://b"]
balance = "round-robin"
request_headers = { Authorization = "Bearer ${BACKEND_TOKEN}", Cookie = "" }
[upstreams.backend.health]
path = "/health"
status = [200, 204]
[upstreams.none]
url = "${FALLBACK_URL:-off}"

[[routes]]
path = "/api/{rest...}"
upstream = "backend"

[[routes]]
path = "/api/v1/workloads/{id}/logs"
methods = ["GET"]
upstream = "backend"
upstream_path = "/v1/workloads/{id}/logs"
commit = "after 5s"
complete_when = "event:done"
retry_on = ["429", "refused"]
cors = { origins = ["https://App.example"], credentials = true }
timeouts = { idle = "off", connect = "1s" }
limits = { max_event = "64KiB" }

[[routes]]
path = "/api/chat/stream"
methods = ["POST"]
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/api/v1/message"
order_by = "body.user_id"
[routes.follow]
path = "/api/v1/stream?user_id={body.user_id}&message_id={reply.message_id}"
translate = "broker"
[routes.cancel]
path = "/api/v1/message/{reply.message_id}"
method = "DELETE"

[translations.broker]
unmatched = "pass"
[translations.broker.queued]
data = { type = "status", state = "${STATE}", more = [1, { x = "$${y}" }] }
[translations.broker."type == 'progress'"]
fields = { text = "text" }
carry = false
[translations.broker.done]
data = { type = "complete" }
last = true

[[routes]]
path = "/api/ask/stream"
methods = ["POST"]
source = "answer"
[routes.answer]
upstream = "backend"
path = "/api/ask"
require = ["query"]
text = "response"
metadata = { confidence = "confidence", sources = "sources" }
pace = "0s"
fallback = "none"

[[routes]]
path = "/hello"
source = "local"
local = { body = "hello\\n" }
"""


def test_the_whole_design() -> None:
    config = loads(DESIGN, {"BACKEND_TOKEN": "t", "STATE": "queued"})
    assert [str(address) for address in config.server.listen] == [
        "127.0.0.1:8000",
        "unix:/run/relay.sock",
    ]
    assert config.server.listen[1].mode == 0o660
    assert config.server.workers == len(os.sched_getaffinity(0))
    assert config.server.proxy_protocol
    assert config.limits.request_head == 8192
    assert config.limits.request_rate == 20.0
    assert config.limits.request_body_rate == 1024
    assert config.limits.connections_per_address == 7
    backend = config.upstreams["backend"]
    assert "none" not in config.upstreams
    assert [str(url) for url in backend.urls] == ["http://127.0.0.1:8080/base", "https://b:443"]
    assert backend.request_headers.set == ((b"authorization", b"Bearer t"),)
    assert backend.request_headers.remove == {b"cookie"}
    assert backend.health == HealthCheck(path="/health", status=(200, 204))
    assert [route.pattern.text for route in config.routes] == [
        "/api/ask/stream",
        "/api/chat/stream",
        "/api/v1/workloads/{id}/logs",
        "/api/{rest...}",
        "/hello",
    ]
    ask, chat, logs, rest, hello = config.routes
    assert rest.source == Forward(backend)
    assert rest.timeouts is not config.timeouts
    assert rest.timeouts == config.timeouts
    assert hello.source == Local(body=b"hello\n")
    assert logs.methods == frozenset({b"GET"})
    assert logs.commit_after == 5.0
    assert logs.complete_when == b"event:done"
    assert logs.retry_on == {"429", "refused"}
    assert logs.cors == Cors((b"https://app.example",), credentials=True)
    assert (logs.timeouts.idle, logs.timeouts.connect, logs.timeouts.write) == (inf, 1.0, 30.0)
    assert (logs.limits.max_event, logs.limits.request_head) == (65536, 8192)
    assert isinstance(ask.source, Answer)
    assert ask.source.fallback is None
    assert ask.source.pace == 0.0
    assert ask.source.text({"response": "r"}) == "r"
    assert ask.source.metadata["sources"]({"sources": [1]}) == [1]
    assert isinstance(chat.source, Enqueue)
    assert chat.source.enqueue.upstream is chat.source.follow.upstream is backend
    assert (chat.source.enqueue.method, chat.source.follow.method) == (b"POST", b"GET")
    assert chat.source.cancel is not None
    assert chat.source.cancel.method == b"DELETE"
    assert chat.source.order_by is not None
    assert chat.source.order_by({"body": {"user_id": "u"}}) == "u"


def test_a_translation() -> None:
    config = loads(DESIGN, {"BACKEND_TOKEN": "t", "STATE": "queued"})
    source = config.routes[1].source
    assert isinstance(source, Enqueue)
    assert source.translate is not None
    assert source.translate.unmatched == "pass"
    queued, progress, done = source.translate.rules
    assert queued.name == "queued"
    assert queued.when is None
    assert queued.data == {"type": "status", "state": "queued", "more": [1, {"x": "${y}"}]}
    assert progress.when is not None
    assert progress.when({"type": "progress"}) is True
    assert not progress.carry
    assert progress.fields["text"]({"text": "x"}) == "x"
    assert done.last


def test_an_expression_never_raises() -> None:
    text = '[upstreams.a]\nurl = "http://x"\n[[routes]]\npath = "/"\nsource = "answer"\n'
    text += '[routes.answer]\nupstream = "a"\npath = "/"\ntext = "join(\'\', x)"\n'
    source = loads(text, {}).routes[0].source
    assert isinstance(source, Answer)
    assert source.text({"x": ["a", "b"]}) == "ab"
    assert source.text({"x": 1}) is None
    assert source.text(None) is None


def test_a_function_is_imported_from_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "relay_test_translator.py").write_text("def quiet(event):\n    return ()\n")
    text = '[upstreams.a]\nurl = "http://x"\n[[routes]]\npath = "/"\nupstream = "a"\n'
    text += 'translate = "relay_test_translator:quiet"\n'
    before = list(sys.path)
    config = loads(text, {}, path=str(tmp_path / "relay.toml"))
    assert sys.path == before
    source = config.routes[0].source
    assert isinstance(source, Forward)
    assert source.translate is not None
    assert source.translate.function is not None
    assert list(source.translate.function(Event(data="x"))) == []
    assert config.path == str(tmp_path / "relay.toml")


def test_a_folder_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    text = '[[routes]]\npath = "/{p...}"\nsource = "files"\nfiles.directory = "page"\n'
    config = loads(text, {}, path=str(tmp_path / "relay.toml"))
    assert config.routes[0].source == Files(str(tmp_path / "page"))


def test_forward_takes_everything_to_one_upstream() -> None:
    config = forward_config("http://127.0.0.1:9000", ["[::1]:0", "fd:3"])
    assert config.server.listen == (parse_address("[::1]:0"), parse_address("fd:3"))
    assert [route.pattern.text for route in config.routes] == ["/{path...}"]
    assert config.routes[0].source == Forward(
        Upstream("upstream", config.upstreams["upstream"].urls)
    )
    assert str(forward_config("http://x").server.listen[0]) == "127.0.0.1:8000"


def test_forward_starts_without_what_it_does_not_need() -> None:
    heavy = (
        "jmespath",
        "tomllib",
        "difflib",
        "relay.config.loading",
        "relay.config.reading.schema",
    )
    script = (
        "import sys; from relay.config import forward_config; forward_config('http://x');"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "[]\n"


# The reference says what a key is when it is not set; values.py is what it then is.
DEFAULTS: list[tuple[Table, type, dict[str, str]]] = [
    (SERVER, Server, {}),
    (LIMITS, Limits, {}),
    (TIMEOUTS, Timeouts, {}),
    (HEALTH, HealthCheck, {}),
    (UPSTREAM, Upstream, {}),
    (CORS, Cors, {}),
    (ENQUEUE, Enqueue, {"max_body": "max_body", "order_wait": "order_wait"}),
    (ENQUEUE, Step, {"timeout": "timeout", "method": "method"}),
    (FOLLOW, Step, {"not_ready": "not_ready", "not_ready_for": "not_ready_for"}),
    (CANCEL, Step, {"timeout": "timeout", "method": "method"}),
    (ANSWER, Answer, {}),
    (LOCAL, Local, {}),
    (ROUTE, Route, {"commit": "commit_after"}),
    (RULE, Rule, {}),
]
_ELSEWHERE = {"source", "timeouts", "limits", "listen"}


def names_of(kind: type) -> set[str]:
    """The fields of a named tuple or dataclass."""
    return {each.name for each in fields(kind)} if is_dataclass(kind) else set(kind._fields)  # type: ignore[attr-defined]


def defaults_of(kind: type) -> dict[str, object]:
    if not is_dataclass(kind):
        return dict(kind._field_defaults)  # type: ignore[attr-defined]
    return {each.name: each.default for each in fields(kind) if each.default is not MISSING}


@pytest.mark.parametrize(
    ("table", "kind", "names"), DEFAULTS, ids=[kind.__name__ for _, kind, _ in DEFAULTS]
)
def test_documented_defaults_are_the_defaults(
    table: Table, kind: type, names: dict[str, str]
) -> None:
    reader = Reader(Interpolation({}, Path.cwd()))
    defaults = defaults_of(kind)
    compared = 0
    for key in table.keys:
        if names and key.name not in names and kind is not Route:
            continue
        name = names.get(key.name, key.name)
        if key.default in ("", REQUIRED) or key.name in _ELSEWHERE or name not in defaults:
            continue
        value = reader.read(key.kind, tomllib.loads(f"x = {key.default}")["x"], (key.name,))
        assert value == (defaults[name] if defaults[name] is not None else value), key.name
        compared += 1
    assert not reader.mistakes
    assert compared >= (len(names) or 1)


def test_every_key_of_the_values_can_be_written() -> None:
    for table, kind in ((SERVER, Server), (LIMITS, Limits), (TIMEOUTS, Timeouts)):
        assert {key.name for key in table.keys} == names_of(kind)
    written = {key.name for key in ROUTE.keys} | {"pattern", "commit_after", "expects_events"}
    assert names_of(Route) <= written


def test_lines() -> None:
    text = (
        "# a comment = 1\n"
        'a = "x # no comment" # one\n'
        "b.c = '''\n[no.table]\nd = 1'''\n"
        "[t]\n"
        'list = [ # here\n  "one",\n  { k = 1, "q.r" = [1,\n 2] },\n]\n'
        "[[r]]\nx = 1\n"
        "[r.sub]\ny = 1979-05-27T07:32:00Z\n"
        '[[r]]\n"x" = """\n\\"""\n""""\n'
        "[ r . sub ]\ny = -1.5e3\nz=[[1],[2]]\n"
    )
    tomllib.loads(text)
    lines = Lines(text)
    assert {
        path: lines.find(path)
        for path in [
            ("a",),
            ("b",),
            ("b", "c"),
            ("t", "list"),
            ("t", "list", 0),
            ("t", "list", 1, "k"),
            ("t", "list", 1, "q.r", 1),
            ("r", 0, "x"),
            ("r", 0, "sub", "y"),
            ("r", 1, "x"),
            ("r", 1, "sub", "z", 1, 0),
            ("r", 1, "nothing", "here"),
        ]
    } == {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 3,
        ("t", "list"): 7,
        ("t", "list", 0): 8,
        ("t", "list", 1, "k"): 9,
        ("t", "list", 1, "q.r", 1): 10,
        ("r", 0, "x"): 13,
        ("r", 0, "sub", "y"): 15,
        ("r", 1, "x"): 17,
        ("r", 1, "sub", "z", 1, 0): 22,
        ("r", 1, "nothing", "here"): 16,
    }
    assert lines.find(("nothing",)) is None
