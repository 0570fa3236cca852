"""`schedule show`, `status` and `serve` with `--cloacina`."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from arawn_cli.cli.options import Output
from arawn_cli.config.loader import Flags, load, load_all
from arawn_cli.events import ScheduleStatus
from arawn_cli.schedule.cloacina import service
from arawn_cli.schedule.cloacina.engine_database import EngineDatabase, database_from
from arawn_cli.schedule.cloacina.workflows import Workflow, statuses, workflows_of


def show(flags: Flags, output: Output, database: str | None) -> None:
    """Print one workflow per line, with its cron expression; hide the password of the database."""
    workflows, place, _ = _loaded(flags, output, database)
    sys.stdout.write(f"# {place}, times in UTC: second minute hour day month weekday\n")
    for workflow in workflows:
        sys.stdout.write(f"{workflow.name}\t{workflow.cron}\n")


def status(flags: Flags, output: Output, database: str | None) -> list[ScheduleStatus]:
    """Return the status of each workflow."""
    workflows, place, _ = _loaded(flags, output, database)
    return statuses(place, workflows, time.time_ns(), socket.gethostname())


def serve(flags: Flags, output: Output, database: str | None) -> None:
    """Serve the workflows of all roots until a signal."""
    environment = dict(os.environ)
    engine = service.load_engine()
    workflows, place, state_directory = _loaded(flags, output, database)
    service.serve(engine, workflows, place, state_directory, environment)


def _loaded(flags: Flags, output: Output, database: str | None) -> tuple[list[Workflow], EngineDatabase, Path]:
    """Return the workflows of one or all roots, the database, and the state directory."""
    configs = load_all(flags, os.environ) if flags.root is None else [load(flags, os.environ)]
    state_directory = configs[0].state_directory
    workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
    return workflows, database_from(database, os.environ, state_directory), state_directory
