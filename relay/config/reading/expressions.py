"""JMESPath, compiled at load. The package is imported when the first expression is read, not
before.

Rule: an expression never raises. What cannot be evaluated on a value (a function given the wrong
type) is null, as a missing member is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from relay.config.reading.schema import Kind
from relay.config.values import Expression


def compile_expression(text: str) -> Expression:
    """A function from a JSON value to a JSON value. Raises: ValueError with the position."""
    import jmespath
    from jmespath import exceptions

    if not text.strip():
        raise ValueError("it is empty")
    try:
        compiled = jmespath.compile(text)
    except exceptions.LexerError as error:
        place = f"at position {error.lexer_position + 1}"
        raise ValueError(f"unexpected character {place}") from None
    except exceptions.ParseError as error:
        if not error.token_value:
            raise ValueError("it ends too early") from None
        place = f"at position {error.lex_position + 1}"
        raise ValueError(f'unexpected "{error.token_value}" {place}') from None
    _check_functions(compiled.parsed)
    search = compiled.search

    def evaluate(value: object) -> object:
        try:
            return search(value)
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return None

    return evaluate


def _check_functions(node: Mapping[str, Any]) -> None:
    """JMESPath itself finds a wrong function, or number of arguments, only when it is called."""
    from jmespath.functions import Functions

    if node["type"] == "function_expression":
        name = node["value"]
        known = Functions.FUNCTION_TABLE.get(name)
        if known is None:
            raise ValueError(f"there is no function {name}()")
        wanted, given = known["signature"], len(node["children"])
        variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if given != len(wanted) and not (variadic and given >= len(wanted)):
            more = " or more" if variadic else ""
            raise ValueError(f"{name}() takes {len(wanted)}{more} arguments, not {given}")
    for child in node["children"]:
        if isinstance(child, Mapping):
            _check_functions(child)


def _read(value: object) -> Expression:
    if not isinstance(value, str):
        raise ValueError("it is written in quotes")
    return compile_expression(value)


EXPRESSION = Kind("JMESPath", "a JMESPath expression", _read)


# -- words -------------------------------------------------------------------------------------------------------

# Functions that turn null into a value: what they find may come from an event with any text.
_OF_NULL: Final = frozenset(("type", "to_string", "to_array"))
_WORD: Final = re.compile(r"[A-Za-z0-9_.$ -]+")  # what everybody writes as it is in JSON
_LEFT_NEEDED: Final = frozenset(
    ("index_expression", "projection", "value_projection", "filter_projection", "flatten")
)
_PATH: Final = _LEFT_NEEDED | {"field", "subexpression", "current", "identity", "index", "slice"}


def words_of(text: str) -> tuple[bytes, ...]:
    """Words, one of which must stand in a JSON text if the expression is to find anything in it.

    Empty where no word is certain. A server that escapes plain letters (`\\u006dodel`) is missed.
    """
    import jmespath

    found = _words(jmespath.compile(text).parsed)
    return tuple(sorted(word.encode() for word in found)) if found else ()


def _words(node: Mapping[str, Any]) -> frozenset[str] | None:
    """The same for one node of the parsed expression; None: no word is certain."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        runs = sorted(_WORD.findall(node["value"]), key=len)
        return frozenset((runs[-1],)) if runs else None
    if kind in ("subexpression", "pipe"):
        # The last name is the rarest: `usage` may stand in every event, `prompt_tokens` in one.
        *before, last = children
        found = _words(last) if all(map(_is_path, before)) else None
        return found or (_words(before[0]) if _is_path(last) else None)
    if kind in _LEFT_NEEDED or kind == "and_expression":
        return _words(children[0])
    if kind == "or_expression" or (kind == "function_expression" and node["value"] == "not_null"):
        every = [_words(child) for child in children]
        sure = [words for words in every if words]
        return frozenset().union(*sure) if len(sure) == len(every) else None
    if kind == "function_expression" and node["value"] not in _OF_NULL:
        return next((words for child in children if (words := _words(child))), None)
    return None


def _is_path(node: Mapping[str, Any]) -> bool:
    """Whether every name that a node can yield stands in the text: none of its parts builds an object of its own."""
    if node["type"] not in _PATH:
        return False
    return all(_is_path(child) for child in node["children"] if isinstance(child, Mapping))
