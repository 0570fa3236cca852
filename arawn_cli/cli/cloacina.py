"""`schedule show`, `status` and `serve` with `--cloacina`."""

from __future__ import annotations

import os
import socket
import sys
import time

from arawn_cli.cli.options import Output
from arawn_cli.cli.schedule import print_statuses
from arawn_cli.config.loader import Config, Flags, load, load_all
from arawn_cli.errors import ExitCode
from arawn_cli.schedule.cloacina import service
from arawn_cli.schedule.cloacina.engine_database import database_from
from arawn_cli.schedule.cloacina.workflows import statuses, workflows_of
from arawn_cli.schedule.status import is_healthy


def show(flags: Flags, output: Output, database: str | None) -> None:
    """Print one workflow per line, with its cron expression; hide the password of the database."""
    configs = _configs(flags)
    place = database_from(database, os.environ, configs[0].state_directory)
    workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
    sys.stdout.write(f"# {place}, times in UTC: second minute hour day month weekday\n")
    for workflow in workflows:
        sys.stdout.write(f"{workflow.name}\t{workflow.cron}\n")


def status(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """Print the status of each workflow.

    Return 1 if one differs from the configuration, or its last run failed.
    """
    configs = _configs(flags)
    place = database_from(database, os.environ, configs[0].state_directory)
    workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
    found = statuses(place, workflows, time.time_ns(), socket.gethostname())
    print_statuses(found, output)
    return ExitCode.DONE if all(map(is_healthy, found)) else ExitCode.PARTIAL


def serve(flags: Flags, output: Output, database: str | None) -> None:
    """Serve the workflows of all roots until a signal."""
    environment = dict(os.environ)
    engine = service.load_engine()
    configs = load_all(flags, os.environ)
    place = database_from(database, os.environ, configs[0].state_directory)
    workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
    service.serve(engine, workflows, place, configs[0].state_directory, environment)


def _configs(flags: Flags) -> list[Config]:
    return load_all(flags, os.environ) if flags.root is None else [load(flags, os.environ)]
