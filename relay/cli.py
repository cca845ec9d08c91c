"""The command line (design §7)."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence

USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 clean, 1 fault, 2 bad usage or configuration."""
    gc.disable()  # while modules load there is nothing to find; `serve` turns it on again
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    finally:
        gc.enable()


def _parser() -> argparse.ArgumentParser:
    from relay import __version__

    parser = argparse.ArgumentParser(
        prog="relay",
        description="A streaming HTTP/1.1 relay: the first byte at once, nothing held back.",
    )
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    forward = commands.add_parser("forward", help="everything to one upstream, no file needed")
    forward.add_argument(
        "url", metavar="URL", help="http://host:port/base, https://… or unix:/path"
    )
    forward.add_argument(
        "--listen",
        metavar="ADDR",
        action="append",
        default=[],
        help="host:port, [::1]:port, unix:/path or fd:N; several times for several"
        " (127.0.0.1:8000)",
    )
    forward.set_defaults(run=_forward)
    serve = commands.add_parser("serve", help="run a configuration file")
    serve.add_argument("config", metavar="CONFIG.toml")
    serve.set_defaults(run=_serve)
    check = commands.add_parser(
        "check", help="print every mistake, or the route table in matching order"
    )
    check.add_argument("config", metavar="CONFIG.toml")
    check.set_defaults(run=_check)
    demo = commands.add_parser("demo", help="an origin, a relay and a page to look at")
    demo.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1:8000", help="where the page is (%(default)s)"
    )
    demo.set_defaults(run=_demo)
    completion = commands.add_parser("completion", help="print a completion script for a shell")
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=_completion)
    return parser


def _forward(options: argparse.Namespace) -> int:
    from relay.config import ConfigError, forward_config
    from relay.serving.run import serve

    try:
        config = forward_config(options.url, options.listen or ["127.0.0.1:8000"])
    except ConfigError as error:
        print(f"relay: {error}", file=sys.stderr)
        return USAGE
    return serve(config)


def _serve(options: argparse.Namespace) -> int:
    from relay.config import ConfigError, load
    from relay.serving.run import serve

    try:
        config = load(options.config, os.environ)
    except ConfigError as error:
        print(f"relay: {error}", file=sys.stderr)
        return USAGE
    return serve(config)


def _check(options: argparse.Namespace) -> int:
    from relay.config import ConfigError, describe, load, warnings

    try:
        config = load(options.config, os.environ)
    except ConfigError as error:
        print(f"relay: {error}", file=sys.stderr)
        return USAGE
    print(describe(config))
    for warning in warnings(config):
        print(f"relay: warning: {warning}", file=sys.stderr)
    return 0


def _completion(options: argparse.Namespace) -> int:
    from relay.completion import script

    print(script(options.shell, _parser()))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from relay.demo import run

    return run(options.listen)
