"""docs/technical-notes/invariants.md names, for each invariant, what keeps it and what tries it. Both are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/technical-notes/invariants.md"
CODE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "relay").rglob("*.py")))
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if re.match(r"\| [A-Z]\d+ \|", line)
]


def test_each_has_a_number_of_its_own() -> None:
    numbers = [row[0] for row in ROWS]
    assert len(numbers) > 30
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_keeps_it_is_in_the_code(row: list[str]) -> None:
    names = re.findall(r"`(?:[a-z_]+/)?([A-Za-z_.]+)`", row[2])
    for name in names:
        if name.endswith(".py"):
            assert list((ROOT / "relay").rglob(name)), name
            continue
        owner, _, last = name.rpartition(".")
        if owner[:1].isupper():
            assert re.search(rf"\bclass {owner}\b", CODE), name
        assert re.search(
            rf"\b(?:def|class) {last}\b|^\s*(?:self\.)?{last}\b.*=", CODE, re.MULTILINE
        ), name


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_tries_it_is_there(row: list[str]) -> None:
    tests = re.findall(r"`((?:core|io|guarantees|interop)/test_\w+\.py)`", row[3])
    assert tests or row[3] in ("the test beside each",) or row[3].startswith("the same"), row
    assert not [name for name in tests if not (ROOT / "tests" / name).exists()]
