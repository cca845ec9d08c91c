"""`relay completion bash|zsh|fish`: a script for the shell, made from the command line's own parser.

Of our own, because the one well-kept library for it (shtab) would be a dependency of everybody for
five commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")


class Command(NamedTuple):
    """One command as a shell needs it."""

    name: str
    help: str
    options: tuple[str, ...]  # long ones
    files: bool  # its operand is a CONFIG.toml
    choices: tuple[str, ...]  # of its operand


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script for one of SHELLS, without a newline at its end."""
    writers: dict[str, Callable[[list[Command]], Iterator[str]]] = {
        "bash": _bash,
        "zsh": _zsh,
        "fish": _fish,
    }
    return "\n".join(writers[shell](list(_commands(parser))))


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    [subparsers] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    helps = {each.dest: each.help or "" for each in subparsers._choices_actions}
    for name, command in subparsers.choices.items():
        operands = [action for action in command._actions if not action.option_strings]
        options = [flag for action in command._actions for flag in action.option_strings]
        yield Command(
            name,
            helps[name],
            tuple(flag for flag in options if flag.startswith("--")),
            any(operand.metavar == "CONFIG.toml" for operand in operands),
            tuple(str(each) for operand in operands for each in operand.choices or ()),
        )


def _bash(commands: list[Command]) -> Iterator[str]:
    names = " ".join([*(command.name for command in commands), "--version", "--help"])
    yield "# relay's completion for bash: source <(relay completion bash)"
    yield "_relay() {"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} words="" files=""'
    yield '    if [ "$COMP_CWORD" = 1 ]; then'
    yield f'        words="{names}"'
    yield "    else"
    yield "        case ${COMP_WORDS[1]} in"
    for command in commands:
        words = " ".join((*command.choices, *command.options))
        files = " files=yes" if command.files else ""
        yield f'            {command.name}) words="{words}"{files} ;;'
    yield "        esac"
    yield "    fi"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield '    if [ "$files" ]; then'
    yield '        COMPREPLY+=($(compgen -f -X \'!*.toml\' -- "$word") $(compgen -d -- "$word"))'
    yield "    fi"
    yield "}"
    yield "complete -o filenames -F _relay relay"


def _zsh(commands: list[Command]) -> Iterator[str]:
    yield "#compdef relay"
    yield "# relay's completion for zsh: source <(relay completion zsh)"
    yield "_relay() {"
    yield "    local -a commands=("
    for command in commands:
        yield f"        {_quoted(f'{command.name}:{command.help}')}"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe command commands"
    yield "        compadd -- --version --help"
    yield "        return"
    yield "    fi"
    yield "    case $words[2] in"
    for command in commands:
        parts = [f"compadd -- {' '.join((*command.choices, *command.options))}"]
        if command.files:
            parts.append("_files -g '*.toml'")
        yield f"        {command.name}) {'; '.join(parts)} ;;"
    yield "    esac"
    yield "}"
    yield 'if [ "$funcstack[1]" = "_relay" ]; then _relay; else compdef _relay relay; fi'


def _fish(commands: list[Command]) -> Iterator[str]:
    yield "# relay's completion for fish: relay completion fish | source"
    yield "complete -c relay -f"
    yield "complete -c relay -n __fish_use_subcommand -l version -l help"
    for command in commands:
        described = f"-a {command.name} -d {_quoted(command.help)}"
        yield f"complete -c relay -n __fish_use_subcommand {described}"
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            yield f"complete -c relay {seen} -l {option.removeprefix('--')}"
        if command.choices:
            yield f"complete -c relay {seen} -a {_quoted(' '.join(command.choices))}"
        if command.files:
            yield f"complete -c relay {seen} -k -a '(__fish_complete_suffix .toml)'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
