"""Where relay listens and whom it calls: `host:port`, `[::1]:port`, `unix:/path`, `fd:N`,
`fd:NAME`, and urls.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final, Literal, cast

from relay.config.values import Address, Url
from relay.config.values.filled import written_as

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?|[0-9.]+", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_URL: Final = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
# Written as what is not allowed: a range up to U+10FFFF would take 7 ms to compile
_NOT_IN_PATH: Final = re.compile(r"[^\x21-\x7e]|[\\{}]")
_UNIX_PATH_MOST: Final = 107  # bytes: sun_path of Linux holds 108 with the NUL


def parse_address(text: str) -> Address:
    """A listener's address. Raises: ValueError with a reason that does not repeat the text."""
    return replace(_address(text), written=written_as(text))


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        path, _, options = text[5:].partition("?")
        return Address("unix", path=_unix_path(path), mode=_mode(options) if options else None)
    if text.startswith("fd:"):
        return _descriptor(text[3:])
    if "://" in text:
        raise ValueError("a listener is no url: leave the scheme out")
    if _PORT.fullmatch(text):
        raise ValueError(
            'a host is needed: "127.0.0.1:PORT", or "0.0.0.0:PORT" for every interface'
        )
    if text.startswith(("*:", ":")) and not text.startswith("::"):
        raise ValueError('for every interface write "0.0.0.0:PORT" or "[::]:PORT"')
    host, port = _host_and_port(text)
    if port is None:
        raise ValueError("the port is missing")
    return Address("tcp", host=host, port=port)


def parse_url(text: str) -> Url:
    """An upstream's url. Raises: ValueError with a reason that does not repeat the text."""
    return replace(_url(text), written=written_as(text))


def _url(text: str) -> Url:
    if text.startswith("unix:"):
        return Url("http", "localhost", 80, unix=_unix_path(text[5:].removeprefix("//")))
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("it starts with http://, https:// or unix:/")
    scheme, authority, path, query, fragment = match.groups()
    if "@" in authority:
        raise ValueError(
            "user and password do not belong in a url: set request_headers = "
            '{ Authorization = "Basic ${CREDENTIALS}" }'
        )
    if query or fragment:
        raise ValueError(
            "a query or fragment does not belong here: put it in the upstream_path of a route"
        )
    host, port = _host_and_port(authority)
    if port is None:
        port = 443 if scheme == "https" else 80
    if port == 0:
        raise ValueError("port 0 cannot be called")
    return Url(cast(Literal["http", "https"], scheme), host, port, base_path=_base_path(path))


def _descriptor(text: str) -> Address:
    if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
        return Address("fd", fd=int(text))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._@-]*", text, re.ASCII):
        raise ValueError(
            '"fd:" is followed by the number or the LISTEN_FDNAMES name of a descriptor'
        )
    return Address("fd", name=text)


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ValueError('an IPv6 address is written "[::1]:PORT"')
        colon, port = after[:1], after[1:]
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError("there is no IPv6 address in the brackets") from None
    else:
        if text.count(":") > 1:
            raise ValueError('an IPv6 address is written in brackets: "[::1]:PORT"')
        host, colon, port = text.partition(":")
        if not host.isascii():
            raise ValueError("write an international host name in its xn-- form")
        if not _HOST.fullmatch(host):
            raise ValueError("that is no host name" if host else "the host is missing")
    if not colon:
        return host, None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("a port is a number up to 65535")
    return host, int(port)


def _base_path(path: str) -> str:
    if _NOT_IN_PATH.search(path):
        raise ValueError("its path has a character that must be percent-encoded")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("a dot segment is refused")
    return path.rstrip("/")


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError('"unix:" is followed by an absolute path')
    if "\0" in path or "?" in path or "#" in path:
        raise ValueError("a socket's path has no NUL, ? or #")
    if len(path.encode()) > _UNIX_PATH_MOST:
        raise ValueError(f"a socket's path has at most {_UNIX_PATH_MOST} bytes")
    return path


def _mode(options: str) -> int:
    name, _, value = options.partition("=")
    if name != "mode":
        raise ValueError('the only option of "unix:" is "?mode=660"')
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError("a mode is three octal digits, such as 660")
    return int(value, 8)
