"""relay inside an ASGI server on Trio: the server brings TLS, HTTP/2 and HTTP/3.

app = relay.asgi.create("relay.toml")        # python -m relay.asgi module:app
await relay.asgi.serve(app, config)          # the same in a program of one's own
"""

from __future__ import annotations

from relay.asgi.app import App, CannotStart, app_from, create
from relay.asgi.serving import UnknownServer, serve

__all__ = ["App", "CannotStart", "UnknownServer", "app_from", "create", "serve"]
