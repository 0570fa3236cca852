"""`schedule show`, `status` and `serve` with `--cloacina`."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from arawn_cli.cli.runner import Output, guarded
from arawn_cli.cli.schedule import print_statuses
from arawn_cli.config.loader import Config, Flags, load, load_all
from arawn_cli.errors import ExitCode
from arawn_cli.output.jsonl import printing
from arawn_cli.schedule.cloacina.engine_status import statuses
from arawn_cli.schedule.cloacina.schedules import database_from
from arawn_cli.schedule.cloacina.service import load_engine, serve
from arawn_cli.schedule.cloacina.workflows import workflows_of
from arawn_cli.schedule.status import is_healthy

if TYPE_CHECKING:
    from rich.console import Console


def run_show_cloacina(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """Print one workflow a line, with its expression. The database is shown without its password."""

    def body(_: Console | None) -> ExitCode:
        configs = _configs(flags)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
        with printing():
            sys.stdout.write(f"# {place}, times in UTC: second minute hour day month weekday\n")
            for workflow in workflows:
                sys.stdout.write(f"{workflow.name}\t{workflow.cron}\n")
        return ExitCode.DONE

    return guarded(output, body)


def run_status_cloacina(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """Print the status of each workflow. Return 1 if one differs from the configuration, or its last run failed."""

    def body(_: Console | None) -> ExitCode:
        configs = _configs(flags)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
        found = statuses(place, workflows, time.time_ns(), socket.gethostname())
        print_statuses(found, output)
        return ExitCode.DONE if all(is_healthy(status) for status in found) else ExitCode.PARTIAL

    return guarded(output, body)


def run_serve(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """Serve the workflows of all roots until a signal."""

    def body(_: Console | None) -> ExitCode:
        environment = dict(os.environ)
        engine = load_engine()
        configs = load_all(flags, os.environ)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
        serve(engine, workflows, place, configs[0].state_directory, environment)
        return ExitCode.DONE

    return guarded(output, body)


def _configs(flags: Flags) -> list[Config]:
    return load_all(flags, os.environ) if flags.root is None else [load(flags, os.environ)]
