"""Define the Cloacina workflows of the jobs."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from arawn_cli.config.loader import Config
from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.events import JobName
from arawn_cli.schedule.cloacina.engine import EngineError
from arawn_cli.schedule.cloacina.run_locks import claimed, one_registers
from arawn_cli.schedule.cloacina.runs import OUTCOME, SUMMARY, Crew, Done, Order, ordered
from arawn_cli.schedule.cloacina.schedules import EngineDatabase
from arawn_cli.schedule.intervals import HOUR, MINUTE, cloacina_time

log = logging.getLogger(__name__)

PREFIXES = {JobName.SCRATCH_CLEANUP: "arawn_scratch_cleanup", JobName.DISK_CHECK: "arawn_disk_check"}


SECONDS = {JobName.SCRATCH_CLEANUP: 6 * HOUR, JobName.DISK_CHECK: 30 * MINUTE}
"""How long a run may take, as in the units of systemd."""


_ATTEMPTS = 3


_FIRST_RETRY_MS = 60_000


_LAST_RETRY_MS = 600_000


_ALL_SCHEDULES = 10_000


_BACKSTOP_SECONDS = 5


_SHORTEST_POLL_MS = 250


_LONGEST_POLL_MS = 750


@dataclass(frozen=True, slots=True)
class Workflow:
    """One job on one root: its name in Cloacina, when it is due, and what a run does."""

    name: str
    cron: str
    order: Order


class Context(Protocol):
    """What is used of a task's context."""

    def to_dict(self) -> dict[str, object]:
        """All that it holds, as JSON has it."""
        ...

    def set(self, key: str, value: object, /) -> None:
        """Puts a value in, in the place of one that is there."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the schedules of a database those that are wanted; schedules by their id."""

    register: tuple[tuple[str, str], ...]
    update: tuple[tuple[str, str], ...]
    delete: tuple[str, ...]


def workflows_of(configs: Sequence[Config], order: Callable[[JobName, str | None], Order]) -> list[Workflow]:
    """A pair of workflows for each root; `order` is what a run of a job does on a named root, or on the main one for None.

    Raises:
        ConfigurationError: an interval has no expression in Cloacina.
    """
    found = []
    for config in configs:
        root, schedule = config.root_name, config.maintenance.schedule
        for job, interval in ((JobName.SCRATCH_CLEANUP, schedule.scratch_cleanup), (JobName.DISK_CHECK, schedule.disk_check)):
            cron = cloacina_time(interval, job, root or str(config.root))
            name = PREFIXES[job] if root is None else f"{PREFIXES[job]}_{root}"
            found.append(Workflow(name, cron, order(job, root)))
    return found


def is_ours(workflow: str) -> bool:
    """Whether a workflow is one of this program, by its name."""
    return workflow.startswith(tuple(PREFIXES.values()))


def changes_to(wanted: Mapping[str, str], found: Iterable[Mapping[str, object]]) -> Changes:
    """What to change so that each wanted workflow has one schedule, by its expression; what is right already stays as it is."""
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


def poll_interval() -> int:
    """How often one process looks for work, in milliseconds.

    Whoever looks first after a run is due does it. With the same interval everywhere that would be the same process for ever, since
    what is due at whole seconds meets all of them at the same part of theirs.
    """
    return random.randint(_SHORTEST_POLL_MS, _LONGEST_POLL_MS)  # noqa: S311 - no secret


def define(engine: ModuleType, workflows: Sequence[Workflow], database: EngineDatabase, crew: Crew) -> None:
    """Makes the workflows known to Cloacina in this process."""
    for workflow in workflows:
        with engine.WorkflowBuilder(workflow.name) as builder:
            builder.description(f"arawn-cli {workflow.order.job}")
            engine.task(
                id=workflow.order.job,
                retry_attempts=_ATTEMPTS,
                retry_backoff="exponential",
                retry_delay_ms=_FIRST_RETRY_MS,
                retry_max_delay_ms=_LAST_RETRY_MS,
                retry_condition="all",
            )(_task(workflow, database, crew))


class Runner:
    """Cloacina at work in this process: from its making on it begins what is due.

    Its second look at runs that began long ago stays off: it takes a run that is still at work for lost. What a service that is
    gone had in hand is found by its heartbeat.
    """

    def __init__(self, engine: ModuleType, database: EngineDatabase, poll_ms: int) -> None:
        """Starts it, to look for work every so many milliseconds.

        Raises:
            EngineError: it does not start.
        """
        longest = max(SECONDS.values())
        settings = engine.DefaultRunnerConfig(
            task_timeout_seconds=longest + HOUR,
            workflow_timeout_seconds=(longest + HOUR) * (_ATTEMPTS + 1),
            cron_enable_recovery=False,
            cron_poll_interval_seconds=_BACKSTOP_SECONDS,
            scheduler_poll_interval_ms=poll_ms,
        )
        self._database = database
        with one_registers(database):  # two that make the tables of an empty database at a time fail
            try:
                self._runner = engine.DefaultRunner.with_config(database.url, settings)
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"Cloacina does not start on {database}: {database.without_secrets(str(error))}") from error

    def register(self, workflows: Sequence[Workflow]) -> Changes:
        """Makes the database's schedules those of the workflows, while no other process does; what it changed.

        Raises:
            EngineError: the database does not take it.
        """
        with one_registers(self._database):
            try:
                wanted = {workflow.name: workflow.cron for workflow in workflows}
                changes = changes_to(wanted, self._runner.list_cron_schedules(False, _ALL_SCHEDULES, 0))
                for identity in changes.delete:
                    self._runner.delete_cron_schedule(identity)
                for identity, cron in changes.update:
                    self._runner.update_cron_schedule(identity, cron, "UTC")
                for name, cron in changes.register:
                    self._runner.register_cron_workflow(name, cron, "UTC")
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"Cloacina does not take the schedules: {self._database.without_secrets(str(error))}") from error
        return changes

    def shutdown(self) -> None:
        """Ends it within seconds; no run may be in hand."""
        try:
            self._runner.shutdown()
        except (ValueError, RuntimeError) as error:
            log.warning("Cloacina does not end by itself: %s", self._database.without_secrets(str(error)))


def _task(workflow: Workflow, database: EngineDatabase, crew: Crew) -> Callable[[Context], Context]:
    def task(context: Context) -> Context:
        given = context.to_dict()
        due = str(given.get("scheduled_time", "now"))
        with crew.in_hand(workflow.name, due):
            log.info("%s, due %s: begins", workflow.name, due)
            try:
                done = _run(workflow, database, crew, given)
            except ArawnCliError as error:
                log.error("%s, due %s: %s", workflow.name, due, error)
                raise
            log.info("%s, due %s: %s", workflow.name, due, done.outcome)
            context.set(OUTCOME, done.outcome)
            context.set(SUMMARY, done.summary)
            return context

    return task


def _run(workflow: Workflow, database: EngineDatabase, crew: Crew, context: Mapping[str, object]) -> Done:
    order = ordered(workflow.order, context)
    with claimed(database, workflow.name) as claim:
        if claim is None:
            return Done(EXIT_MEANINGS[ExitCode.LOCKED], None)
        return crew.run(order, claim, SECONDS[order.job])
