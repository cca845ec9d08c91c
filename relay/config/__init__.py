"""TOML in, frozen and validated values out; every mistake reported with its key."""

from relay.config.addresses import parse_address
from relay.config.load import forward_config, load, loads
from relay.config.mistakes import ConfigError, Mistake

__all__ = ["ConfigError", "Mistake", "forward_config", "load", "loads", "parse_address"]
