"""relay inside an ASGI server on Trio: the server brings TLS, HTTP/2 and HTTP/3.

app = relay.asgi.create("relay.toml")        # hypercorn --worker-class trio module:app
"""

from __future__ import annotations

from relay.asgi.app import App, CannotStart, app_from, create

__all__ = ["App", "CannotStart", "app_from", "create"]
