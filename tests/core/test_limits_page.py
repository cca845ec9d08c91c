"""docs/technical-notes/limits.md names the constants that bound what relay holds. Each is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/technical-notes/limits.md"
CODE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "relay").rglob("*.py")))


def constants() -> list[str]:
    """What stands in backquotes in the second column of the tables that have one for constants."""
    found = []
    wanted = False
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            wanted = False
        elif len(cells) > 1 and cells[1] == "constant":
            wanted = True
        elif wanted:
            found += [
                name for name in re.findall(r"`([A-Za-z_.]+)`", cells[1]) if name != "sendfile"
            ]
    return found


def test_the_tables_are_read() -> None:
    assert len(constants()) > 25


@pytest.mark.parametrize("name", dict.fromkeys(constants()))
def test_the_constant_is_in_the_code(name: str) -> None:
    last = name.rpartition(".")[2]
    defined = rf'^\s*(?:self\.)?{last}(?:: [^=\n]+)? = |def {last}\(|^\s*{last}: |"{last}"'
    assert re.search(defined, CODE, re.MULTILINE), f"{name} is gone: mend {PAGE.name}"


def test_the_tests_are_there() -> None:
    """Those that the page names as the proof of a bound."""
    named = re.findall(r"`((?:core|io|guarantees|interop)/test_\w+\.py)`", PAGE.read_text("utf-8"))
    assert len(named) > 15
    assert not [name for name in named if not (ROOT / "tests" / name).exists()]
