"""Every case of the HTTP tables: whole, byte by byte, split at random, with bytes behind it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import astuple

from relay.http import heads
from relay.http.fault import Fault
from relay.http.heads import RequestHead, ResponseHead

Parse = Callable[[bytes], tuple[object, int] | None]
Outcome = tuple[object, ...]

MORE: Outcome = ("more",)


def forget_heads() -> None:
    """Empty the memos, so that the next head is really parsed."""
    heads.requests_seen.clear()
    heads.responses_seen.clear()


def feed(parse: Parse, data: bytes, ends: Iterable[int]) -> Outcome:
    """What a connection sees whose buffer has grown to each of `ends` in turn."""
    for end in ends:
        try:
            parsed = parse(data[:end])
        except Fault as fault:
            return ("fault", fault.side, fault.status, fault.code)
        if parsed is not None:
            value, used = parsed
            plain = astuple(value) if isinstance(value, RequestHead | ResponseHead) else value
            return ("value", plain, used)
    return MORE


def outcome(parse: Parse, data: bytes) -> Outcome:
    """What becomes of `data`, after showing that neither splits nor what follows change it."""
    size = len(data)
    forget_heads()
    whole = feed(parse, data, [size])
    assert feed(parse, data, [size]) == whole, "the memo changed the outcome"
    forget_heads()
    assert feed(parse, data, range(size + 1)) == whole, "byte by byte"
    chooser = random.Random(size)
    for _ in range(8):
        cuts = sorted(chooser.sample(range(size + 1), min(size, 3)))
        assert feed(parse, data, [*cuts, size]) == whole, f"split at {cuts}"
    if whole != MORE:
        for behind in (b"\x00\xff\n", b"\r\n\r\n", b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"):
            forget_heads()
            assert feed(parse, data + behind, [size + len(behind)]) == whole, f"before {behind!r}"
            assert feed(parse, data + behind, range(size + len(behind) + 1)) == whole
    return whole
