"""`python -m relay.asgi [options] module:app`: the command `hypercorn`, with connections contained (relay.asgi.serving)."""

from __future__ import annotations

import sys

from relay.asgi.serving import UnknownServer, main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UnknownServer as error:
        sys.exit(f"relay: {error}")
