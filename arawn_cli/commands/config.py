"""`config show`, `init` and `schema`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from arawn_cli.commands.options import BasePathOption, ConfigOption, Format, FormatOption, QuietOption, RootOption, VerboseOption

app = typer.Typer(no_args_is_help=True, help="The configuration: values in effect, a commented file, its JSON Schema.")


class SchemaOf(str, Enum):
    """What a schema is of."""

    CONFIG = "config"
    EVENTS = "events"
    PLAN = "plan"


@app.command("show")
def config_show(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show every value in effect and its source: an option, the environment, the file or a default. Secrets are left out."""
    from arawn_cli.config import Flags
    from arawn_cli.reference.command import run_config_show
    from arawn_cli.run import Output

    raise typer.Exit(
        run_config_show(Flags(config=config, base_path=base_path, root=root), Output(format=output.value, verbose=verbose, quiet=quiet))
    )


@app.command("init")
def config_init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to write; - prints it. Without it, the configuration of your account.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file without asking.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a configuration file with every key, its meaning and its default, all commented out."""
    from arawn_cli.question import confirmed
    from arawn_cli.reference.command import run_config_init
    from arawn_cli.run import Output

    ask = confirmed if sys.stdin.isatty() and sys.stdout.isatty() else None
    raise typer.Exit(run_config_init(file, Output(format="table", verbose=False, quiet=quiet), ask, overwrite=force))


@app.command("schema")
def config_schema(
    of: Annotated[SchemaOf, typer.Argument(metavar="KIND", help="Of the configuration file, one event, or a plan.")] = SchemaOf.CONFIG,
    quiet: QuietOption = False,
) -> None:
    """Print a JSON Schema: of the configuration file for editors, of the events, or of a plan."""
    from arawn_cli.reference.command import run_config_schema
    from arawn_cli.run import Output

    raise typer.Exit(run_config_schema(of.value, Output(format="json", verbose=False, quiet=quiet)))
