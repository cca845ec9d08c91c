"""`[translations.NAME.KEY]`, and `translate = "name"` or `"package.module:function"`.

A KEY of letters, digits, `_`, `.` and `-` is an event name; any other is a JMESPath on the
event's data. Rules are tried in the order of the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from relay.config.reading import kinds
from relay.config.reading.expressions import EXPRESSION, compile_expression
from relay.config.reading.mistakes import KeyPath, nearest, shown
from relay.config.reading.schema import INVALID, Key, Kind, MapOf, Reader, Table, heading_of
from relay.config.values import Expression, Rule, Translation

_EVENT_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NOT_JSON: Final = "expected a JSON value: text, number, boolean, array or table"

EXPRESSIONS: Final = MapOf(EXPRESSION, "name → JMESPath", str)
TRANSLATE: Final = Key(
    "translate",
    kinds.STRING,
    "",
    "A table of `[translations]`, or `package.module:function`, from `(Event)` to the client's "
    "events; it is imported from beside the file too.",
)
UNMATCHED: Final = kinds.choice("drop", "pass")


def _literal(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("")
    return value


# `data` is read by hand: the texts inside it are filled in at any depth.
DATA: Final = Kind("table", "a table of literal members", _literal)
RULE: Final = Table(
    (
        Key("data", DATA, "{}", "Literal members of the client's JSON object."),
        Key("fields", EXPRESSIONS, "{}", "Members computed from the event's data, by JMESPath."),
        Key(
            "carry",
            kinds.FLAG,
            "true",
            "The event's own members are carried over; `data` and `fields` win.",
            "`false` where the upstream says more than the client may know.",
        ),
        Key("event", kinds.LINE, "", "The client's event name; not set: no `event:` line."),
        Key("drop", kinds.FLAG, "false", "The event is swallowed."),
        Key("last", kinds.FLAG, "false", "The stream is complete after this event."),
    )
)
# For the reference only: the names beside `unmatched` are the user's.
TRANSLATION: Final = Table(
    (
        Key(
            "unmatched",
            UNMATCHED,
            '"drop"',
            "What happens to an event that no rule takes.",
            "`pass` shows the client events that you have not seen yet.",
        ),
        Key(
            "KEY",
            RULE,
            "",
            "A rule. KEY is an event name; one with more than letters, digits, `_`, `.` and `-` is "
            "a JMESPath that is true of the event's data.",
        ),
    )
)


def read_translations(reader: Reader, raw: object) -> dict[str, Translation | None]:
    """By name; None for one that had a mistake, so that its users are not told it is unknown."""
    if not isinstance(raw, dict):
        message = f"found {shown(raw)}, expected a table: write [translations.NAME]"
        reader.mistake(("translations",), message)
        return {}
    return {name: _translation(reader, name, each) for name, each in raw.items()}


def _translation(reader: Reader, name: str, raw: object) -> Translation | None:
    path: KeyPath = ("translations", name)
    if not isinstance(raw, dict):
        reader.mistake(path, f"found {shown(raw)}, expected a table: {heading_of(path)}")
        return None
    unmatched: Any = "drop"
    rules = []
    for key, value in raw.items():
        if key == "unmatched" and not isinstance(value, dict):
            unmatched = reader.read(UNMATCHED, value, (*path, key))
        else:
            rules.append(_rule(reader, key, value, (*path, key)))
    known = [rule for rule in rules if rule is not None]
    if len(known) < len(rules) or unmatched is INVALID:
        return None
    if unmatched == "drop" and all(rule.drop for rule in known):
        reader.mistake(path, "maps to nothing: no rule lets an event through")
        return None
    return Translation(name, tuple(known), unmatched=unmatched)


def _rule(reader: Reader, key: str, raw: object, path: KeyPath) -> Rule | None:
    when: Expression | None = None
    if not _EVENT_NAME.fullmatch(key):
        try:
            when = compile_expression(key)
        except ValueError as error:
            reader.mistake(path, f"is neither an event name nor a JMESPath: {error}")
            return None
    values = reader.read(RULE, raw, path)
    if values is INVALID:
        return None
    if "data" in values:
        values["data"] = filled(reader, values["data"], (*path, "data"))
    if values.get("drop") and len(values) > 1:
        others = ", ".join(f"`{name}`" for name in values if name != "drop")
        reader.mistake(path, f"`drop` swallows the event, so {others} would do nothing")
        return None
    given = values.get("data") or values.get("fields") or values.get("drop")
    if values.get("carry") is False and not given:
        reader.mistake(path, "maps to nothing: no `data`, no `fields`, and `carry` is off")
        return None
    return Rule(key, when, **values)


def filled(reader: Reader, value: Any, path: KeyPath) -> Any:
    """A JSON literal with its texts filled in."""
    if isinstance(value, dict):
        return {name: filled(reader, each, (*path, name)) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(reader, each, (*path, index)) for index, each in enumerate(value)]
    if isinstance(value, str):
        return reader.fill(value, path)
    if value is None or isinstance(value, bool | int) or _is_finite(value):
        return value
    reader.mistake(path, f"found {shown(value)}, {_NOT_JSON}")
    return None


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and abs(value) < float("inf")


def find_translation(
    reader: Reader, text: str, path: KeyPath, known: Mapping[str, Translation | None], base: Path
) -> Translation | None:
    """What `translate` names; None after a mistake was noted."""
    if text in known:
        return known[text]
    if ":" not in text:
        hint = nearest(text, known) if known else "; there is none: write [translations.NAME]"
        reader.mistake(path, f"no translation {shown(text)}{hint}")
        return None
    if not _FUNCTION.fullmatch(text):
        reader.mistake(path, f'found {shown(text)}, expected "package.module:function"')
        return None
    module_name, _, function_name = text.partition(":")
    try:
        function = getattr(_imported(module_name, base), function_name)
    except AttributeError:
        reader.mistake(path, f"{shown(text)}: the module has no such function")
        return None
    except Exception as error:  # the user's module runs here, and may raise anything
        reader.mistake(path, f"{shown(text)}: {_not_imported(module_name, error, base)}")
        return None
    if not callable(function):
        reader.mistake(path, f"{shown(text)} is not a function")
        return None
    return Translation(str(text), function=function, told=str(text))


def _not_imported(name: str, error: Exception, base: Path) -> str:
    """What is wrong with a module. The text of the error may quote what the module read, so its type says where to look."""
    problem = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if name == error.name or name.startswith(f"{error.name}."):
            return f"there is no module {error.name}, neither beside the configuration ({base}) nor installed"
        return f"the module {name} imports {error.name}, which is not installed"
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"the module {name} cannot be imported ({problem} in line {error.lineno})"
    return f"the module {name} cannot be imported ({problem})"


def _imported(name: str, base: Path) -> Any:
    """A module of the environment, or one that lies beside the configuration."""
    sys.path.append(str(base))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(base))
