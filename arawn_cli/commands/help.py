"""How the help of commands differs from Typer's: it writes a type behind each flag, as if `--dry-run true` could be said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Its parameters."""
        return _without_types_of_flags(super().get_params(ctx))


class Group(TyperGroup):
    """A command that has others."""

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Its parameters."""
        return _without_types_of_flags(super().get_params(ctx))


def add_group(app: typer.Typer, group: typer.Typer, name: str) -> None:
    """Adds a group, all commands of which get this help."""
    for command in group.registered_commands:
        command.cls = Command
    app.add_typer(group, name=name, cls=Group)


def _without_types_of_flags(parameters: list[Parameter]) -> list[Parameter]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
    return parameters
