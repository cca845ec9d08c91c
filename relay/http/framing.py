"""How long a body is, in one number (RFC 9112 §6.3).

`n >= 0`: exactly n bytes, 0 is no body; `CHUNKED`: the chunked coding says; `UNTIL_CLOSE`: the connection's end says
(responses only). One number because it is read on every step and kept for every stream.
"""

from __future__ import annotations

from typing import Final

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
