"""`relay check` on a good file, and the reference page."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import describe, loads, warnings
from relay.config.reference import reference

TEXT = """
[server]
listen = ["127.0.0.1:8000", "unix:/run/relay.sock"]
[upstreams.backend]
urls = ["http://a:1/base", "http://b:2"]
request_headers = { Authorization = "Bearer ${TOKEN}", Cookie = "" }
[upstreams.spare]
url = "http://spare"
[[routes]]
path = "/{rest...}"
upstream = "backend"
[[routes]]
name = "logs"
path = "/api/{id}/logs"
methods = ["GET"]
upstream = "backend"
upstream_path = "/v1/{id}?key=${TOKEN}"
heartbeat = "5s"
commit = "after 2s"
complete_when = "[DONE]"
retries = 2
retry_on = ["429", "502"]
timeouts = { idle = "off" }
limits = { max_event = "64KiB" }
cors = { origins = ["*"] }
[[routes]]
path = "/chat"
methods = ["POST"]
source = "enqueue"
enqueue = { upstream = "backend", path = "/m" }
follow = { path = "/s?m={reply.id}", translate = "json:dumps" }
cancel = { path = "/c", method = "DELETE" }
[[routes]]
path = "/ask"
source = "answer"
answer = { upstream = "backend", path = "/ask", text = "t", fallback = "backend" }
[[routes]]
path = "/health"
source = "local"
"""

DESCRIPTION = (
    """\
listen   127.0.0.1:8000, unix:/run/relay.sock
admin    off
upstream backend = http://a:1/base, http://b:2 (least-streams) sets authorization,-cookie
upstream spare = http://spare:80

METHODS  PATH            SOURCE                                POLICY
GET      /api/{id}/logs  forward backend /v1/{id}?key=${TOKEN}  """
    + (
        "name logs, heartbeat 5s, commit after 2s, complete_when [DONE], "
        "retries 2, retry_on 429/502, "
        "cors *, timeouts.idle off, limits.max_event 64KiB"
    )
    + """
any      /ask            answer POST backend /ask
                           else backend
POST     /chat           enqueue POST backend /m
                           then GET backend /s?m={reply.id}
                           translated by json:dumps
                           cancel DELETE backend /c
any      /health         local 200
any      /{rest...}      forward backend (as it came)"""
)


def test_describe() -> None:
    config = loads(TEXT, {"TOKEN": "s3cret"})
    text = describe(config)
    assert [line.split() for line in text.splitlines()] == [
        line.split() for line in DESCRIPTION.splitlines()
    ]
    rows = text.partition("\n\n")[2].splitlines()
    column = rows[0].index("SOURCE")
    assert {row[column - 2 : column] for row in rows} == {"  "}
    assert "s3cret" not in text


def test_an_upstream_that_no_route_uses_is_a_warning() -> None:
    config = loads(TEXT, {"TOKEN": "s3cret"})
    assert warnings(config) == ("upstreams.spare: no route uses it",)


CIRCULAR = [
    ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
    ("127.0.0.1:8000", "http://localhost:8000/base", True),
    ("localhost:8000", "http://[::1]:8000", True),
    ("0.0.0.0:8000", "http://127.0.0.1:8000", True),
    ("[::]:8000", "http://localhost:8000", True),
    ("10.0.0.1:8000", "http://10.0.0.1:8000", True),
    ("relay.example:8000", "https://Relay.example:8000", True),
    ("unix:/run/r.sock?mode=660", "unix:/run/r.sock", True),
    ("127.0.0.1:8000", "http://127.0.0.1:8001", False),
    ("127.0.0.1:0", "http://127.0.0.1:8000", False),
    ("10.0.0.1:8000", "http://127.0.0.1:8000", False),
    ("0.0.0.0:8000", "http://192.0.2.1:8000", False),  # it may be another machine's
    ("unix:/run/r.sock", "unix:/run/s.sock", False),
    ("unix:/run/r.sock", "http://127.0.0.1:8000", False),
    ("fd:3", "http://127.0.0.1:8000", False),
]


@pytest.mark.parametrize(("listen", "url", "circular"), CIRCULAR)
def test_an_upstream_that_leads_back_is_a_warning(listen: str, url: str, circular: bool) -> None:
    text = f"""
        server.listen = ["127.0.0.9:1", "{listen}"]
        upstreams.b.url = "{url}"
        [[routes]]
        path = "/"
        upstream = "b"
    """
    found = warnings(loads(text, {}))
    assert [w for w in found if "circle" in w] == list(found)
    assert len(found) == circular


def test_order_over_several_workers_is_a_warning() -> None:
    text = """
        server.workers = {workers}
        upstreams.b.url = "http://127.0.0.1:1"
        [[routes]]
        path = "/chat"
        source = "enqueue"
        [routes.enqueue]
        upstream = "b"
        path = "/m"
        order_by = "body.user"
        [routes.follow]
        upstream = "b"
        path = "/s?m={{reply.id}}"
    """
    assert warnings(loads(text.format(workers=1), {})) == ()
    assert warnings(loads(text.format(workers=2), {})) == (
        "/chat: order_by holds within one worker, not over all",
    )


def test_the_reference_page_is_what_the_code_checks() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
    remedy = "python -m relay.config.reference > docs/reference/configuration.md"
    assert page.read_text(encoding="utf-8") == reference(), remedy


def test_every_key_of_the_reference_has_a_meaning() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    for row in rows:
        assert len(row) == 5, row
        assert row[3].strip(), row


@pytest.mark.parametrize(
    ("head", "where"),
    [
        ("", "memory"),
        ("[server]\nworkers = 2\n", "a directory of the workers"),
        ('[streams]\nstore = "dir:/var/lib/x"\n', "dir:/var/lib/x"),
        ('[streams]\nstore = "rediss://a:secret@redis.test:1/2"\n', "rediss://redis.test:1/2"),
    ],
)
def test_it_says_where_streams_are_kept_and_not_what_lets_us_in(head: str, where: str) -> None:
    route = '[[routes]]\npath = "/a/{id}"\nmethods = ["GET"]\nupstream = "u"\n'
    route += '[routes.resume]\nprincipal = "public"\nkey = "{id}"\n'
    text = describe(loads(f'{head}[upstreams.u]\nurl = "http://u"\n{route}', {}))
    assert f", kept in {where}" in text
    assert "secret" not in text
