"""The configuration of `relay forward URL`, made without a file.

It has a module of its own so that `relay forward` starts without the reader and its schema.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.config.addresses import parse_address, parse_url
from relay.config.mistakes import ConfigError, Mistake
from relay.config.values import Config, Forward, Limits, Route, Server, Timeouts, Upstream
from relay.routing.pattern import Pattern


def forward_config(url: str, listen: Sequence[str] = ()) -> Config:
    """The configuration of `relay forward URL`: everything to one upstream.

    Raises: ConfigError whose keys are the arguments, `URL` and `--listen`.
    """
    mistakes = []
    upstream, addresses = None, []
    try:
        upstream = Upstream("upstream", (parse_url(url),))
    except ValueError as error:
        mistakes.append(Mistake("URL", str(error)))
    for each in listen or ("127.0.0.1:8000",):
        try:
            addresses.append(parse_address(each))
        except ValueError as error:
            mistakes.append(Mistake("--listen", str(error)))
    if upstream is None or mistakes:
        raise ConfigError(mistakes)
    limits, timeouts = Limits(), Timeouts()
    pattern = Pattern.parse("/{path...}")
    route = Route("forward", pattern, Forward(upstream), timeouts, limits)
    server = Server(tuple(addresses))
    return Config(server, limits, timeouts, {upstream.name: upstream}, (route,))
