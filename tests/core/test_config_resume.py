"""`[streams]`, `[routes.resume]` and `[routes.auth]`: defaults, every mistake, and what `relay check` prints."""

from __future__ import annotations

from math import inf

import pytest

from relay.config import ConfigError, describe, loads
from relay.config.values import Resume, Streams

HEAD = '[upstreams.model]\nurl = "http://127.0.0.1:1"\n'
ROUTE = HEAD + '[[routes]]\npath = "/api/chat/{room}"\nmethods = ["POST"]\nupstream = "model"\n'
GET = HEAD + '[[routes]]\npath = "/logs/{id}"\nmethods = ["GET"]\nupstream = "model"\n'
RESUME = ROUTE + "[routes.resume]\n"
KEYED = RESUME + 'principal = "{cookie.session}"\nkey = "{body.id}"\n'


def only_resume(text: str) -> Resume:
    resume = loads(text, {}).routes[0].resume
    assert resume is not None
    return resume


def test_defaults() -> None:
    resume = only_resume(RESUME)
    assert resume == Resume()
    assert (resume.unwatched, resume.keep, resume.log) == (30.0, 300.0, 4 << 20)
    assert loads(RESUME, {}).streams == Streams()


def test_everything_that_can_be_said() -> None:
    resume = only_resume(
        KEYED
        + 'at = "/api/chat/{key}/stream"\nunwatched = "off"\nunwatched_runs = 2\nlog = "1MiB"\n'
        'keep = "1m"\nviewers = 3\nrepeats = "kept"\nlive_only = true\nstop = false\nhandle = "location"\n'
        'max_body = "1KiB"\n'
    )
    assert resume.at is not None and str(resume.at) == "/api/chat/{key}/stream"
    assert (resume.unwatched, resume.stop, resume.live_only) == (inf, False, True)


@pytest.mark.parametrize(
    ("principal", "stop"), [("", True), ("public", False), ("{header.x-user}", True)]
)
def test_a_public_stream_is_not_stopped_by_everybody(principal: str, stop: bool) -> None:
    line = f'principal = "{principal}"\n' if principal else 'principal = "{cookie.a}"\n'
    assert only_resume(RESUME + line + 'at = "/s/{key}"\n').stop is stop


PREFIX = "routes[0].resume"
ROWS = [
    (RESUME.replace('methods = ["POST"]\n', ""), f"{PREFIX} (line 6): exactly one method begins runs: "
     "name it in `methods` of the route"),
    (RESUME.replace('"POST"', '"POST", "GET"'), f"{PREFIX} (line 7): exactly one method begins runs: "
     "name it in `methods` of the route"),
    (RESUME + 'key = "{body.id}"\n',
     f'{PREFIX}.principal (line 7): is missing: with `key` say whose a stream is, or "public"'),
    (RESUME + 'principal = "{body.user}"\n',
     f'{PREFIX}.principal (line 8): found "{{body.user}}", expected whose a stream is, such as '
     '"{auth.x-user-id}", "{cookie.session}" or "public": {body.user} is chosen by the page, not by '
     "who sends it: header.NAME, cookie.NAME or auth.NAME"),
    (RESUME + 'principal = "ann"\n',
     f'{PREFIX}.principal (line 8): found "ann", expected whose a stream is, such as "{{auth.x-user-id}}", '
     '"{cookie.session}" or "public": it has no placeholder: everything would be the same one'),
    (RESUME + 'principal = "{auth.x-user}"\n',
     f"{PREFIX}.principal (line 8): {{auth.x-user}} needs [routes.auth]"),
    (RESUME + 'principal = "public"\nkey = "{rom}"\n',
     f'{PREFIX}.key (line 9): no route parameter "rom"; did you mean "room"?'),
    (GET + '[routes.resume]\nprincipal = "public"\nkey = "{body.id}"\n',
     f"{PREFIX}.key (line 9): {{body.id}} has no value: a GET has no body"),
    (RESUME + "reconnect = 2\n", f"{PREFIX}.reconnect (line 8): only a GET is asked again: it does nothing twice"),
    (RESUME + "live_only = true\n", f"{PREFIX}.live_only (line 8): has no effect without `at`"),
    (RESUME + "stop = true\n", f"{PREFIX}.stop (line 8): has no effect without `at`"),
    (RESUME + 'at = "/s/{id}"\n',
     f'{PREFIX}.at (line 8): found "/s/{{id}}", expected a path such as "/api/chat/{{key}}/stream": '
     "its one parameter is {key}"),
    (RESUME + 'unwatched = "5"\n',
     f'{PREFIX}.unwatched (line 8): found "5", expected a duration such as "250ms", "15s", "2m", "1h", '
     '"0s" or "off"'),
    (RESUME + "unwached = 3\n", f'{PREFIX}.unwached (line 8): unknown key; did you mean "unwatched"?'),
    (RESUME.replace('upstream = "model"', 'upstream = "model"\nstream = "bytes"'),
     f'{PREFIX} (line 8): needs events: it excludes stream = "bytes"'),
    ('[[routes]]\npath = "/"\nmethods = ["GET"]\nsource = "local"\n[routes.resume]\n',
     f'{PREFIX} (line 5): has no effect with source = "local": it brings no event stream'),
    (ROUTE + "[routes.auth]\n", "routes[0].auth.upstream (line 7): is missing: The upstream that is asked."),
    (ROUTE + '[routes.auth]\nupstream = "app"\npath = "/may"\n',
     'routes[0].auth.upstream (line 8): no upstream "app"; there is model'),
    (ROUTE + '[routes.auth]\nupstream = "model"\npath = "/may/{reply.x}"\n',
     "routes[0].auth.path (line 9): {reply.x} is not known here, only path, query, body"),
    (RESUME + '[streams]\nstore = "disk"\n',
     'streams.store (line 9): found "disk", expected "auto", "memory", "dir:/var/lib/relay/streams" or "redis://host:6379/0"'),
    (RESUME + '[streams]\nstore = "dir:streams"\n',
     "a directory is named by its whole path: dir:/var/lib/relay/streams"),
    (RESUME + '[server]\nworkers = 2\n[streams]\nstore = "memory"\n',
     "streams in memory are one process's own: with `workers` above 1 let store be `auto` or a directory"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ROWS, ids=[message for _, message in ROWS])
def test_one_mistake(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, {})
    assert message in str(caught.value)


def test_two_streams_do_not_share_an_address() -> None:
    second = '[[routes]]\npath = "/b"\nmethods = ["POST"]\nupstream = "model"\n[routes.resume]\n'
    at = 'at = "/s/{key}"\n'
    with pytest.raises(ConfigError, match="is shared with `at` of routes"):
        loads(RESUME + at + second + at, {})
    with pytest.raises(ConfigError, match=r"is shared with routes\[0\]"):
        loads(GET + '[routes.resume]\nat = "/logs/{key}"\n', {})
    loads(RESUME + 'at = "/api/chat/{key}"\n', {})  # POST begins, GET and DELETE are the stream's


def test_check_prints_where_a_stream_is_joined() -> None:
    printed = describe(loads(KEYED + 'at = "/api/chat/{key}/stream"\n', {}))
    row = next(line for line in printed.splitlines() if "/api/chat/{key}/stream" in line)
    assert row.startswith("DELETE,GET,HEAD")
    assert "principal {cookie.session}, key {body.id}, unwatched 30s" in row
    assert "no cors" in row
