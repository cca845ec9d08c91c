"""What users may import is listed: on the page, in `__all__`, and in nothing that is shown to them is anything else."""

from __future__ import annotations

import ast
import importlib
import re
from inspect import isclass, isfunction
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/reference/python.md").read_text("utf-8")
PUBLIC = ("relay.asgi", "relay.config", "relay.sse")
SHOWN = sorted((ROOT / "examples").rglob("*.py"))


def listed(package: str) -> set[str]:
    section = PAGE.partition(f"## `{package}`")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)", " ".join(rows)))


@pytest.mark.parametrize("package", PUBLIC)
def test_the_page_lists_what_a_package_shows(package: str) -> None:
    module = importlib.import_module(package)
    assert listed(package) == set(module.__all__)
    for name in module.__all__:
        shown = getattr(module, name)
        assert shown.__doc__ or not (isclass(shown) or isfunction(shown)), name


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_imports_nothing_else(path: Path) -> None:
    """`relay.demo.service` is the frame of the demo's backends, which the wheel brings along, and no part of relay."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relay"):
            assert node.module in (*PUBLIC, "relay", "relay.demo.service"), node.module
