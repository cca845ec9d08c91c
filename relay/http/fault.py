"""What is wrong with bytes that came in, as one exception with a side.

A Fault is raised by the sans-IO rooms and caught once, by the exchange, which turns it into an Ending: the same
malformed bytes are a 400 when a client sent them and a 502 when an upstream did (h11's own hint knows no side).
"""

from __future__ import annotations

from typing import Literal


class Fault(Exception):
    """Bytes, a head or a body that break the rules.

    Attributes:
        side: who sent it.
        status: the status of relay's own error response, as long as no head went out.
        code: short and stable, for programs (`error.code` of the response body).
        message: for people; never contains a secret, a body, or long input.
        passed: what the other side still gets of the bytes before the fault, of the same read.
    """

    __slots__ = ("code", "message", "passed", "side", "status")

    def __init__(
        self, side: Literal["client", "upstream"], status: int, code: str, message: str
    ) -> None:
        super().__init__(f"{side}: {code}: {message}")
        self.side = side
        self.status = status
        self.code = code
        self.message = message
        self.passed = b""


class MethodRefused(Fault):
    """A method that relay takes nowhere. The 405 names what the path takes (RFC 9110 §15.5.6).

    Attributes:
        path: of the request's target; b"" where that is no path.
    """

    __slots__ = ("path",)

    def __init__(self, method: bytes, path: bytes) -> None:
        message = f"{method.decode('ascii')} is not supported"
        super().__init__("client", 405, "method_not_allowed", message)
        self.path = path


def bad_request(message: str, *, status: int = 400, code: str = "bad_request") -> Fault:
    """The client broke the rules; the connection cannot be used any more."""
    return Fault("client", status, code, message)


def bad_response(message: str, *, code: str = "bad_response") -> Fault:
    """The upstream broke the rules; what the client sees is a 502 while that is still honest."""
    return Fault("upstream", 502, code, message)
