"""Values from outside the configuration's file, which are never printed: `${NAME}`, `{file:/run/secrets/x}`.

That is a property of the values and not of who prints them: a `Filled` formats as it was written in the file, and what is
made of it (a url, a pattern, a label) keeps the written text for printing. Who needs the value itself asks for it
(`value_of`), encodes it, compares it, or hands it to the system.
"""

from __future__ import annotations


class Filled(str):
    """A text in which something was put. `str()`, formatting and `repr` give what may be printed.

    Attributes:
        written: what stands in the file.
        outside: what was put in is not from the file (a default is); then `written` is printed.
    """

    written: str
    outside: bool

    def __new__(cls, value: str, written: str, *, outside: bool = True) -> Filled:
        filled = super().__new__(cls, value)
        filled.written = written
        filled.outside = outside
        return filled

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # a copy is one too
        return value_of(self), self.written

    def __str__(self) -> str:
        return self.written if self.outside else value_of(self)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class FilledBytes(bytes):
    """The same for what is kept as bytes. Decoded, joined or sent it is the value."""

    written: str

    def __repr__(self) -> str:
        return repr(self.written)


class FilledInt(int):
    """A number that was put in. It formats as the number it is: logs are JSON, and messages count."""

    written: str


class FilledFloat(float):
    """A number with a fraction that was put in; it formats as FilledInt does."""

    written: str


def value_of(text: str) -> str:
    """The text itself, whoever put it there: for use, never for printing."""
    return str.__str__(text)


def made_of(text: str, more: str) -> str:
    """A text that was made of another one; it is printed as that one was written."""
    return Filled(more, text.written, outside=text.outside) if isinstance(text, Filled) else more


def joined(values: list[bytes], between: bytes) -> bytes:
    """Values in one, printed as they were written."""
    whole = between.join(values)
    if not any(isinstance(each, FilledBytes) for each in values):
        return whole
    marked = FilledBytes(whole)
    marked.written = between.decode().join(written_as(each) or each.decode() for each in values)
    return marked


def read_from(value: object, text: object) -> object:
    """A value that was read from a text, which remembers how that was written."""
    if not isinstance(text, Filled) or not text.outside:
        return value
    marked: FilledBytes | FilledInt | FilledFloat
    if type(value) is bytes:
        marked = FilledBytes(value)
    elif type(value) is int:
        marked = FilledInt(value)
    elif type(value) is float:
        marked = FilledFloat(value)
    else:
        return value
    marked.written = text.written
    return marked


def written_as(value: object) -> str | None:
    """How a value was written in the file, where that is what may be printed; None for all others."""
    found = getattr(value, "written", None)
    return found if isinstance(found, str) and getattr(value, "outside", True) else None


def shown_as(value: object) -> str:
    """A value for people: as it was written, where it came from outside the file."""
    written = written_as(value)
    if written is not None:
        return written
    return value.decode() if isinstance(value, bytes) else str(value)
