"""Every kind of mistake: its key, its line, and the exact words."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config import ConfigError, Mistake, forward_config, load, loads

ROUTE = '[[routes]]\npath = "/"\nsource = "local"\n'
UPSTREAM = '[upstreams.backend]\nurl = "http://x"\n'
FORWARD = UPSTREAM + '[[routes]]\npath = "/a/{id}/{rest...}"\nupstream = "backend"\n'
ENQUEUE = (
    UPSTREAM + '[[routes]]\npath = "/a/{id}"\nsource = "enqueue"\n'
    '[routes.enqueue]\nupstream = "backend"\npath = "/m"\n[routes.follow]\npath = "/s"\n'
)
ANSWER = (
    UPSTREAM + '[[routes]]\npath = "/a/{id}"\nsource = "answer"\n'
    '[routes.answer]\nupstream = "backend"\npath = "/ask"\ntext = "t"\n'
)

DURATION = 'expected a duration such as "250ms", "15s", "2m", "1h" or "off"'
SIZE = 'expected a size such as "512B", "64KiB", "1MiB" or "off"'
ADDRESS = 'expected an address such as "127.0.0.1:8000", "[::1]:8000", "unix:/path" or "fd:3"'
URL = 'expected a url such as "http://127.0.0.1:8080" or "unix:/path"'

ROWS = [
    # The file as a whole
    ("x = ", "TOML (line 1): Invalid value (at end of document)"),
    ("a = 1\n\nb = [\n1,\n\n", "TOML (line 4): Invalid value (at end of document)"),
    ("a = 1\n\nb 1\n", "TOML (line 3): Expected '=' after a key in a key/value pair (at column 3)"
     ": it is written key = value"),
    ("a = 1\na = 2\n", "TOML (line 2): Cannot overwrite a value (at column 6): the key stands here twice"),
    ("a = 15s\n", "TOML (line 1): Expected newline or end of document after a statement (at column 7): "
     'a text stands in "quotes"'),
    ("a = yes\n", 'TOML (line 1): Invalid value (at column 5): a text stands in "quotes"'),
    ('a = "b\n', "TOML (line 1): Illegal character '\\n' (at column 7): is a \" missing?"),
    ("", "routes: there is no route, so nothing would be answered: write a [[routes]]"),
    ("routes = 5\n", "routes (line 1): found 5, expected tables [[routes]]"),
    (ROUTE + "[sever]\n", 'sever (line 4): unknown key; did you mean "server"?'),
    (ROUTE + "[zzz]\n", "zzz (line 4): unknown key; there is server, limits, timeouts, streams, "
     "upstreams, routes, translations"),
    ("server = 1\n" + ROUTE, "server (line 1): found 1, expected a table: write [server]"),
    ("upstreams = 1\n" + ROUTE, "upstreams (line 1): found 1, expected a table: write [upstreams.NAME]"),
    ("translations = []\n" + ROUTE,
     "translations (line 1): found an array, expected a table: write [translations.NAME]"),
    # A key under the wrong heading
    ('listen = "127.0.0.1:8000"\n' + ROUTE, 'listen (line 1): unknown key; "listen" is a key of [server]'),
    ('[server]\nheartbeat = "5s"\n' + ROUTE,
     'server.heartbeat (line 2): unknown key; "heartbeat" is a key of [[routes]], and a key belongs to '
     "the last heading above it"),
    (ROUTE + '[routes.cors]\norigins = ["*"]\nheartbeat = "5s"\n',
     'routes[0].cors.heartbeat (line 6): unknown key; "heartbeat" is a key of [[routes]], and a key '
     "belongs to the last heading above it"),
    (ROUTE + 'origins = ["*"]\n',
     'routes[0].origins (line 4): unknown key; "origins" is a key of [routes.cors], and a key belongs '
     "to the last heading above it"),
    (ROUTE + 'timeout = "5s"\n', 'routes[0].timeout (line 4): unknown key; did you mean "timeouts"?'),
    # [server]
    ("[server]\nwrokers = 2\n" + ROUTE, 'server.wrokers (line 2): unknown key; did you mean "workers"?'),
    ("[server]\nlisten = []\n" + ROUTE,
     "server.listen (line 2): an empty array, expected at least 1 address"),
    ("[server]\nlisten = 8000\n" + ROUTE,
     f"server.listen (line 2): found 8000, {ADDRESS}, or an array of them"),
    ('[server]\nlisten = [\n  "127.0.0.1:1",\n  "8000",\n]\n' + ROUTE,
     f'server.listen[1] (line 4): found "8000", {ADDRESS}: a host is needed: "127.0.0.1:PORT", '
     'or "0.0.0.0:PORT" for every interface'),
    ('[server]\nlisten = ["a:1", "a:1"]\n' + ROUTE,
     "server (line 1): `listen` names an address twice"),
    ('[server]\nlisten = ["a:1"]\nadmin = "a:1"\n' + ROUTE,
     "server (line 1): `admin` must not be an address of `listen`: it would be public"),
    ('[server]\nadmin = "0.0.0.0:9900"\n' + ROUTE,
     "server (line 1): `admin` can be reached from outside: it needs an `admin_token`"),
    ('[server]\nadmin_token = "a b"\n' + ROUTE,
     "server.admin_token (line 2): expected a secret without spaces"),
    ("[server]\nworkers = 0\n" + ROUTE,
     'server.workers (line 2): found 0, expected a whole number from 1 to 256, or "auto"'),
    ("[server]\nworkers = true\n" + ROUTE,
     'server.workers (line 2): found true, expected a whole number from 1 to 256, or "auto"'),
    ('[server]\ntrusted_proxies = ["10.0.0.1/8"]\n' + ROUTE,
     'server.trusted_proxies[0] (line 2): found "10.0.0.1/8", expected an address or network such '
     'as "10.0.0.0/8", or "unix": 10.0.0.1/8 has host bits set'),
    ("[server]\nproxy_protocol = true\n" + ROUTE,
     'server.proxy_protocol (line 2): found true, expected "on" or "off": it is written "on" or '
     '"off"'),
    ('[server]\nlog_query = "yes"\n' + ROUTE,
     'server.log_query (line 2): found "yes", expected true or false'),
    ('[server]\naccess_log = ""\n' + ROUTE,
     'server.access_log (line 2): found "", expected a text: it is empty'),
    *((f'[server]\nrequest_id_header = "{name}"\n' + ROUTE,
       f'server.request_id_header (line 2): found "{name}", expected a field name: it says something '
       "else") for name in ("Content-Type", "Via", "X-Forwarded-For", "Set-Cookie")),
    ('[server]\nvia = "a b"\n' + ROUTE,
     'server.via (line 2): found "a b", expected a token (letters, digits, -)'),
    # [limits], [timeouts]
    ('[limits]\nrequest_body = "1 meg"\n' + ROUTE,
     f'limits.request_body (line 2): found "1 meg", {SIZE}: the units are B, KB, KiB, MB, MiB, GB '
     "and GiB"),
    ('[limits]\nrequest_head = "off"\n' + ROUTE,
     'limits.request_head (line 2): found "off", expected a size such as "512B", "64KiB", "1MiB": '
     "it is held in memory: at most 1 GiB"),
    ("[limits]\nresponse_head = 0\n" + ROUTE,
     f"limits.response_head (line 2): found 0, {SIZE}: it must be more than 0"),
    ('[limits]\nrequest_rate = "20"\n' + ROUTE,
     'limits.request_rate (line 2): found "20", expected a rate such as "20/s", "600/m" or "off"'),
    ("[limits]\nconnections_per_address = 0\n" + ROUTE,
     'limits.connections_per_address (line 2): found 0, expected a whole number above 0, or "off"'),
    ('[timeouts]\nidle = 15\n' + ROUTE,
     f"timeouts.idle (line 2): found 15, {DURATION}: a unit is needed"),
    ('[timeouts]\nidle = "0s"\n' + ROUTE,
     f'timeouts.idle (line 2): found "0s", {DURATION}: it must be longer than 0'),
    ('[timeouts]\nidle = "15 sec"\n' + ROUTE,
     f'timeouts.idle (line 2): found "15 sec", {DURATION}: the units are ms, s, m and h'),
    ('[timeouts]\nidle = 1979-05-27\n' + ROUTE,
     f"timeouts.idle (line 2): found 1979-05-27, {DURATION}"),
    # [upstreams]
    ("[upstreams.a]\n" + ROUTE, "upstreams.a (line 1): needs `url` or `urls`"),
    ('[upstreams.a]\nurl = "http://x"\nurls = ["http://y"]\n' + ROUTE,
     "upstreams.a (line 1): `url` and `urls` exclude each other"),
    ('[upstreams.a]\nurls = ["http://x", "http://x:80/"]\n' + ROUTE,
     "upstreams.a.urls (line 2): has the same url twice"),
    ('[upstreams.a]\nurls = []\n' + ROUTE,
     "upstreams.a.urls (line 2): an empty array, expected at least 1 url"),
    ('[upstreams."a b"]\nurl = "http://x"\n' + ROUTE,
     'upstreams."a b" (line 1): a name is letters, digits, `_`, `.` and `-`'),
    ('upstreams.a = "http://x"\n' + ROUTE,
     'upstreams.a (line 1): found "http://x", expected a table: write [upstreams.a]'),
    ('[upstreams.a]\nurl = "x:80"\n' + ROUTE,
     f'upstreams.a.url (line 2): found "x:80", {URL}: it starts with http://, https:// or unix:/'),
    ('[upstreams.a]\nurl = "http://me:pa55@x/"\n' + ROUTE,
     f'upstreams.a.url (line 2): found "http://…@x/", {URL}: user and password do not belong in a '
     'url: set request_headers = { Authorization = "Basic ${CREDENTIALS}" }'),
    ('[upstreams.a]\nurl = "http://x"\nbalance = "round_robin"\n' + ROUTE,
     'upstreams.a.balance (line 3): found "round_robin", expected one of "least-streams", '
     '"round-robin"; did you mean "round-robin"?'),
    ('[upstreams.a]\nurl = "https://x"\ntls_ca = "/nope/ca.pem"\n' + ROUTE,
     "upstreams.a.tls_ca (line 3): cannot be read: No such file or directory"),
    ('[upstreams.a]\nurl = "https://x"\ntls_ca = "/dev/null"\n' + ROUTE,
     "upstreams.a.tls_ca (line 3): is no PEM file with certificates in it"),
    ('[upstreams.a]\nurl = "http://x"\ntls_server_name = "y"\n' + ROUTE,
     "upstreams.a.tls_server_name (line 3): has no effect: no url is https"),
    ('[upstreams.a]\nurl = "http://x"\nkeepalive_idle = "off"\n' + ROUTE,
     'upstreams.a.keepalive_idle (line 3): found "off", expected a duration such as "250ms", '
     '"15s", "2m", "1h": it cannot be "off"'),
    (UPSTREAM + "[upstreams.backend.health]\nstatus = 99\n" + ROUTE,
     "upstreams.backend.health.status (line 4): found 99, expected a whole number from "
     "200 to 599, or an array of them"),
    (UPSTREAM + '[upstreams.backend.health]\npath = "/{x}"\n' + ROUTE,
     'upstreams.backend.health.path (line 4): found "/{x}", expected a path such as "/health": it '
     "has no placeholders"),
    # Field edits
    (UPSTREAM + 'request_headers = { "X-A" = "1", "x-a" = "2" }\n' + ROUTE,
     'upstreams.backend.request_headers (line 3): "x-a" stands twice: the case of field names does '
     "not matter"),
    (UPSTREAM + 'request_headers = { "X A" = "1" }\n' + ROUTE,
     'upstreams.backend.request_headers."X A" (line 3): is no field name'),
    (UPSTREAM + 'request_headers = { Transfer-Encoding = "" }\n' + ROUTE,
     "upstreams.backend.request_headers.Transfer-Encoding (line 3): cannot be edited: framing and "
     "hop-by-hop fields are relay's own affair"),
    (UPSTREAM + 'request_headers = { Host = "x" }\n' + ROUTE,
     "upstreams.backend.request_headers.Host (line 3): cannot be edited: see `host_header` of the "
     "upstream"),
    (UPSTREAM + 'request_headers = { X = "pa55\\r\\nY: z" }\n' + ROUTE,
     'upstreams.backend.request_headers.X (line 3): expected a field value ("" removes the field): '
     "a line break or control character cannot stand in a field"),
    (UPSTREAM + "request_headers = { X = 1 }\n" + ROUTE,
     'upstreams.backend.request_headers.X (line 3): expected a field value ("" removes the field): '
     "it is written in quotes"),
    (UPSTREAM + 'request_headers = "X: y"\n' + ROUTE,
     'upstreams.backend.request_headers (line 3): found "X: y", '
     'expected a table: write [upstreams.backend.request_headers]'),
    # Values from outside
    (UPSTREAM + 'request_headers = { X = "${NOPE}" }\n' + ROUTE,
     "upstreams.backend.request_headers.X (line 3): the environment variable NOPE is not set"),
    (UPSTREAM + 'request_headers = { X = "{file:/nope}" }\n' + ROUTE,
     "upstreams.backend.request_headers.X (line 3): the file /nope cannot be read: No such file or "
     "directory"),
    ('[timeouts]\nidle = "${WRONG}"\n' + ROUTE, f'timeouts.idle (line 2): found "${{WRONG}}", {DURATION}'),
    # [[routes]]: the path and the methods
    ('[[routes]]\npath = "/a"\nsource = "local"\nmethods = "GET"\nlocal = { body = "x" }\n',
     'routes[0].methods (line 4): found "GET", expected an array of method: write ["GET"]'),
    ('[[routes]]\nsource = "local"\n', "routes[0].path (line 1): is missing: `{name}` is one segment, `{name...}` "
     "the rest."),
    ("[[routes]]\npath = 1\nsource = \"local\"\n",
     "routes[0].path (line 2): found 1, expected a path pattern: it is written in quotes"),
    ('[[routes]]\npath = "/{a...}/b"\nsource = "local"\n',
     'routes[0].path (line 2): found "/{a...}/b", expected a path pattern: {a...} must be the last '
     "segment"),
    (ROUTE + 'methods = ["get"]\n',
     'routes[0].methods[0] (line 4): found "get", expected a method such as "GET": methods are '
     "case-sensitive and written in capitals"),
    (ROUTE + 'methods = ["CONNECT"]\n',
     'routes[0].methods[0] (line 4): found "CONNECT", expected a method such as "GET": relay is no '
     "forward proxy"),
    (ROUTE + "methods = []\n",
     "routes[0].methods (line 4): an empty array, expected at least 1 method"),
    (ROUTE + ROUTE.replace('"/"', '"/" # again'),
     "routes[1].path (line 5): ties with routes[0] (/): both match the same paths, with a method in "
     "common"),
    (ROUTE + 'path_ = "/"\n', 'routes[0].path_ (line 4): unknown key; did you mean "path"?'),
    # [[routes]]: the stream
    (FORWARD + 'stream = "byte"\n',
     'routes[0].stream (line 6): found "byte", expected one of "auto", "bytes"; did you mean '
     '"bytes"?'),
    (FORWARD + 'stream = "bytes"\nheartbeat = "5s"\n',
     'routes[0].heartbeat (line 7): has no effect with stream = "bytes"'),
    (FORWARD + 'commit = "after"\n',
     'routes[0].commit (line 6): found "after", expected "on-head" or "after 5s"'),
    (FORWARD + 'commit = "after off"\n',
     'routes[0].commit (line 6): found "after off", expected "on-head" or "after 5s"'),
    (FORWARD + 'complete_when = "done"\n',
     'routes[0].complete_when (line 6): found "done", expected "eof", "[DONE]" or "event:NAME": did you mean "event:done"?'),
    (FORWARD + 'complete_when = "event:"\n',
     'routes[0].complete_when (line 6): found "event:", expected "eof", "[DONE]" or "event:NAME"'),
    (FORWARD + 'complete_when = ["[DONE]", "done"]\n',
     'routes[0].complete_when[1] (line 6): found "done", expected "eof", "[DONE]" or "event:NAME": '
     'did you mean "event:done"?'),
    (FORWARD + 'complete_when = "[DONE]|"\n',
     'routes[0].complete_when (line 6): found "[DONE]|", expected "eof", "[DONE]" or '
     '"event:NAME"'),
    (FORWARD + 'complete_when = ["[DONE]", "eof"]\n',
     'routes[0].complete_when (line 6): `complete_when` has "eof" and others: "eof" asks for no '
     'marker at all'),
    (FORWARD + 'complete_when = []\n',
     'routes[0].complete_when (line 6): an empty array, expected at least 1 `eof` \\| `[DONE]` '
     '\\| `event:NAME`'),
    (FORWARD + 'dialect = "ai_sdk"\n',
     'routes[0].dialect (line 6): found "ai_sdk", expected one of "plain", "named", "openai", '
     '"anthropic", "ai-sdk", "off"; did you mean "ai-sdk"?'),
    (FORWARD + 'retry_on = ["500"]\n',
     'routes[0].retry_on[0] (line 6): found "500", expected one of "refused", "timeout", "502", '
     '"503", "504", "429"'),
    (FORWARD + "retries = -1\n",
     "routes[0].retries (line 6): found -1, expected a whole number from 0 to 10"),
    (FORWARD + 'timeouts = { drain = "1s" }\n',
     "routes[0].timeouts.drain (line 6): unknown key; \"drain\" is a key of [timeouts], and a "
     "key belongs to the last heading above it"),
    (FORWARD + 'cors = { origins = ["https://a.example/"] }\n',
     'routes[0].cors.origins[0] (line 6): found "https://a.example/", expected an origin such as '
     '"https://app.example", or "*": an origin has no path, not even a slash'),
    (FORWARD + 'cors = { origins = ["*"], credentials = true }\n',
     "routes[0].cors (line 6): with `credentials` every origin must be named, \"*\" is refused"),
    (FORWARD + 'cors = { origins = ["*", "https://a.example"] }\n',
     'routes[0].cors (line 6): `origins` has "*" and others: "*" is every origin'),
    (FORWARD + "cors = { credentials = true }\n",
     "routes[0].cors.origins (line 6): is missing: Origins whose pages may read the answer: exact "
     'ones, or `"*"`.'),
    # source = "forward"
    ('[[routes]]\npath = "/"\n', "routes[0].upstream (line 1): is missing: the upstream that is asked"),
    (FORWARD.replace('"backend"', '"backnd"'),
     'routes[0].upstream (line 5): no upstream "backnd"; did you mean "backend"?'),
    ('[[routes]]\npath = "/"\nupstream = "x"\n',
     'routes[0].upstream (line 3): no upstream "x"; there is none: write [upstreams.NAME]'),
    (FORWARD.replace("http://x", "off"),
     'routes[0].upstream (line 5): the url of upstream "backend" is "off"'),
    (FORWARD + 'source = "forwrd"\n',
     'routes[0].source (line 6): found "forwrd", expected one of "forward", "enqueue", "answer", '
     '"local", "files"; did you mean "forward"?'),
    (FORWARD + 'upstream_path = "v1"\n',
     'routes[0].upstream_path (line 6): found "v1", expected a target template: it starts with "/"'),
    (FORWARD + 'upstream_path = "/{ident}"\n',
     'routes[0].upstream_path (line 6): no route parameter "ident"; there is id, rest'),
    (FORWARD + 'upstream_path = "/{res}"\n',
     'routes[0].upstream_path (line 6): no route parameter "res"; did you mean "rest"?'),
    (FORWARD + 'upstream_path = "/{body.x}"\n',
     "routes[0].upstream_path (line 6): {body.x} is not known here, only path, query"),
    (FORWARD + 'local = {}\n',
     'routes[0].local (line 6): is only read with source = "local", here it is "forward"'),
    (ROUTE + 'upstream = "x"\n',
     'routes[0].upstream (line 4): is only read with source = "forward", here it is "local"'),
    # source = "enqueue"
    (UPSTREAM + '[[routes]]\npath = "/"\nsource = "enqueue"\nenqueue = {upstream = "backend", path = "/"}\n',
     'routes[0].follow (line 3): is missing: source = "enqueue" needs [routes.follow]'),
    (ENQUEUE.replace('path = "/m"\n', ""),
     "routes[0].enqueue.path (line 6): is missing: Where the client's body is sent; `{x}`, "
     "`{query.x}`, `{body.x}`."),
    (ENQUEUE.replace("/m", "/{reply.x}"),
     "routes[0].enqueue.path (line 8): {reply.x} is not known here, only path, query, body"),
    (ENQUEUE.replace("/s", "/{ide}"),
     'routes[0].follow.path (line 10): no route parameter "ide"; did you mean "id"?'),
    (ENQUEUE + 'upstream = "nope"\n',
     'routes[0].follow.upstream (line 11): no upstream "nope"; there is backend'),
    (ENQUEUE + 'translate = "brokr"\n[translations.broker.x]\n',
     'routes[0].follow.translate (line 11): no translation "brokr"; did you mean "broker"?'),
    (ENQUEUE.replace("[routes.follow]", 'order_by = "body."\n[routes.follow]'),
     'routes[0].enqueue.order_by (line 9): found "body.", expected a JMESPath expression: it ends '
     "too early"),
    (ENQUEUE + '[routes.cancel]\npath = "/c"\nupstream = "nope"\n',
     'routes[0].cancel.upstream (line 13): no upstream "nope"; there is backend'),
    # source = "answer"
    (UPSTREAM + '[[routes]]\npath = "/"\nsource = "answer"\n',
     'routes[0].answer (line 3): is missing: source = "answer" needs [routes.answer]'),
    (ANSWER.replace('"t"', '"a[0"'),
     'routes[0].answer.text (line 9): found "a[0", expected a JMESPath expression: it ends too '
     "early"),
    (ANSWER.replace('"t"', '"a b"'),
     'routes[0].answer.text (line 9): found "a b", expected a JMESPath expression: unexpected "b" '
     "at position 3"),
    (ANSWER.replace('"t"', '"a #"'),
     'routes[0].answer.text (line 9): found "a #", expected a JMESPath expression: unexpected '
     "character at position 3"),
    (ANSWER.replace('"t"', '""'),
     'routes[0].answer.text (line 9): found "", expected a JMESPath expression: it is empty'),
    (ANSWER.replace('"t"', '"lenght(a)"'),
     'routes[0].answer.text (line 9): found "lenght(a)", expected a JMESPath expression: there is '
     "no function lenght()"),
    (ANSWER.replace('"t"', '"a[?length(b, c) > `1`]"'),
     'routes[0].answer.text (line 9): found "a[?length(b, c) > `1`]", expected a JMESPath '
     "expression: length() takes 1 arguments, not 2"),
    (ANSWER.replace('"t"', "1"),
     "routes[0].answer.text (line 9): found 1, expected a JMESPath expression: it is written in "
     "quotes"),
    (ANSWER + 'metadata = { a = "]" }\n',
     'routes[0].answer.metadata.a (line 10): found "]", expected a JMESPath expression: unexpected '
     '"]" at position 1'),
    (ANSWER + 'fallback = "nope"\n',
     'routes[0].answer.fallback (line 10): no upstream "nope"; there is backend'),
    (ANSWER + "chunk_chars = 0\n",
     "routes[0].answer.chunk_chars (line 10): found 0, expected a whole number from 1 to 1000000"),
    (ENQUEUE + "not_ready = [404, 200]\n",
     "routes[0].follow.not_ready (line 11): 200 is the stream itself"),
    (ENQUEUE + "not_ready = [102]\n",
     "routes[0].follow.not_ready[0] (line 11): found 102, expected a whole number from 200 to 599"),
    *((text + 'method = "HEAD"\n',
       f'routes[0].{table}.method (line {line}): found "HEAD", expected a method such as "GET": the '
       "answer to HEAD has no body") for table, line, text in (("answer", 10, ANSWER), ("follow", 11, ENQUEUE))),
    # source = "local", "files"
    (ROUTE + "local = { status = 600 }\n",
     "routes[0].local.status (line 4): found 600, expected a whole number from 200 to 599"),
    *((ROUTE + f"local = {{ status = {status} }}\n",
       f"routes[0].local.status (line 4): found {status}, expected a whole number from 200 to 599")
      for status in (100, 101, 103, 199)),
    *((ROUTE + f'local = {{ status = {status}, body = "x" }}\n',
       f"routes[0].local (line 4): a {status} has no body") for status in (204, 205, 304)),
    *((ROUTE + f'local = {{ content_type = "{kind}" }}\n',
       f'routes[0].local.content_type (line 4): found "{kind}", expected a media type: it begins '
       "with type/subtype") for kind in ("", "text", "text/", "a b/c", "; charset=utf-8")),
    ('[[routes]]\npath = "/"\nsource = "files"\n',
     'routes[0].files (line 1): is missing: source = "files" needs [routes.files]'),
    ('[[routes]]\npath = "/"\nsource = "files"\nfiles.directory = "/nope"\n',
     "routes[0].files.directory (line 4): is not a folder"),
    # [translations]
    (ROUTE + "[translations.t]\n",
     "translations.t (line 4): maps to nothing: no rule lets an event through"),
    (ROUTE + "[translations.t.a]\ndrop = true\n",
     "translations.t (line 4): maps to nothing: no rule lets an event through"),
    (ROUTE + "[translations.t.a]\ncarry = false\n",
     "translations.t.a (line 4): maps to nothing: no `data`, no `fields`, and `carry` is off"),
    (ROUTE + "[translations.t.a]\ndrop = true\nlast = true\n",
     "translations.t.a (line 4): `drop` swallows the event, so `last` would do nothing"),
    (ROUTE + '[translations.t."a ="]\n',
     'translations.t."a =" (line 4): is neither an event name nor a JMESPath: unexpected character '
     "at position 3"),
    (ROUTE + "[translations.t]\na = 1\n", "translations.t.a (line 5): found 1, expected a table: write "
     "[translations.t.a]"),
    (ROUTE + "[translations]\nt = 1\n", "translations.t (line 5): found 1, expected a table: write [translations.t]"),
    (ROUTE + '[translations.t]\nunmatched = "keep"\na = {}\n',
     'translations.t.unmatched (line 5): found "keep", expected one of "drop", "pass"'),
    (ROUTE + "[translations.t.a]\ndata = { at = 1979-05-27 }\n",
     "translations.t.a.data.at (line 5): found 1979-05-27, expected a JSON value: text, number, "
     "boolean, array or table"),
    (ROUTE + "[translations.t.a]\ndata = { at = [inf] }\n",
     "translations.t.a.data.at[0] (line 5): found inf, expected a JSON value: text, number, "
     "boolean, array or table"),
    (ROUTE + '[translations.t.a]\ndata = { x = "${NOPE}" }\n',
     "translations.t.a.data.x (line 5): the environment variable NOPE is not set"),
    (ROUTE + '[translations.t.a]\ndata = "x"\n',
     'translations.t.a.data (line 5): found "x", expected a table of literal members'),
    (ROUTE + '[translations.t.a]\nfields = { x = "a." }\n',
     'translations.t.a.fields.x (line 5): found "a.", expected a JMESPath expression: it ends too '
     "early"),
    (ROUTE + '[translations.t.a]\nevent = "a\\nb"\n',
     'translations.t.a.event (line 5): found "a\\nb", expected a text without line breaks: it has a '
     "control character"),
    # Translating functions
    (FORWARD + 'translate = "nope.nope:f"\n',
     'routes[0].translate (line 6): "nope.nope:f": there is no module nope, neither beside the '
     f"configuration ({Path.cwd()}) nor installed"),
    (FORWARD + 'translate = "json.nope:f"\n',
     'routes[0].translate (line 6): "json.nope:f": there is no module json.nope, neither beside the '
     f"configuration ({Path.cwd()}) nor installed"),
    (FORWARD + 'translate = "json:nope"\n',
     'routes[0].translate (line 6): "json:nope": the module has no such function'),
    (FORWARD + 'translate = "json:__name__"\n',
     'routes[0].translate (line 6): "json:__name__" is not a function'),
    (FORWARD + 'translate = "json:a b"\n',
     'routes[0].translate (line 6): found "json:a b", expected "package.module:function"'),
    (FORWARD + 'stream = "bytes"\ntranslate = "json:dumps"\n',
     'routes[0].translate (line 7): needs events: it excludes stream = "bytes"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ROWS, ids=[message for _, message in ROWS])
def test_one_mistake(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, {"WRONG": "pa55"})
    assert str(caught.value) == message
    assert "pa55" not in message


MANY = """\
[server]
wrokers = 2
[upstreams.a]
url = "ftp://x"
[[routes]]
path = "/a/{x}"
upstream = "b"
upstream_path = "/{y}"
heartbeat = 15
[[routes]]
path = "/a/{y}"
upstream = "a"
limits = { max_event = "off" }
"""


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(MANY, {}, path="/etc/relay.toml")
    assert [(mistake.key, mistake.line) for mistake in caught.value.mistakes] == [
        ("server.wrokers", 2),
        ("upstreams.a.url", 4),
        ("routes[0].upstream", 7),
        ("routes[0].upstream_path", 8),
        ("routes[0].heartbeat", 9),
        ("routes[1].path", 11),
        ("routes[1].limits.max_event", 13),
    ]
    assert caught.value.path == "/etc/relay.toml"


def test_a_text_that_is_nested_without_end() -> None:
    with pytest.raises(ConfigError):
        loads("x = " + "[" * 100_000, {})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.toml: cannot be read: No such file or directory$"):
        load(tmp_path / "nope.toml", {})
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin.toml: is not UTF-8 text$"):
        load(tmp_path / "latin.toml", {})


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f'[timeouts]\nidle = "{"x" * 1000}"\n' + ROUTE, {})
    assert f'found "{"x" * 60}…", expected' in str(caught.value)


def test_mistakes_of_the_command_line() -> None:
    with pytest.raises(ConfigError) as caught:
        forward_config("localhost:9000", ["8000", "unix:x"])
    assert caught.value.mistakes == (
        Mistake(
            "URL",
            'expected a url such as "http://127.0.0.1:9000": it starts with http://, https:// or unix:/',
        ),
        Mistake(
            "--listen",
            'a host is needed: "127.0.0.1:PORT", or "0.0.0.0:PORT" for every interface',
        ),
        Mistake("--listen", '"unix:" is followed by an absolute path'),
    )
