"""JMESPath, compiled at load. The package is imported when the first expression is read, not
before.

Rule: an expression never raises. What cannot be evaluated on a value (a function given the wrong
type) is null, as a missing member is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.config.schema import Kind
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
