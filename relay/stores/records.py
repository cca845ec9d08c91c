"""What a store keeps of a run, as JSON: its card, the fields of its head, its end.

Rule: bytes are text in Latin-1, which is one character each, so any field value and any last words come back as they were.
"""

from __future__ import annotations

import json
from typing import Any

from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.stores.store import Answer, Card, Sealed


def card_record(card: Card) -> bytes:
    """A card as it is kept."""
    return _json(
        {
            "identity": card.identity.hex(),
            "id": card.id,
            "key": card.key,
            "owner": card.owner.hex(),
            "route": card.route,
            "request": card.request.hex(),
            "get": card.begun_by_get,
            "number": card.number,
            "limit": card.limit,
            "keep": card.keep,
            "keyed": card.keyed,
        }
    )


def card_of(record: bytes) -> Card:
    """A card that was kept. Raises: ValueError, KeyError: it is none of ours."""
    value = json.loads(record)
    return Card(
        identity=bytes.fromhex(value["identity"]),
        id=value["id"],
        key=value["key"],
        owner=bytes.fromhex(value["owner"]),
        route=value["route"],
        request=bytes.fromhex(value["request"]),
        begun_by_get=value["get"],
        number=value["number"],
        limit=value["limit"],
        keep=value["keep"],
        keyed=value["keyed"],
    )


def fields_record(fields: Fields) -> bytes:
    """The fields of a head as they are kept."""
    return _json(_texts(fields))


def fields_of(record: bytes) -> Fields:
    """Fields that were kept."""
    return _fields(json.loads(record))


def end_record(end: End, ending: Ending, answer: Answer | None) -> bytes:
    """An end as it is kept, beside where and until when."""
    value: dict[str, Any] = {
        "clean": end.clean,
        "over": end.over,
        "words": end.last_words.decode("latin-1"),
        "abort": end.abort,
        "ending": list(ending),
    }
    if answer is not None:
        body = answer.body.decode("latin-1")
        value["answer"] = [answer.status, _texts(answer.fields), body]
    return _json(value)


def sealed_of(record: bytes, last: int, until: float) -> Sealed:
    """An end that was kept."""
    value = json.loads(record)
    side, phase, cause, detail = value["ending"]
    answer = None
    if "answer" in value:
        status, texts, body = value["answer"]
        answer = Answer(status, _fields(texts), body.encode("latin-1"))
    end = End(value["clean"], value["over"], value["words"].encode("latin-1"), value["abort"])
    return Sealed(end, Ending(Side(side), Phase(phase), Cause(cause), detail), last, until, answer)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _texts(fields: Fields) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _fields(texts: list[list[str]]) -> Fields:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in texts]
