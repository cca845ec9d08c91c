"""`relay terminator NAME`: a set-up of a TLS terminator in front of relay, complete, with relay's own half in it.

The files beside this one are all there is of these set-ups: the command prints them, the tests run what the command
prints with the real programs. In them `<NAME>` stands for a value of `Wanted`, and `<RELAY>` for relay's half as a comment.

Rules
  * What is printed is a file of another program's: a value that could end a word of it is refused, never quoted.
  * Both halves are made from one address, so they meet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from typing import Final

from relay.config.reading.addresses import parse_address
from relay.config.values import Address

SOCKET: Final = "unix:/run/relay/relay.sock"
_FOLDER: Final = "/etc/ssl/relay"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", re.ASCII)
_HOST_MOST: Final = 253  # characters of a name in the DNS (RFC 1035 §3.1, less the root)
_UNKNOWN: Final = "ADDRESS-OF-THE-TERMINATOR"  # no address: relay refuses to start with it
_PATH: Final = re.compile(r"/[A-Za-z0-9._@+/-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What differs from one site to the next. None: the customary place, or what the program does by itself."""

    hosts: tuple[str, ...]
    relay: str = SOCKET  # where relay listens
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _Terminator:
    """One program: its file, how it tells the client, and how it writes things."""

    file: str
    half: str
    """relay's half."""
    unix: str
    """A unix socket's path, as the program writes it."""
    tcp: str = "{}"
    comment: str = "#"
    both: bool = False
    """It wants certificate and key in one file."""


_HTTP: Final = "relay-http.toml"
_PROXY: Final = "relay-proxy.toml"
_TERMINATORS: Final[Mapping[str, _Terminator]] = {
    "nginx": _Terminator("nginx.conf", _HTTP, "unix:{}"),
    "caddy": _Terminator("Caddyfile", _HTTP, "unix/{}"),
    "haproxy": _Terminator("haproxy.cfg", _HTTP, "unix@{}", both=True),
    "haproxy-tcp": _Terminator("haproxy-tcp.cfg", _PROXY, "unix@{}", both=True),
    "hitch": _Terminator("hitch.conf", _PROXY, "{}", "[{0.host}]:{0.port}", both=True),
    "stunnel": _Terminator("stunnel.conf", _PROXY, "{}", comment=";"),
}
NAMES: Final = tuple(_TERMINATORS)


def terminator(name: str, wanted: Wanted) -> str:
    """The file of one of NAMES.

    Raises:
        ValueError: a value cannot stand in such a file; the message names its option.
    """
    kind = _TERMINATORS[name]
    address = _relay(wanted.relay)
    for host in wanted.hosts:
        _check_host(host)
    values = {
        "HOSTS": " and ".join(wanted.hosts),
        "NAMES": (", " if name == "caddy" else " ").join(wanted.hosts),
        "ADDRESS": _address(kind, address),
        **_files(name, kind, wanted),
    }
    half = _filled(_text(kind.half), _half(address)).splitlines()
    lines = [f"{kind.comment}   {line}".rstrip() for line in half]
    lines = [f"{kind.comment} relay's half, in its relay.toml:", kind.comment, *lines, kind.comment]
    values["RELAY"] = "\n".join(lines)
    text = _filled(_text(kind.file), values)
    return re.sub(r"^[ \t]+\n", "", text, flags=re.MULTILINE)  # of a line whose value is nothing


def _text(file: str) -> str:
    return (files(__package__) / file).read_text("utf-8")


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"<([A-Z_]+)>", lambda found: values[found[1]], text)


def _relay(text: str) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ValueError(f"--relay: {error}") from None
    if address.kind == "fd" or address.mode is not None or (not address.port and not address.path):
        raise ValueError("--relay: it is host:port or unix:/path, where the terminator finds relay")
    if address.path:
        _check_path("--relay", address.path)
    return address


def _address(kind: _Terminator, address: Address) -> str:
    if address.kind == "unix":
        return kind.unix.format(address.path)
    if kind.tcp != "{}":
        return kind.tcp.format(address)
    return (
        f"[{address.host}]:{address.port}"
        if ":" in address.host
        else f"{address.host}:{address.port}"
    )


def _half(address: Address) -> dict[str, str]:
    """relay's listener and whom it believes."""
    if address.kind == "unix":
        return {
            "LISTEN": f"unix:{address.path}?mode=660",
            "LISTEN_NOTE": "   # of the terminator's group, and of nobody else",
            "TRUSTED": "unix",
            "TRUSTED_NOTE": "   # whoever may open the socket is believed",
        }
    try:
        local = ip_address(address.host).is_loopback
    except ValueError:
        local = address.host == "localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    note = "   # put the address that it comes from; `relay check` asks for it"
    return {
        "LISTEN": f"{host}:{address.port}" if local else f"0.0.0.0:{address.port}",
        "LISTEN_NOTE": "",
        "TRUSTED": ("::1" if ":" in address.host else "127.0.0.1") if local else _UNKNOWN,
        "TRUSTED_NOTE": "" if local else note,
    }


def _files(name: str, kind: _Terminator, wanted: Wanted) -> dict[str, str]:
    """Where the program finds its certificate."""
    if kind.both and wanted.key is not None:
        raise ValueError(f"--key: {name} reads the key from the file of --certificate")
    if (wanted.certificate is None) != (wanted.key is None) and not kind.both:
        raise ValueError("--certificate and --key belong together")
    _check_path("--certificate", wanted.certificate)
    _check_path("--key", wanted.key)
    certificate = wanted.certificate or f"{_FOLDER}/{'both' if kind.both else 'fullchain'}.pem"
    key = wanted.key or f"{_FOLDER}/key.pem"
    tls = f"tls {certificate} {key}" if wanted.certificate else ""
    return {"CERTIFICATE": certificate, "KEY": key, "TLS": tls}


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host) or len(host) > _HOST_MOST:
        raise ValueError(
            "--host: it is a name such as app.example.com or *.example.com, an international one in its xn-- form"
        )


def _check_path(option: str, path: str | None) -> None:
    if path is not None and not _PATH.fullmatch(path):
        raise ValueError(f"{option}: an absolute path of letters, digits and ._@+/- is needed here")
