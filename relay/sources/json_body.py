"""JSON that came in: UTF-8 (RFC 8259 §8.1), one value, nothing that only Python reads."""

from __future__ import annotations

from relay.sse.json_line import NotJSON, read


def json_of(body: bytes) -> object:
    """The value of a body. Raises: NotJSON."""
    try:
        return read(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotJSON("it is not UTF-8") from None


def json_object(body: bytes) -> dict[str, object]:
    """The members of a body that is a JSON object. Raises: NotJSON."""
    value = json_of(body)
    if not isinstance(value, dict):
        raise NotJSON("it is not an object")
    return value
