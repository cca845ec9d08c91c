"""source = "forward": the client's request goes to one upstream.

The plan stands in config/values, because `relay forward` starts without what reads a file.
"""

from __future__ import annotations

from typing import Final

from relay.config.keys.route_reading import RouteReading, SourceKind
from relay.config.keys.translations import TRANSLATE
from relay.config.reading import kinds
from relay.config.reading.schema import Key, ListOf
from relay.config.values import Forward
from relay.routing.template import Template

RETRY_CAUSES: Final = ("refused", "timeout", "502", "503", "504", "429")


def _read(route: RouteReading) -> Forward | None:
    values = route.values
    upstream = route.upstream(values, (), "the upstream that is asked")
    template: Template | None = values.get("upstream_path")
    right = route.check(template, ("upstream_path",), ("path", "query"))
    translate = route.translation(values, ())
    return Forward(upstream, template, translate) if upstream is not None and right else None


_RETRIES: Final = kinds.choice(*RETRY_CAUSES)
_KEYS: Final = (
    Key("upstream", kinds.NAME, "", "For `forward`: the upstream."),
    Key(
        "upstream_path",
        kinds.TEMPLATE,
        "",
        "For `forward`: the target, with `{x}` and `{query.x}`; not set: the path as it came. "
        "Without a `?` the client's query follows; with one it is replaced.",
    ),
    TRANSLATE,
    Key(
        "retries",
        kinds.whole(0, 10),
        "0",
        "Tries on another url before the first byte (on event streams: before the first whole block, a comment too).",
        "Only where asking twice does no harm.",
    ),
    Key(
        "retry_on",
        ListOf(_RETRIES, frozenset, single=True),
        '["refused", "timeout", "502", "503", "504"]',
        "What counts as a failure: these and `429`, whose Retry-After is honoured.",
    ),
)
SOURCE: Final = SourceKind(Forward, _KEYS, _read)
