"""Cards and ends as they are written down, for whoever reads them later: JSON, bytes as Latin-1 or hex."""

from __future__ import annotations

import json
from typing import Any

from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.stores.store import Answer, Card, Sealed


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def as_texts(fields: Fields) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def as_fields(texts: list[tuple[str, str]]) -> Fields:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in texts]


def written_card(card: Card, process: str) -> bytes:
    return as_json(
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
            "process": process,
        }
    )


def read_card(value: dict[str, Any]) -> tuple[Card, str]:
    card = Card(
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
    return card, value["process"]


def written_end(sealed: Sealed) -> dict[str, Any]:
    """An end, for JSON."""
    end, ending, answer = sealed.end, sealed.ending, sealed.answer
    value: dict[str, Any] = {
        "clean": end.clean,
        "over": end.over,
        "words": end.last_words.decode("latin-1"),
        "abort": end.abort,
        "ending": list(ending),
        "last": sealed.last,
        "until": sealed.until,
    }
    if answer is not None:
        body = answer.body.decode("latin-1")
        value["answer"] = [answer.status, as_texts(answer.fields), body]
    return value


def read_end(value: dict[str, Any]) -> Sealed:
    side, phase, cause, detail = value["ending"]
    answer = None
    if "answer" in value:
        status, texts, body = value["answer"]
        answer = Answer(status, as_fields(texts), body.encode("latin-1"))
    return Sealed(
        End(value["clean"], value["over"], value["words"].encode("latin-1"), value["abort"]),
        Ending(Side(side), Phase(phase), Cause(cause), detail),
        value["last"],
        value["until"],
        answer,
    )


def written_fields(fields: Fields) -> bytes:
    """The fields of a head."""
    return as_json(as_texts(fields))


def read_fields(written: bytes) -> Fields:
    return as_fields(json.loads(written))
