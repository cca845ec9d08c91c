"""The command line (docs/reference/command-line.md).

Rules
  * Who reads our output may stop: `relay completion bash | head` ends quietly.
  * A system that relay cannot run on, and a configuration that cannot be used, get a sentence, never a traceback.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.config.values import Config

FAULT = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 clean, 1 fault, 2 bad usage or configuration."""
    gc.disable()  # while modules load there is nothing to find; `serve` turns it on again
    try:
        return _run(arguments)
    except BrokenPipeError:
        _forget_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # of a write: the commands know all others themselves
        _forget_output()
        _complain(f"the output cannot be written: {error.strerror or error}")
        return FAULT
    finally:
        gc.enable()


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options, unknown = parser_of_commands().parse_known_args(arguments)
        # The command says so, and what it takes; argparse would show the usage of `relay`
        if unknown:
            options.command.error(f"unrecognized arguments: {' '.join(unknown)}")
        return int(options.run(options))
    finally:
        if sys.stdout is not None:  # it may be closed from the start
            sys.stdout.flush()  # here, and not when the interpreter ends


def _forget_output() -> None:
    """Nobody takes what is printed: let the interpreter write the rest to nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(message: object) -> None:
    """Say on stderr what is wrong; if nobody listens there, the exit code tells."""
    with suppress(OSError):
        print(f"relay: {message}", file=sys.stderr, flush=True)


def _can_run() -> bool:
    """Whether this system has what relay is built on; says what is missing."""
    if hasattr(select, "epoll"):
        return True
    _complain(
        "this system has no epoll, so relay cannot run here: it needs Linux, in a container for instance"
        " (`relay check` works everywhere)"
    )
    return False


def parser_of_commands() -> argparse.ArgumentParser:
    from relay import __version__

    parser = argparse.ArgumentParser(
        prog="relay",
        description="A streaming HTTP/1.1 relay: the first byte at once, nothing held back.",
    )
    parser.add_argument("--version", action="version", version=f"relay {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    forward = _command(commands, "forward", "everything to one upstream, no file needed")
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
    _add_forward_options(forward)
    forward.set_defaults(run=_forward)
    serve = _command(commands, "serve", "run a configuration file")
    serve.add_argument("config", metavar="CONFIG.toml", help="a file, or - for what stdin gives")
    serve.add_argument(
        "--takeover",
        action="store_true",
        help="share the addresses of a relay that runs, until you have told it to drain",
    )
    _add_overrides(serve)
    serve.add_argument(
        "--watch", action="store_true", help="reload whenever the file changes, for development"
    )
    serve.set_defaults(run=_serve)
    check = _command(commands, "check", "print every mistake, or the route table in matching order")
    check.add_argument("config", metavar="CONFIG.toml", help="a file, or - for what stdin gives")
    _add_overrides(check)
    check.set_defaults(run=_check)
    demo = _command(commands, "demo", "an origin, a relay and a page to look at")
    demo.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1:8000", help="where the page is (%(default)s)"
    )
    demo.set_defaults(run=_demo)
    _add_terminator(commands)
    completion = _command(commands, "completion", "print a completion script for a shell")
    shells = ("bash", "zsh", "fish")
    completion.add_argument("shell", metavar="SHELL", choices=shells, help=", ".join(shells))
    completion.set_defaults(run=_completion)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A command, with what it is for in its own help too."""
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(command=command)
    return command


def _add_overrides(command: argparse.ArgumentParser) -> None:
    """The options whose values replace keys of the file."""
    command.add_argument(
        "--listen", metavar="ADDR", action="append", default=[],
        help="instead of [server] listen; several times for several",
    )  # fmt: skip
    command.add_argument("--admin", metavar="ADDR", help="instead of [server] admin, or off")
    command.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="any other key over the file's: server.workers=2, routes[0].heartbeat=5s",
    )  # fmt: skip


