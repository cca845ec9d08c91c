"""The lines of the access log: JSON for programs, or text for the people who develop with relay.

    Record, Ending ─► start: a stream begins · end: an exchange has ended · run: a run has ended

Rules
  * Lines are written by hand, because their shape is fixed: only what a peer chose is escaped.
  * A line is one line, whatever a peer sent: what is not printable is escaped in the text form too, so that nobody
    writes a line of the log, or speaks to the terminal it is read in.
"""

from __future__ import annotations

from datetime import datetime
from json import dumps
from json.encoder import encode_basestring_ascii as quoted
from time import time
from typing import NamedTuple, Protocol

from relay.observing.ending import Ending
from relay.observing.record import Record

_LEFT_STATUS = 499  # nginx's and Caddy's number for a client that left before it was answered


class RunFigures(NamedTuple):
    """What the line of a run says beside its record."""

    run: str
    events: int
    size: int  # bytes of all events
    viewers: int  # at most at once
    unwatched: float  # seconds


class Lines(Protocol):
    """One form of the log. Each line ends with its newline; `now` is trio.current_time()."""

    def start(self, record: Record, now: float) -> str:
        """For a stream that starts: long streams are seen before they end."""

    def end(self, record: Record, ending: Ending, now: float) -> str:
        """For an exchange that ended."""

    def run(self, record: Record, ending: Ending, now: float, figures: RunFigures) -> str:
        """For a run that ended."""


class JsonLines:
    """JSON, an object a line."""

    __slots__ = ()

    def start(self, record: Record, now: float) -> str:
        return (
            f'{{"time":{time():.3f},"at":"start",{_who(record)},"status":{record.status},'
            f'"upstream":{quoted(record.upstream)}{_coding(record)},"ttfb_ms":{_ms(record, record.first_byte)}}}\n'
        )

    def end(self, record: Record, ending: Ending, now: float) -> str:
        ttfb = _ms(record, record.first_byte) if record.first_byte else "null"
        answered = f',"upstream_status":{record.upstream_status}' if record.upstream_status else ""
        return (
            f'{{"time":{time():.3f},"at":"end",{_who(record)},"status":{_status(record, ending)},'
            f'"upstream":{quoted(record.upstream)}{answered}{_coding(record)},"ending":"{ending.cause.value}",'
            f'"side":"{ending.side.value}","phase":"{ending.phase.value}",'
            f'"bytes_in":{record.bytes_in},"bytes_out":{record.bytes_out},"events":{record.events},'
            f'"ttfb_ms":{ttfb},"duration_ms":{_ms(record, now)}{_said(record)}{_detail(ending)}}}\n'
        )

    def run(self, record: Record, ending: Ending, now: float, figures: RunFigures) -> str:
        return (
            f'{{"time":{time():.3f},"at":"run","run":{quoted(figures.run)},"id":{quoted(record.id)},'
            f'"route":{quoted(record.route)},"upstream":{quoted(record.upstream)},'
            f'"ending":"{ending.cause.value}","side":"{ending.side.value}","phase":"{ending.phase.value}",'
            f'"events":{figures.events},"bytes":{figures.size},"viewers":{figures.viewers},'
            f'"unwatched_ms":{figures.unwatched * 1000:.1f},'
            f'"duration_ms":{_ms(record, now)}{_said(record)}{_detail(ending)}}}\n'
        )


class TextLines:
    """Text, for reading as it comes."""

    __slots__ = ()

    def start(self, record: Record, now: float) -> str:
        waited = _seconds(record.first_byte - record.started)
        return _text(record, record.status, f"stream begins, first byte after {waited}")

    def end(self, record: Record, ending: Ending, now: float) -> str:
        parts = [f"{ending.cause.value} after {_seconds(now - record.started)}"]
        if record.streaming:
            parts.append(f"{record.events} events")
        if record.bytes_out:
            parts.append(f"{record.bytes_out} bytes out")
        if record.bytes_in:
            parts.append(f"{record.bytes_in} bytes in")
        if record.first_byte:
            parts.append(f"first byte after {_seconds(record.first_byte - record.started)}")
        return _text(record, _status(record, ending), ", ".join(parts), ending.detail)

    def run(self, record: Record, ending: Ending, now: float, figures: RunFigures) -> str:
        told = (
            f"run {_plain(figures.run)} {ending.cause.value} after {_seconds(now - record.started)}, "
            f"{figures.events} events, {figures.size} bytes, {figures.viewers} viewers at most, "
            f"unwatched for {_seconds(figures.unwatched)}"
        )
        return _text(record, record.upstream_status, told, ending.detail)


FORMS: dict[str, Lines] = {"json": JsonLines(), "text": TextLines()}


# -- JSON --------------------------------------------------------------------------------------------------------


def _status(record: Record, ending: Ending) -> int:
    return record.status or (_LEFT_STATUS if ending.side == "client" else 0)


def _who(record: Record) -> str:
    return f'"id":{quoted(record.id)},{record.about or about(record)}'


def about(record: Record) -> str:
    """The members of a line that say who asked for what."""
    trace = f'"trace":"{record.trace}",' if record.trace else ""
    if record.run:
        trace += f'"run":{quoted(record.run)},"how":"{record.how}","from":{record.from_seq},'
    fields = f',"fields":{dumps(record.fields)}' if record.fields else ""
    return (
        f'{trace}"route":{quoted(record.route)},"client":{quoted(record.client)},'
        f'"method":{quoted(record.method)},"path":{quoted(record.path)}{fields}'
    )


def _coding(record: Record) -> str:
    return f',"coding":{quoted(record.coding)}' if record.coding else ""


def _said(record: Record) -> str:
    """The members of a line that say what the stream said (`[routes.capture]`)."""
    said = record.capture.values if record.capture is not None else {}
    return f',"captured":{dumps(said)}' if said else ""


def _detail(ending: Ending) -> str:
    return f',"detail":{quoted(ending.detail)}' if ending.detail else ""


def _ms(record: Record, then: float) -> str:
    return f"{(then - record.started) * 1000:.1f}"


# -- text --------------------------------------------------------------------------------------------------------


def _text(record: Record, status: int, told: str, detail: str = "") -> str:
    clock = datetime.now().strftime("%H:%M:%S.%f")[:-3]
    way = _plain(record.client)
    if record.upstream:
        answered = f" ({record.upstream_status})" if record.upstream_status else ""
        way += f" -> {_plain(record.upstream)}{answered}"
    about = {"id": record.id, "route": record.route, "run": record.run, "how": record.how}
    about |= {"trace": record.trace, "coding": record.coding, **record.fields}
    words = [f"{name}={_word(value)}" for name, value in about.items() if value]
    if record.capture is not None:
        words += [f"{name}={_word(value)}" for name, value in record.capture.values.items()]
    if detail:
        words.append(f"detail={_word(detail)}")
    request = f"{_plain(record.method)} {_plain(record.path)}" if record.method else "(no request)"
    return f"{clock} {status or '-'} {request}: {told}, {way} {' '.join(words)}\n"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.3f} s"


def _plain(text: str) -> str:
    """A text as it is, or escaped: control characters, line ends of any kind, what turns the direction of writing."""
    return text if text.isprintable() else quoted(text)[1:-1]


def _word(value: object) -> str:
    """A value behind its name: in quotes where it would not be one word."""
    text = value if isinstance(value, str) else dumps(value)
    plain = text.isprintable() and not any(each in text for each in ' "=\\')
    return text if plain and text else quoted(text)
