"""Define the workflows of the jobs: names, times, command lines, schedules to change, status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from arawn_cli import timestamps
from arawn_cli.command_events import Condition, ScheduleStatus
from arawn_cli.config.loader import Config, Flags
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import JobName
from arawn_cli.schedule.cloacina.engine_database import EngineDatabase
from arawn_cli.schedule.intervals import cloacina_time

_PREFIXES = {JobName.SCRATCH_CLEANUP: "arawn_scratch_cleanup", JobName.DISK_CHECK: "arawn_disk_check"}
_SERVE = "arawn-cli schedule serve --cloacina"
# Cloacina's scheduler and its recovery put these into each context.
_OF_CLOACINA = {
    "scheduled_time",
    "schedule_id",
    "schedule_timezone",
    "schedule_expression",
    "is_recovery",
    "recovery_attempt",
    "original_execution_id",
}


class RefusedContextError(ArawnCliError):
    """A context has a key or a value that no run may have; nothing has been touched."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Workflow:
    """One job on one root (None for the main one): its name and time in Cloacina, its arguments."""

    name: str
    cron: str
    job: JobName
    root: str | None
    arguments: tuple[str, ...]


def workflows_of(configs: Sequence[Config], flags: Flags, *, verbose: bool, quiet: bool) -> list[Workflow]:
    """Return a pair of workflows for each root; their runs get the options of the service.

    Raises:
        ConfigurationError: an interval cannot be expressed in Cloacina.
    """
    common = ["--format=json", "--unless-running"]
    common += [] if flags.config is None else [f"--config={flags.config.absolute()}"]
    common += [option for option, given in (("--verbose", verbose), ("--quiet", quiet)) if given]
    found = []
    for config in configs:
        root, schedule = config.root_name, config.maintenance.schedule
        own = [f"--root={root}"] if root is not None else [f"--base-path={flags.base_path}"] if flags.base_path is not None else []
        for job, interval in ((JobName.SCRATCH_CLEANUP, schedule.scratch_cleanup), (JobName.DISK_CHECK, schedule.disk_check)):
            name = _PREFIXES[job] if root is None else f"{_PREFIXES[job]}_{root}"
            cron = cloacina_time(interval, job, root or str(config.root))
            found.append(Workflow(name, cron, job, root, (job, *common, *own)))
    return found


def is_ours(workflow: str) -> bool:
    """Return whether a workflow is one of this program, by its name."""
    return workflow.startswith(tuple(_PREFIXES.values()))


def arguments_with(workflow: Workflow, context: Mapping[str, object]) -> list[str]:
    """Return a workflow's arguments with the options that a context adds.

    Of two equal options, the command takes the last.

    Raises:
        RefusedContextError: a key is not allowed, or the command would not take its value.
    """
    cleanup, main_root = workflow.job is JobName.SCRATCH_CLEANUP, workflow.root is None
    arguments = list(workflow.arguments)
    for key, value in context.items():
        match key, value:
            case "dry_run", bool():
                arguments.append("--dry-run" if value else "--no-dry-run")
            case "older_than_days", int() if cleanup and not isinstance(value, bool) and value >= 1:
                arguments.append(f"--older-than-days={value}")
            case "base_path", str() if main_root and value.startswith("/") and "\0" not in value:
                arguments.append(f"--base-path={value}")
            case _ if key not in _OF_CLOACINA:
                raise RefusedContextError(
                    f"the context has {key} = {value!r}: allowed are dry_run (true or false), for cleanup older_than_days (1 or more), "
                    "and for the main root base_path (which begins with /)"
                )
    return arguments


def changes_to(wanted: Mapping[str, str], found: Iterable[Mapping[str, object]]) -> tuple[dict[str, str], list[str]]:
    """Return the schedules to register, cron expressions by name, and the ids of those to delete.

    Then each wanted workflow has one schedule. A schedule with the wanted expression stays.
    """
    missing, delete = dict(wanted), []
    for schedule in found:
        workflow = str(schedule["workflow_name"])
        if workflow in missing and schedule["cron_expression"] == missing[workflow]:
            del missing[workflow]
        elif is_ours(workflow):
            delete.append(str(schedule["id"]))
    return missing, delete


def statuses(database: EngineDatabase, workflows: Sequence[Workflow], now: int, host: str) -> list[ScheduleStatus]:
    """Return the status of each workflow, in the same order; `now` is in nanoseconds.

    Raises:
        EngineError: the database cannot be read.
    """
    registered = {schedule.workflow: schedule for schedule in database.schedules()}
    ended = database.last_runs()
    found = []
    for workflow in workflows:
        schedule, last = registered.get(workflow.name), ended.get(workflow.name)
        condition, problems = Condition.CURRENT, []
        if schedule is None:
            condition = Condition.MISSING
            problems.append(f"{workflow.name} is not registered: run {_SERVE}")
        elif schedule.cron != workflow.cron:
            condition = Condition.OUTDATED
            problems.append(f"{workflow.name} is registered with another interval: restart {_SERVE}")
        if schedule is not None and not schedule.enabled:
            problems.append(f"{workflow.name} is switched off in Cloacina")
        if last is not None and last.error is not None:
            problems.append(f"the last run of {workflow.name} failed: {last.error}")
        found.append(
            ScheduleStatus(
                timestamp=timestamps.render(now),
                host=host,
                root=workflow.root,
                dry_run=False,
                job=workflow.job,
                scheduler="cloacina",
                scope="postgresql" if database.file is None else "sqlite",
                installed=condition,
                enabled=schedule is not None and schedule.enabled,
                next_run=schedule.next_run if schedule else None,
                last_run=last.began if last else None,
                result=last.result if last else None,
                problems=tuple(problems),
            )
        )
    return found
