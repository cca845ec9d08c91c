"""Upstream's events become the client's: by rules, or by a Python function.

Rules of the translation
  * The first rule that matches counts; `unmatched` says what happens without one.
  * A rule gives one event: a JSON object of upstream's own members (unless `carry` is off), over
    them the literal `data`, over them the computed `fields`.
  * Data that is no JSON object is carried, and shown to expressions, as `{"data": it}`: a JSON
    value as itself, any other text as a string. Empty data is `{}`.
  * The id and the reconnection time go with the event, and when the event goes nowhere, alone: the
    client's cursor moves as upstream meant it. Upstream's comments and its type are not carried.
  * Data that would be too much to build (see `json_bounds`) is not built: the translation fails. It
    happens in the middle of the relaying, where every other stream waits for it.
  * Only what a reader would be given is translated: a block without data has no rule to match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from relay.sse import json_bounds, json_line
from relay.sse.event import Event, check

Expression = Callable[[object], object]  # a compiled JMESPath: JSON value in, JSON value out
EventFunction = Callable[[Event], Iterable[Event]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a translation: what a matching upstream event becomes.

    Attributes:
        name: an event's type ("message" is the default type), or the text of the JMESPath.
        when: the JMESPath, true of the data of a matching event as JMESPath means truth (0 is
            true); one that cannot be evaluated on the data does not match. None: `name` is
            compared.
        data: literal members of the client's JSON object.
        fields: members computed from the data; null where that cannot be done.
        carry: upstream's own members are carried over (ours win).
        event: the client's event type; None: no `event:` line.
        drop: the event is swallowed.
        last: the stream is complete after this event.
    """

    name: str
    when: Expression | None = None
    data: Mapping[str, object] | None = field(default=None, repr=False)  # a secret may be in it
    fields: Mapping[str, Expression] = field(default_factory=dict)
    carry: bool = True
    event: str | None = field(default=None, repr=False)  # as `data`
    drop: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Translation:
    """How upstream events become the client's: rules in order, or a Python function.

    Attributes:
        function: gives the client's events for one of upstream's, in place of rules. It must not
            block: it runs in the middle of the relaying.
        unmatched: what becomes of an event without a rule; "pass": it goes on as it is.
        told: what the function is called in messages; "": by its own name.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    function: EventFunction | None = None
    unmatched: Literal["drop", "pass"] = "drop"
    told: str = ""


class TranslationError(Exception):
    """A translation failed on an event. Its text may be shown: it has nothing of the event.

    What the function raised is the `__cause__`, for the log.

    Attributes:
        name: the function, as `package.module:function`, or the rule.
    """

    __slots__ = ("name",)

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class Translator:
    """Translates one stream.

    Attributes:
        complete: a `last` rule has matched; what comes after it is not translated any more.
        has_last: there is a `last` rule, so a stream that ends without one is cut short.
    """

    __slots__ = ("_translation", "complete", "has_last")

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self.complete = False
        self.has_last = any(rule.last for rule in translation.rules)

    def feed(self, events: Iterable[Event]) -> list[Event]:
        """The client's events for the next of upstream's, in order.

        Give it the blocks without data too (`EventParser(silent=True)`): their ids are carried.

        Raises: TranslationError if the function raises or gives what is no event, if a rule's `data`
            or `fields` are not JSON, or if an event's data has too many values.
        """
        out: list[Event] = []
        for event in events:
            if self.complete:
                break
            if event.data is None:
                out += _cursor(event)
            elif self._translation.function is not None:
                out += _call(self._translation.function, event, self._translation.told)
            else:
                out += self._by_rules(event, event.data)
        return out

    def _by_rules(self, event: Event, text: str) -> list[Event]:
        data: dict[str, object] | None = None
        for rule in self._translation.rules:
            if rule.when is None:
                if rule.name != (event.event or "message"):
                    continue
            else:
                data = _members(rule, text) if data is None else data
                if not _is_true(_evaluate(rule.when, data)):
                    continue
            out = _cursor(event)
            if not rule.drop:
                out = [_apply(rule, event, _members(rule, text) if data is None else data)]
            self.complete = rule.last
            return out
        return [event] if self._translation.unmatched == "pass" else _cursor(event)


def _apply(rule: Rule, event: Event, data: dict[str, object]) -> Event:
    literal = rule.data or {}
    out = dict(literal)  # first: where members stand in a JSON object is for the eye alone
    if rule.carry:
        out.update(data)
        out.update(literal)
    for name, expression in rule.fields.items():
        out[name] = _evaluate(expression, data)
    try:
        line = json_line.write(out)
    except (TypeError, ValueError) as error:
        raise TranslationError(rule.name, "what the rule makes is not JSON") from error
    return Event(line, rule.event or "", event.id, event.retry)


def _call(function: EventFunction, event: Event, told: str) -> list[Event]:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    name = told or f"{getattr(function, '__module__', '')}:{name}"
    try:
        out = list(function(event))
        for each in out:
            if not isinstance(each, Event):
                raise TypeError(f"{type(each).__qualname__} is not an Event")
            check(each)
    except Exception as error:  # user code: whatever it raises is its failure, not relay's
        raise TranslationError(name, f"failed with {type(error).__name__}") from error
    return out


def _members(rule: Rule, text: str) -> dict[str, object]:
    """The data of an event as a JSON object, for this rule."""
    if not text:
        return {}
    try:
        if len(text) > json_bounds.MAX_VALUES:  # as many values take as many characters
            json_bounds.check(text.encode("utf-8", "surrogatepass"))
        value = json_line.read(text)
    except json_bounds.TooMuch as error:
        raise TranslationError(rule.name, f"the event's data is too much: {error}") from None
    except json_line.NotJSON:
        return {"data": text}
    return value if isinstance(value, dict) else {"data": value}


def _evaluate(expression: Expression, data: object) -> object:
    """The value of a JMESPath; null where a function of it does not fit the data."""
    try:
        return expression(data)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return (
            None  # jmespath's own errors are ValueErrors; the others escape its built-in functions
        )


def _is_true(value: object) -> bool:
    """Truth as JMESPath has it: null, false and what is empty are false, 0 is true."""
    if value is None or value is False:
        return False
    return bool(value) if isinstance(value, str | list | dict) else True


def _cursor(event: Event) -> list[Event]:
    """What remains of an event that goes nowhere: its id and its reconnection time."""
    if event.id is None and event.retry is None:
        return []
    return [Event(id=event.id, retry=event.retry)]
