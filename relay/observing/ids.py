"""The id of an exchange: 16 hexadecimal digits, unique enough to grep for.

One question to the kernel brings many: asked for each exchange it costs more than anything else about an id.
"""

from __future__ import annotations

import os
from typing import Final

_DIGITS: Final = 16
_AT_ONCE: Final = 256

_ids: list[str] = []


def new_id() -> str:
    """The next one."""
    if not _ids:
        digits = os.urandom(_AT_ONCE * _DIGITS // 2).hex()
        _ids.extend(digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))
    return _ids.pop()


# Two processes must not have the same ones.
os.register_at_fork(after_in_child=_ids.clear)
