"""Names that a CGI reads as one: whatever a peer spells, what relay sets or removes stands alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.bodies import ChunkReader, Fields
from relay.http.fault import Fault
from relay.http.fields import (
    client_view,
    interim_fields,
    request_fields,
    request_late,
    response_fields,
    response_late,
)
from relay.http.heads import RequestHead, ResponseHead, parse_request, parse_response
from relay.http.names import folded, is_odd

ID = b"x-request-id"
SET = ((b"x-api-key", b"secret"), (b"authorization", b"Bearer secret"), (b"x_under", b"1"))
REMOVE = frozenset((b"x-internal-user", b"cookie"))
TRUSTED = "10.0.0.1"
OURS = {  # what relay writes into a request: each once
    b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded",
    ID, b"x-api-key", b"authorization", b"x_under",
}  # fmt: skip


def variable(name: bytes) -> str:
    """The variable of a CGI (RFC 3875 §4.1.18), said in another way than relay does."""
    return re.sub(r"[^A-Z0-9]", "_", name.decode("latin-1").upper())


def request_head(*lines: bytes) -> RequestHead:
    parsed = parse_request(
        b"\r\n".join([b"POST / HTTP/1.1", b"Host: app.example", *lines, b"", b""]), 16384
    )
    assert parsed is not None
    return parsed[0]


def response_head(*lines: bytes, status: int = 200) -> ResponseHead:
    parsed = parse_response(
        b"\r\n".join([b"HTTP/1.1 %d X" % status, *lines, b"", b""]), b"GET", 16384
    )
    assert parsed is not None
    return parsed[0]


def upstream(head: RequestHead, peer: str = "192.0.2.7") -> Fields:
    from ipaddress import ip_network

    return request_fields(
        head,
        authority=b"backend",
        client=client_view(head, peer, (ip_network(TRUSTED),)),
        via=b"relay",
        request_id=b"id-1",
        request_id_header=ID,
        set_fields=SET,
        remove=REMOVE,
        event_stream=True,
    )


def downstream(head: ResponseHead) -> Fields:
    return response_fields(
        head, via=b"relay", request_id=b"1", request_id_header=ID, set_fields=SET, remove=REMOVE
    )


SPELLINGS = [
    b"X_Api_Key", b"X.Api.Key", b"x~api-key", b"X-Api!Key", b"Authorization", b"x-under", b"X.Under",
    b"X_Internal_User", b"X-Internal.User", b"X_Request_Id", b"X'Request-Id",
    b"X_Forwarded_For", b"X.Forwarded.For", b"X~Forwarded~Proto", b"X_Forwarded-Host",
    b"X_Forwarded_User", b"X-Forwarded_Client_Cert", b"X|Real|IP", b"CF_Connecting_IP",
    b"True.Client.IP", b"X_Original_URL", b"Accept_Encoding",
    b"Last_Event_Id", b"Max.Forwards", b"Proxy_Connection", b"Proxy.Authorization", b"Keep_Alive", b"HTTP2_Settings",
]  # fmt: skip


@pytest.mark.parametrize("peer", ["192.0.2.7", TRUSTED])
@pytest.mark.parametrize("name", SPELLINGS)
def test_an_odd_spelling_in_a_request_is_dropped(name: bytes, peer: str) -> None:
    """From a trusted proxy too: it has cleaned the name that it knows, and not this one."""
    fields = upstream(request_head(b"Accept: text/event-stream", name + b": mine"), peer)
    assert b"mine" not in b" ".join(value for _, value in fields)


@pytest.mark.parametrize("name", [b"X_Sum", b"x.y", b"X~", b"_", b"X-Api-Key_", b"XApiKey"])
def test_other_odd_names_pass(name: bytes) -> None:
    assert (name.lower(), b"mine") in upstream(request_head(name + b": mine"))
    assert (name.lower(), b"mine") in downstream(response_head(name + b": mine"))


def test_a_trusted_proxy_keeps_the_claims_it_spells_plainly() -> None:
    head = request_head(b"X-Forwarded-User: ada", b"X_Forwarded_User: eve", b"X-Real-IP: 192.0.2.9")
    fields = upstream(head, TRUSTED)
    assert (b"x-forwarded-user", b"ada") in fields
    assert (b"x-real-ip", b"192.0.2.9") in fields
    assert b"eve" not in b" ".join(value for _, value in fields)


def test_what_connection_names_goes_under_every_spelling() -> None:
    head = request_head(b"Connection: X-Private", b"X_Private: 1", b"X-Private: 2", b"X_Other: 3")
    assert [name for name, _ in upstream(head) if b"private" in name or b"other" in name] == [
        b"x_other"
    ]


@pytest.mark.parametrize(
    "name", [b"X_Api_Key", b"X.Internal_User", b"X_Request_Id", b"Cache_Control", b"Keep.Alive"]
)
def test_an_odd_spelling_in_a_response_is_dropped(name: bytes) -> None:
    assert b"mine" not in [value for _, value in downstream(response_head(name + b": mine"))]
    hints = response_head(name + b": mine", b"Link: <a>", status=103)
    assert interim_fields(hints, request_id_header=ID, set_fields=SET, remove=REMOVE) == [
        (b"link", b"<a>")
    ]


def test_what_a_route_removes_does_not_come_early() -> None:
    hints = response_head(b"Cookie: mine", b"X-Api-Key: mine", b"Link: <a>", status=103)
    assert interim_fields(hints, request_id_header=ID, set_fields=SET, remove=REMOVE) == [
        (b"link", b"<a>")
    ]


# -- trailers --------------------------------------------------------------------------------------


def request_trailers(head: RequestHead, *lines: bytes) -> Fields:
    late = request_late(head, request_id_header=ID, set_fields=SET, remove=REMOVE)
    reader = ChunkReader("client", late)
    reader.feed(b"0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    assert reader.done
    return reader.trailers


def response_trailers(head: ResponseHead, *lines: bytes) -> Fields:
    late = response_late(head, request_id_header=ID, set_fields=SET, remove=REMOVE)
    reader = ChunkReader("upstream", late)
    reader.feed(b"0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    assert reader.done
    return reader.trailers


PLAIN = [b"X-Api-Key", b"X-Under", b"X-Internal-User", b"Cookie", b"X-Request-Id"]
BARRED_BY_THE_RFC = [
    b"Set-Cookie", b"Set_Cookie", b"Cache-Control", b"Content-Type", b"Content.Encoding", b"Host",
    b"Trailer", b"TE", b"Authorization", b"WWW-Authenticate", b"Location", b"Retry-After", b"Vary",
    b"If-Match", b"If_None_Match", b"Access-Control-Allow-Origin", b"Via", b"Connection", b"Date",
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *SPELLINGS,
        *PLAIN,
        *BARRED_BY_THE_RFC,
        b"Forwarded",
        b"Proxy",
        b"X-Forwarded-For",
        b"X-Real-IP",
    ],
)
def test_trailers_of_a_request(name: bytes) -> None:
    """What relay sets, removes or writes does not return as a trailer; the others go on."""
    head = request_head(b"Transfer-Encoding: chunked")
    assert request_trailers(head, b"X-Sum: 1", name + b": mine", b"x_sum: 2") == [
        (b"x-sum", b"1"),
        (b"x_sum", b"2"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"X_Api_Key",
        b"X.Internal.User",
        *PLAIN,
        *BARRED_BY_THE_RFC,
        b"Content-Length",
        b"Transfer_Encoding",
    ],
)
def test_trailers_of_a_response(name: bytes) -> None:
    """The body was whole before they came, so nothing in them makes it look broken."""
    head = response_head(b"Transfer-Encoding: chunked")
    assert response_trailers(head, b"ETag: 1", name + b": mine", b"x_sum: 2") == [
        (b"etag", b"1"),
        (b"x_sum", b"2"),
    ]


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"Content_Length"])
def test_framing_among_the_trailers_of_a_request_is_refused(name: bytes) -> None:
    with pytest.raises(Fault) as caught:
        request_trailers(request_head(b"Transfer-Encoding: chunked"), name + b": 5")
    assert caught.value.status == 400


def test_trailers_that_connection_names() -> None:
    lines = (b"Transfer-Encoding: chunked", b"Connection: X-Private")
    trailers = (b"X_Private: 1", b"X-Private: 1", b"X-Sum: 1")
    assert request_trailers(request_head(*lines), *trailers) == [(b"x-sum", b"1")]
    assert response_trailers(response_head(*lines), *trailers) == [(b"x-sum", b"1")]


# -- any name --------------------------------------------------------------------------------------

ODD = st.sampled_from("!#$%&'*+-.^_`|~")
KNOWN = st.sampled_from(
    sorted(OURS | REMOVE | {b"accept-encoding", b"keep-alive", b"x-real-ip", b"x-forwarded-prefix"})
)


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """A name that relay knows, with other characters between its words; or any token."""
    if draw(st.booleans()):
        text = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12)
        return draw(text).encode()
    written = draw(KNOWN).decode()
    return "".join(c if c.isalnum() else draw(ODD) for c in written).encode()


@given(st.lists(names(), max_size=6), st.sampled_from(["192.0.2.7", TRUSTED]))
def test_a_cgi_behind_relay_sees_one_of_each(spelled: list[bytes], peer: str) -> None:
    """Head and trailers merged, as some servers do."""
    lines = [name + b": mine" for name in spelled if folded(name) not in (b"host", b"connection")]
    try:
        head = request_head(b"Transfer-Encoding: chunked", *lines)
        merged = upstream(head, peer) + request_trailers(head, *lines)
    except Fault as fault:
        assert fault.status in (400, 501)  # noqa: PT017 - a lookalike of a framing field
        return
    seen = [variable(name) for name, _ in merged]
    for name in OURS:
        believed = peer == TRUSTED and name == b"x-forwarded-host"  # passed on as it came
        expected = [(n, v) for n, v in merged if n == name and (v != b"mine" or believed)]
        if name == b"via" or (peer == TRUSTED and name == b"forwarded"):
            continue  # a list, to which relay appends
        assert seen.count(variable(name)) == len(expected) == 1, name
    for name in REMOVE:
        assert variable(name) not in seen


@given(st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1))
def test_folding_is_what_a_cgi_does(text: str) -> None:
    name = text.encode()
    assert folded(name).decode().upper() == variable(name)
    assert is_odd(name.lower()) == bool(re.search(r"[^a-zA-Z0-9-]", text))
