"""Any text is a Config or a ConfigError with a place for each mistake; nothing else comes out."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import ConfigError, Mistake, loads

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = sorted(
    {
        line
        for file in EXAMPLES.glob("*/relay.toml")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
)
VALUES = st.sampled_from(
    [
        r'"off"',
        r'""',
        r"-1",
        r"0",
        r"1e9",
        r"true",
        r"[]",
        r"{}",
        r"[[1],{}]",
        r'"${A}"',
        r'"${B:-/{x}}"',
        r"1979-05-27",
        r"inf",
        r"nan",
        r'"a:b"',
        r'"\u0000"',
        r'{a=[1,{"b.c"="]"}]}',
        r"'''x'''",
    ]
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    lines = draw(st.lists(st.sampled_from(LINES), max_size=25))
    for index in draw(st.lists(st.integers(0, 24), max_size=4)):
        if index < len(lines) and " = " in lines[index]:
            lines[index] = f"{lines[index].partition(' = ')[0]} = {draw(VALUES)}"
    return "\n".join(lines)


def check(text: str) -> None:
    mistakes: tuple[Mistake, ...] = ()
    try:
        loads(text, {"A": "s3cret-text"})
    except ConfigError as error:
        mistakes = error.mistakes or (Mistake("none", "an error without a mistake", -1),)
    count = text.count("\n") + 1
    assert all(0 < (mistake.line or 1) <= count for mistake in mistakes)
    assert not any("s3cret-text" in str(mistake) for mistake in mistakes)


@settings(max_examples=300, deadline=None)
@given(texts())
def test_lines_of_real_files_in_any_order_with_any_value(text: str) -> None:
    check(text)


@given(st.text())
def test_any_text(text: str) -> None:
    check(text)


@settings(deadline=None)
@given(st.data())
def test_a_real_file_with_a_hole(data: st.DataObject) -> None:
    files = sorted(EXAMPLES.glob("*/relay.toml"))
    text = data.draw(st.sampled_from(files)).read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    check(text[:start] + text[end:])
