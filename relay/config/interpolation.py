"""`${NAME}`, `${NAME:-default}` and `{file:/run/secrets/x}` inside string values.

Rules
* A variable that is not set, or is set but empty, is a mistake, unless it has a default: an empty
  token would silently remove the field that was to carry it.
* A file is read whole, as UTF-8. A relative one (`{file:./token}`) is looked for beside the
  configuration. A newline at the end does not count, nor does one of a variable.
* `$${` is a literal `${`. What was put in is not looked at again.
* What was put in is never printed. That is a property of the values and not of who prints them: a
  `Filled` formats as it was written in the file, and what is made of it (a url, a pattern, a label)
  keeps the written text for printing. Who needs the value itself asks for it (`value_of`), encodes
  it, compares it, or hands it to the system.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PLACES: Final = re.compile(
    r"(?P<escaped>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}"
    r"|(?P<broken>\$\{)"
    r"|\{file:(?P<file>(?:/|\./|\.\./)[^{}]*)\}"
)
_LARGEST_FILE: Final = 64 * 1024  # bytes; a secret is a line, and a wrong path may be anything


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
    """As FilledInt."""

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


class Interpolation:
    """Resolves the places of one configuration.

    Args:
        environ: the environment.
        base: the folder that relative paths start from.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self._environ = environ
        self._base = base

    def resolve(self, text: str) -> str:
        """The text with its places filled: a Filled, if there were any.

        Raises: ValueError naming the variable or file that is missing.
        """
        if "$" not in text and "{file:" not in text:
            return text
        value, count = _PLACES.subn(self._place, text)
        if not count:
            return text
        places = _PLACES.finditer(text)
        return Filled(value, text, outside=any(self._is_outside(place) for place in places))

    def _is_outside(self, match: re.Match[str]) -> bool:
        """Whether a place takes its text from the environment or from another file."""
        return bool(match["file"] or (match["name"] and self._variable(match["name"])))

    def _variable(self, name: str) -> str:
        """The value of a variable; one that was made from a file often ends with its newline, as in Kubernetes."""
        return _without_newline(self._environ.get(name, ""))

    def _place(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        if match["broken"]:
            raise ValueError('"${" is not followed by NAME}; write "$${" for the characters')
        if match["file"]:
            return self._file(match["file"])
        name, default = match["name"], match["default"]
        value = self._variable(name)
        if value:
            return value
        if default is not None:
            return str(default)
        state = "is empty" if name in self._environ else "is not set"
        raise ValueError(f"the environment variable {name} {state}")

    def _file(self, name: str) -> str:
        path = self._base / name
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ValueError(f"the file {name} is larger than 64 KiB")
            text = path.read_bytes().decode()
        except OSError as error:
            raise ValueError(f"the file {name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"the file {name} is not UTF-8 text") from None
        text = _without_newline(text)
        if not text:
            raise ValueError(f"the file {name} is empty")
        return text


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
