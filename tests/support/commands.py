"""The commands of the program by the words that call them, as the docs are held against them."""

from __future__ import annotations

from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from arawn_cli.cli import app

PROGRAM = "arawn-cli"


def commands() -> dict[str, TyperCommand | TyperGroup]:
    """Every command and group, the program itself among them."""
    return dict(_below(PROGRAM, get_command(app.program())))


def options_of(command: TyperCommand | TyperGroup) -> set[str]:
    """Every way to write an option of a command but its help."""
    return {name for parameter in command.params if parameter.param_type_name == "option" for name in all_names(parameter)}


def all_names(parameter: object) -> tuple[str, ...]:
    """How an option is written: its names, and those that switch it off."""
    return (*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ()))


def _below(name: str, command: object) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    if isinstance(command, TyperGroup):
        yield name, command
        for word, inner in command.commands.items():
            yield from _below(f"{name} {word}", inner)
    elif isinstance(command, TyperCommand):
        yield name, command
