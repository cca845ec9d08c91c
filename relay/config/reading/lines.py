"""On which line of a TOML text a key stands: tomllib, which reads the file, does not say.

Only texts that tomllib has accepted come here, so the scan needs to know no more than where
strings, comments and brackets begin and end. A key inside an inline table has a line of its own
too."""

from __future__ import annotations

import json
import re
from typing import Final

from relay.config.reading.mistakes import KeyPath

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|"
    r"\#[^\n]*|\n|[\[\]{}=,.]|[^\s\[\]{}=,.\"'#]+",
    re.DOTALL,
)
_STRING: Final = ('"', "'")


class Lines:
    """The lines of every key of a text, counted from 1."""

    def __init__(self, text: str) -> None:
        self._lines: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}  # arrays of tables: index of the last one
        self._tokens = [(match.group(), match.start()) for match in _TOKEN.finditer(text)]
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._scan()

    def find(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest thing around it."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def _scan(self) -> None:
        table: KeyPath = ()
        while self._at < len(self._tokens):
            token = self._peek()
            if token == "\n" or token.startswith("#"):
                self._at += 1
            elif token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        line = self._here()
        self._at += 1
        double = self._peek() == "["
        self._at += double
        path: KeyPath = ()
        names = self._names("]")
        for depth, name in enumerate(names):
            path = (*path, name)
            if double and depth + 1 == len(names):
                self._lines.setdefault(path, line)
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = (*path, self._arrays[path])
            self._lines.setdefault(path, line)
        self._at += 1 + double
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._here()
        path = table
        for name in self._names("="):
            path = (*path, name)
            self._lines.setdefault(path, line)
        self._at += 1
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        token = self._peek()
        if token == "{":
            self._at += 1
            while self._skipped() != "}":
                self._pair(path)
                if self._skipped() == ",":
                    self._at += 1
            self._at += 1
        elif token == "[":
            self._at += 1
            index = 0
            while self._skipped() != "]":
                self._lines[*path, index] = self._here()
                self._value((*path, index))
                if self._skipped() == ",":
                    self._at += 1
                index += 1
            self._at += 1
        elif token.startswith(_STRING):
            self._at += 1
        else:  # a number, a date, a boolean: up to what ends a value
            while self._at < len(self._tokens) and not self._ends(self._peek()):
                self._at += 1

    @staticmethod
    def _ends(token: str) -> bool:
        return token in ("\n", ",", "]", "}") or token.startswith("#")

    def _names(self, end: str) -> list[str]:
        names = []
        while (token := self._peek()) != end:
            if token.startswith('"'):
                token = str(json.loads(token)) if "\\U" not in token else token[1:-1]
            if token != ".":
                names.append(token.strip("'") if token.startswith("'") else token)
            self._at += 1
        return names

    def _skipped(self) -> str:
        while self._peek() == "\n" or self._peek().startswith("#"):
            self._at += 1
        return self._peek()

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _here(self) -> int:
        offset = self._tokens[self._at][1]
        self._line += self._text.count("\n", self._counted, offset)
        self._counted = offset
        return self._line
