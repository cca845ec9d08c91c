"""The house keeps its own rules: imports go down only, rooms stay small, sans-IO rooms know no Trio."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import LONGEST

PACKAGE = Path(__file__).parent.parent / "relay"
# From top to bottom. A module imports from its own room and from rooms below it.
ROOMS = [
    "cli",
    "shell_completion",
    "terminators",
    "demo",
    "asgi",
    "processes",
    "admin",
    "serving",
    "exchange",
    "feeds",
    "stores",
    "sources",
    "upstreams",
    "wires",
    "flows",
    "observing",
    "config",
    "config.keys",
    "config.reading",
    "config.values",
    "routing",
    "sse",
    "http",
]
SANS_IO = {"http", "sse", "flows", "routing", "config"}
MAX_LINES = 400
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return room_named(path.relative_to(PACKAGE).with_suffix("").parts)


def room_named(parts: Sequence[str]) -> str:
    """The room of a module, given by the parts of its name behind `relay`: of two that fit, the inner one."""
    inner = ".".join(parts[:2])
    return inner if inner in ROOMS else parts[0]


def imported(path: Path) -> Iterator[str]:
    """Every module, and every name of one, that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
class TestFile:
    def test_imports_go_down(self, path: Path) -> None:
        room = room_of(path)
        if room not in ROOMS:
            return  # relay/__init__.py and __main__.py stand above all rooms
        allowed = ROOMS[ROOMS.index(room) :]
        for module in imported(path):
            parts = module.split(".")
            if parts[0] == "relay" and len(parts) > 1:
                # Of relay/__init__.py, which imports nothing
                own = parts[1] in (
                    "INSTALL",
                    "__version__",
                )
                assert own or room_named(parts[1:]) in allowed, f"{room} must not import {module}"

    def test_sans_io_rooms_know_no_trio(self, path: Path) -> None:
        if room_of(path).partition(".")[0] in SANS_IO:
            assert not {"trio", "socket", "select"} & {m.split(".")[0] for m in imported(path)}

    def test_only_http_knows_h11(self, path: Path) -> None:
        if room_of(path) != "http":
            assert "h11" not in {m.split(".")[0] for m in imported(path)}

    def test_is_of_readable_size_and_says_what_it_is(self, path: Path) -> None:
        text = path.read_text("utf-8")
        assert text.count("\n") <= MAX_LINES
        assert ast.get_docstring(ast.parse(text)) or not text.strip(), (
            "a module opens with its idea"
        )


def test_the_demo_installs_what_it_needs_and_nothing_more() -> None:
    command = ["make", "--dry-run", "--always-make", "demo"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    installed = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert len(installed) == 1
    assert installed[0].endswith('--editable ".[asgi]"')


def circles() -> list[set[str]]:
    """Modules that import each other in a circle, type-only imports counted."""
    names = {
        ".".join(("relay", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    ways: dict[str, set[str]] = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                found |= modules or {node.module} & names.keys()
        ways[name] = found - {name}
    reach = {name: _reached(name, ways) for name in names}
    groups = [{b for b in reach[a] if a in reach[b]} for a in sorted(names) if a in reach[a]]
    return [group for at, group in enumerate(groups) if group not in groups[:at]]


def _reached(name: str, ways: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    left = list(ways[name])
    while left:
        at = left.pop()
        if at not in seen:
            seen.add(at)
            left += ways[at]
    return seen


def test_no_modules_go_round_in_a_circle() -> None:
    assert circles() == []


# What is decided in one place: the pattern, and who may write it.
KEPT_TO: dict[str, set[str]] = {
    # A source is asked for what it is like; which one it is asks only the step of the engine, which is `forward` alone.
    r"isinstance\([^)]*\b(Forward|Enqueue|Answer|Local|Files)\b": {
        "exchange/worker.py",
        "exchange/preparing.py",
    },
    r"isinstance\([^)]*\b(Socket|Stream)Wire\b": {"wires"},
    r"\.reusable = ": {"exchange/connection.py"},
    r"\.head_out = ": {"exchange/client_side.py"},
}


@pytest.mark.parametrize("pattern", KEPT_TO)
def test_what_is_decided_in_one_place_is_written_nowhere_else(pattern: str) -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if re.search(pattern, path.read_text("utf-8"))
    }
    allowed = KEPT_TO[pattern]
    assert found or not allowed, "the pattern is of something that is there"
    assert {
        name for name in found if name not in allowed and room_of(PACKAGE / name) not in allowed
    } == set()


# A named tuple's own, and public; argparse's.
_NO_OTHER_WORD = {"_replace", "_fields", "_field_defaults", "_actions"}
TESTS = sorted((PACKAGE.parent / "tests").rglob("*.py"))


def private(path: Path) -> Iterator[str]:
    """Underscore names of somebody else that a test looks at, replaces or imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relay"):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
            names = [str(each.value) for each in node.args[1:2] if isinstance(each, ast.Constant)]
        for name in names:
            if name.startswith("_") and not name.startswith("__") and name not in _NO_OTHER_WORD:
                yield f"{path.name}:{getattr(node, 'lineno', 0)} {name}"


def test_tests_look_at_what_modules_show() -> None:
    """A name with an underscore may change with nobody asked."""
    assert [found for path in TESTS for found in private(path)] == []


def test_there_is_no_room_for_leftovers() -> None:
    names = {path.stem for path in FILES}
    assert not names & {"utils", "util", "helpers", "common", "misc", "manager"}


def test_the_files_that_tests_begin_with_are_there() -> None:
    assert {PACKAGE.parent / "tests" / name for name in LONGEST} <= set(TESTS)
