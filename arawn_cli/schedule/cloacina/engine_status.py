"""`schedule show` and `schedule status` for Cloacina: what would be registered, what is, and how the last runs went.

Both read the database alone: Cloacina itself, once started, would begin what is due.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from arawn_cli import timestamps
from arawn_cli.cli.runner import Output, guarded
from arawn_cli.cli.schedule import print_statuses
from arawn_cli.config.loader import Config, Flags, load, load_all
from arawn_cli.errors import EXIT_MEANINGS, ExitCode
from arawn_cli.events import Condition, RunResult, ScheduleStatus
from arawn_cli.output.jsonl import printing
from arawn_cli.schedule.cloacina.runs import OUTCOME
from arawn_cli.schedule.cloacina.schedules import EngineDatabase, LastRun, Registered, database_from
from arawn_cli.schedule.cloacina.service import wanted
from arawn_cli.schedule.cloacina.workflows import Workflow
from arawn_cli.schedule.status import is_well

if TYPE_CHECKING:
    from rich.console import Console

_SERVE = "run arawn-cli schedule serve --cloacina"


def run_show_cloacina(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """`schedule show --cloacina`: one workflow a line, with its expression; the password of the database is not shown."""

    def body(_: Console | None) -> ExitCode:
        configs = _configs(flags)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = wanted(configs, flags, output)
        with printing():
            sys.stdout.write(f"# {place}, times in UTC: second minute hour day month weekday\n")
            for workflow in workflows:
                sys.stdout.write(f"{workflow.name}\t{workflow.cron}\n")
        return ExitCode.DONE

    return guarded(output, body)


def run_status_cloacina(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """`schedule status --cloacina`; 1 when something is not as configured, or the last run failed."""

    def body(_: Console | None) -> ExitCode:
        configs = _configs(flags)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = wanted(configs, flags, output)
        registered = {schedule.workflow: schedule for schedule in place.schedules()}
        ended = place.last_runs()
        found = [_status(place, workflow, registered, ended) for workflow in workflows]
        print_statuses(found, output)
        return ExitCode.DONE if all(is_well(status) for status in found) else ExitCode.PARTIAL

    return guarded(output, body)


def _configs(flags: Flags) -> list[Config]:
    return load_all(flags, os.environ) if flags.root is None else [load(flags, os.environ)]


def _status(
    place: EngineDatabase, workflow: Workflow, registered: Mapping[str, Registered], ended: Mapping[str, LastRun]
) -> ScheduleStatus:
    schedule, last = registered.get(workflow.name), ended.get(workflow.name)
    condition = condition_of(workflow.cron, schedule)
    return ScheduleStatus(
        timestamp=timestamps.render(time.time_ns()),
        host=socket.gethostname(),
        root=workflow.order.root,
        dry_run=False,
        job=workflow.order.job,
        scheduler="cloacina",
        scope=place.kind,
        installed=condition,
        enabled=schedule is not None and schedule.enabled,
        next_run=schedule.next_run if schedule else None,
        last_run=last.began if last else None,
        result=result_of(last),
        problems=tuple(_problems(workflow.name, condition, schedule, last)),
    )


def condition_of(cron: str, schedule: Registered | None) -> Condition:
    """Whether a schedule is there, and as the configuration says."""
    if schedule is None:
        return Condition.MISSING
    return Condition.CURRENT if schedule.cron == cron else Condition.OUTDATED


def result_of(last: LastRun | None) -> RunResult | None:
    """The result of a run in the words of `schedule status`; None where none has ended."""
    if last is None:
        return None
    if last.error is not None:
        return RunResult.FAILED
    return RunResult.LOCKED if last.context.get(OUTCOME) == EXIT_MEANINGS[ExitCode.LOCKED] else RunResult.SUCCESS


def _problems(name: str, condition: Condition, schedule: Registered | None, last: LastRun | None) -> list[str]:
    found = []
    if condition is Condition.MISSING:
        found.append(f"{name} is not registered: {_SERVE}")
    if condition is Condition.OUTDATED:
        found.append(f"{name} is registered with another interval: {_SERVE} anew")
    if schedule is not None and not schedule.enabled:
        found.append(f"{name} is switched off in Cloacina")
    if last is not None and last.error is not None:
        found.append(f"the last run of {name} failed: {last.error}")
    return found
