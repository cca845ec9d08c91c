"""Modules that only some routes need, loaded when such a route is configured.

Not at the first request: loading opens files, for which there may be no descriptor then, and takes milliseconds in which
every stream would stand still.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.config.values import Answer, Local, Route


def load_for(routes: Iterable[Route]) -> None:
    """Load what the requests of these routes may need."""
    for route in routes:
        source = route.source
        if isinstance(source, Local) and source.directory is not None:
            import relay.sources.files  # noqa: F401 - tables of types and dates: most relays serve no files
        elif isinstance(source, Answer):
            from relay.sse import chunking

            chunking.prepare()