def _add_forward_options(forward: argparse.ArgumentParser) -> None:
    forward.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[],
        help="a field of every request to the upstream, ${VARIABLE} and {file:PATH} filled in; several times for several",
    )  # fmt: skip
    forward.add_argument(
        "--dialect", default="plain", metavar="NAME",
        help="how a stream that breaks says so: plain, named, openai, anthropic, ai-sdk or off (%(default)s)",
    )  # fmt: skip
    forward.add_argument(
        "--resume", action="store_true",
        help="event streams of GET and POST can be taken up again with Last-Event-ID",
    )  # fmt: skip


def _add_terminator(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    names = ("nginx", "caddy", "haproxy", "haproxy-tcp", "hitch", "stunnel")
    text = "print the set-up of a TLS terminator in front of relay"
    terminator = _command(commands, "terminator", text)
    terminator.add_argument("name", metavar="NAME", choices=names, help=", ".join(names))
    terminator.add_argument(
        "--host", metavar="NAME", action="append", required=True,
        help="the name that browsers ask for, as in its certificate; several times for several",
    )  # fmt: skip
    terminator.add_argument(
        "--relay", metavar="ADDR", default="unix:/run/relay/relay.sock",
        help="where relay listens for it: unix:/path or host:port (%(default)s)",
    )  # fmt: skip
    terminator.add_argument(
        "--certificate", metavar="FILE",
        help="certificate and chain (PEM); for haproxy and hitch the key too (below /etc/ssl/relay; caddy makes its own)",
    )  # fmt: skip
    terminator.add_argument("--key", metavar="FILE", help="its key (PEM)")
    terminator.set_defaults(run=_terminator)


def _forward(options: argparse.Namespace) -> int:
    from relay.config import ConfigError, forward_config

    try:
        config = forward_config(
            options.url,
            options.listen or ["127.0.0.1:8000"],
            headers=options.header,
            dialect=options.dialect,
            resume=options.resume,
            environ=os.environ,
        )
    except ConfigError as error:
        _complain(error)
        return USAGE
    if not _can_run():
        return FAULT
    _warn(config)
    from relay.processes.run import serve

    return serve(config)


def _serve(options: argparse.Namespace) -> int:
    if options.watch and options.config == "-":
        _complain("--watch needs a file: what stdin gives is read once")
        return USAGE
    from relay.processes.file_watch import FileWatch

    watch = FileWatch(options.config) if options.watch else None  # before the file is read
    config = _loaded(options)
    if config is None:
        return USAGE
    if not _can_run():
        return FAULT
    _warn(config)
    from relay.processes.run import serve

    return serve(config, takeover=options.takeover, watch=watch)


def _loaded(options: argparse.Namespace) -> Config | None:
    """The file with what the command line puts over it; None after what is wrong was said."""
    from relay.config import ConfigError, load, overrides_of

    try:
        overrides = overrides_of(options.set, options.listen, options.admin)
        return load(options.config, os.environ, overrides)
    except ConfigError as error:
        _complain(error)
        return None


def _warn(config: Config) -> None:
    """Say what is allowed and probably not meant."""
    from relay.config import warnings

    for warning in warnings(config):
        _complain(f"warning: {warning}")


def _check(options: argparse.Namespace) -> int:
    from relay.config import describe

    config = _loaded(options)
    if config is None:
        return USAGE
    _warn(config)
    print(describe(config))
    return 0


def _completion(options: argparse.Namespace) -> int:
    from relay.shell_completion import script

    print(script(options.shell, parser_of_commands()))
    return 0


def _terminator(options: argparse.Namespace) -> int:
    from relay.terminators import Wanted, terminator

    wanted = Wanted(tuple(options.host), options.relay, options.certificate, options.key)
    try:
        print(terminator(options.name, wanted), end="")
    except ValueError as error:
        _complain(error)
        return USAGE
    return 0


def _demo(options: argparse.Namespace) -> int:
    if not _can_run():
        return FAULT
    from relay.demo import run

    return run(options.listen)
