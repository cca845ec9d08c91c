"""TOML in, frozen and validated values out; every mistake reported with its key.

Three rooms, from top to bottom: `keys` says which keys there are and what they say about each other, `reading` how any
table is read, `values` what a configuration is once it has been read.

`load` and `describe` import their modules when they are called: `relay forward` needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relay.config.forward import forward_config
from relay.config.reading.addresses import parse_address
from relay.config.reading.mistakes import ConfigError, Mistake
from relay.config.values import Config

if TYPE_CHECKING:
    from pathlib import Path

    from relay.config.values import Override

__all__ = [
    "Config",
    "ConfigError",
    "Mistake",
    "describe",
    "forward_config",
    "load",
    "loads",
    "overrides_of",
    "parse_address",
    "warnings",
]


def load(
    path: str | Path, environ: Mapping[str, str], overrides: Sequence[Override] = ()
) -> Config:
    """Read and check a file, or what stdin gives (`-`); relative paths inside it start from its folder.

    Raises: ConfigError with every mistake.
    """
    from relay.config import loading

    return loading.load(path, environ, overrides)


def loads(
    text: str,
    environ: Mapping[str, str],
    *,
    path: str | None = None,
    overrides: Sequence[Override] = (),
) -> Config:
    """Check a text; without `path` relative paths inside it start from the working folder.

    Raises: ConfigError with every mistake.
    """
    from relay.config import loading

    return loading.loads(text, environ, path=path, overrides=overrides)


def overrides_of(
    settings: Sequence[str], listen: Sequence[str], admin: str | None
) -> tuple[Override, ...]:
    """What `--set`, `--listen` and `--admin` put over a file. Raises: ConfigError with every mistake."""
    from relay.config.reading import overrides

    return overrides.overrides_of(settings, listen, admin)


def describe(config: Config) -> str:
    """The listeners and the route table in matching order, for people; no secret is in it."""
    from relay.config import description

    return description.describe(config)


def warnings(config: Config) -> tuple[str, ...]:
    """What is allowed and probably not meant."""
    from relay.config import description

    return description.warnings(config)
