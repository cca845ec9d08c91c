"""`${NAME}`, `${NAME:-default}` and `{file:/run/secrets/x}` inside string values.

Rules
* A variable that is not set, or is set but empty, is a mistake, unless it has a default: an empty
  token would silently remove the field that was to carry it.
* A file is read whole, as UTF-8. A relative one (`{file:token}`) is looked for beside the
  configuration. A newline at the end does not count, nor does one of a variable.
* What follows `{file:` without a space is a path: left as it stands, a mistyped one would be sent in
  the place of a secret. A JMESPath that makes an object is written with the space, `{file: x}`.
* `$${` is a literal `${`. What was put in is not looked at again.
* What was put in is never printed (`values.filled`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from relay.config.values.filled import Filled

_PLACES: Final = re.compile(
    r"(?P<escaped>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}"
    r"|(?P<broken>\$\{)"
    r"|\{file:(?P<file>[^{}\s][^{}]*)\}"
)
_LARGEST_FILE: Final = 64 * 1024  # bytes; a secret is a line, and a wrong path may be anything


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
            raise ValueError(
                '"${" is not followed by NAME}; a file is written "{file:/path}", '
                'and "$${" are the characters'
            )
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
