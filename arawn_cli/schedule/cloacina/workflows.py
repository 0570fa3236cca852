"""Define the workflows of the jobs: names, times, command lines, registration."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from arawn_cli.config.loader import Config, Flags
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import JobName, RunResult
from arawn_cli.schedule.cloacina.run_locks import advisory_lock, registration_lock
from arawn_cli.schedule.cloacina.runs import RunOutcome, RunPool
from arawn_cli.schedule.cloacina.schedules import EngineDatabase, EngineError
from arawn_cli.schedule.intervals import HOUR, MINUTE, cloacina_time

log = logging.getLogger(__name__)

OUTCOME = "outcome"
SUMMARY = "summary"

_PREFIXES = {JobName.SCRATCH_CLEANUP: "arawn_scratch_cleanup", JobName.DISK_CHECK: "arawn_disk_check"}
_SECONDS = {JobName.SCRATCH_CLEANUP: 6 * HOUR, JobName.DISK_CHECK: 30 * MINUTE}  # as in the systemd units
_ATTEMPTS = 3
_ALL_SCHEDULES = 10_000
_BACKSTOP_SECONDS = 5
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
_LONGEST_DAYS = 36_500
_ALLOWED = {
    "base_path": "a path that begins with /",
    "dry_run": "true or false",
    "older_than_days": f"a whole number from 1 to {_LONGEST_DAYS}",
}


class RefusedContextError(ArawnCliError):
    """A context has a key or a value that no run may have; nothing has been touched."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Workflow:
    """One job on one root (None: the main one), its name and time in Cloacina, its arguments."""

    name: str
    cron: str
    job: JobName
    root: str | None
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of schedules: (name, cron) to register, (id, cron) to update, id to delete."""

    register: tuple[tuple[str, str], ...]
    update: tuple[tuple[str, str], ...]
    delete: tuple[str, ...]


class Context(Protocol):
    """The part of a task's context that is used here."""

    def to_dict(self) -> dict[str, object]:
        """Return all values."""

    def set(self, key: str, value: object, /) -> None:
        """Set a value."""


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
    """Return a workflow's arguments and the options that a context adds; the last one counts.

    Raises:
        RefusedContextError: a key is not allowed, or the command would not take its value.
    """
    fixed = {"base_path": workflow.root is not None, "older_than_days": workflow.job is JobName.DISK_CHECK}
    allowed = [key for key in _ALLOWED if not fixed.get(key)]
    arguments = list(workflow.arguments)
    for key, value in context.items():
        if key in _OF_CLOACINA:
            continue
        if key not in allowed:
            raise RefusedContextError(f"the context has {key!r}: {workflow.job} takes only {', '.join(allowed)} here")
        match key, value:
            case "base_path", str() if value.startswith("/") and "\0" not in value:
                arguments.append(f"--base-path={value}")
            case "dry_run", bool():
                arguments.append("--dry-run" if value else "--no-dry-run")
            case "older_than_days", int() if not isinstance(value, bool) and 1 <= value <= _LONGEST_DAYS:
                arguments.append(f"--older-than-days={value}")
            case _:
                raise RefusedContextError(f"the context has {key} = {value!r}: it must be {_ALLOWED[key]}")
    return arguments


def changes_to(wanted: Mapping[str, str], found: Iterable[Mapping[str, object]]) -> Changes:
    """Return the changes that leave one schedule for each wanted workflow; a right one stays."""
    kept: set[str] = set()
    update, delete = [], []
    for schedule in found:
        workflow, identity = str(schedule["workflow_name"]), str(schedule["id"])
        if workflow not in wanted or workflow in kept:
            delete += [identity] if is_ours(workflow) else []
            continue
        kept.add(workflow)
        if schedule["cron_expression"] != wanted[workflow]:
            update.append((identity, wanted[workflow]))
    return Changes(tuple((name, cron) for name, cron in wanted.items() if name not in kept), tuple(update), tuple(delete))


def define(engine: ModuleType, workflows: Sequence[Workflow], database: EngineDatabase, pool: RunPool) -> None:
    """Define the workflows in this process's engine. A failed task is retried twice."""
    for workflow in workflows:
        with engine.WorkflowBuilder(workflow.name) as builder:
            builder.description(f"arawn-cli {workflow.job}")
            engine.task(
                id=workflow.job,
                retry_attempts=_ATTEMPTS,
                retry_backoff="exponential",
                retry_delay_ms=60_000,
                retry_max_delay_ms=600_000,
                retry_condition="all",
            )(_task(workflow, database, pool))


def _task(workflow: Workflow, database: EngineDatabase, pool: RunPool) -> Callable[[Context], Context]:
    def task(context: Context) -> Context:
        given = context.to_dict()
        due = str(given.get("scheduled_time", "now"))
        with pool.counted(workflow.name, due):
            log.info("%s, due %s: begins", workflow.name, due)
            try:
                arguments = arguments_with(workflow, given)
                with advisory_lock(database, workflow.name) as lock:
                    ended = RunOutcome(RunResult.LOCKED, None) if lock is None else pool.run(arguments, lock, _SECONDS[workflow.job])
            except ArawnCliError as error:
                log.error("%s, due %s: %s", workflow.name, due, error)
                raise
            log.info("%s, due %s: %s", workflow.name, due, ended.outcome)
            context.set(OUTCOME, ended.outcome)
            context.set(SUMMARY, ended.summary)
            return context

    return task


class Runner:
    """Cloacina's runner, which begins what is due as soon as it exists.

    Its cron recovery stays off: it takes a run that began long ago for lost, even if it is active.
    The heartbeat of a dead service shows which runs are lost.
    """

    def __init__(self, engine: ModuleType, database: EngineDatabase) -> None:
        """Start the runner.

        Raises:
            EngineError: it does not start.
        """
        longest = max(_SECONDS.values())
        settings = engine.DefaultRunnerConfig(
            task_timeout_seconds=longest + HOUR,
            workflow_timeout_seconds=(longest + HOUR) * (_ATTEMPTS + 1),
            cron_enable_recovery=False,
            cron_poll_interval_seconds=_BACKSTOP_SECONDS,
            # The process that polls first takes a run. With equal intervals it would always be the
            # same one, because runs are due at whole seconds.
            scheduler_poll_interval_ms=random.randint(250, 750),  # noqa: S311 - not a secret
        )
        self._database = database
        with registration_lock(database):  # two processes that create the tables at once fail
            try:
                self._runner = engine.DefaultRunner.with_config(database.url, settings)
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"Cloacina does not start on {database}: {database.without_secrets(error)}") from error

    def register(self, workflows: Sequence[Workflow]) -> Changes:
        """Make the database's schedules those of the workflows. Return the changes.

        Raises:
            EngineError: the engine refuses a change.
        """
        wanted = {workflow.name: workflow.cron for workflow in workflows}
        with registration_lock(self._database):
            try:
                changes = changes_to(wanted, self._runner.list_cron_schedules(False, _ALL_SCHEDULES, 0))
                for identity in changes.delete:
                    self._runner.delete_cron_schedule(identity)
                for identity, cron in changes.update:
                    self._runner.update_cron_schedule(identity, cron, "UTC")
                for name, cron in changes.register:
                    self._runner.register_cron_workflow(name, cron, "UTC")
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"Cloacina does not take the schedules: {self._database.without_secrets(error)}") from error
        return changes

    def shutdown(self) -> None:
        """Stop the runner, within seconds; no run may be active."""
        try:
            self._runner.shutdown()
        except (ValueError, RuntimeError) as error:
            log.warning("Cloacina does not end by itself: %s", self._database.without_secrets(error))
