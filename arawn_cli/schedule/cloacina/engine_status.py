"""Compare the registered workflows with the wanted ones (`schedule status --cloacina`)."""

from __future__ import annotations

from collections.abc import Sequence

from arawn_cli import timestamps
from arawn_cli.events import Condition, RunResult, ScheduleStatus
from arawn_cli.schedule.cloacina.schedules import EngineDatabase, LastRun, Registered
from arawn_cli.schedule.cloacina.workflows import OUTCOME, Workflow

_SERVE = "run arawn-cli schedule serve --cloacina"


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
        condition = Condition.MISSING
        if schedule is not None:
            condition = Condition.CURRENT if schedule.cron == workflow.cron else Condition.OUTDATED
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
                result=result_of(last),
                problems=tuple(_problems(workflow.name, condition, schedule, last)),
            )
        )
    return found


def result_of(last: LastRun | None) -> RunResult | None:
    """Return the result of a run; None if none has ended."""
    if last is None:
        return None
    if last.error is not None:
        return RunResult.FAILED
    return RunResult.LOCKED if last.context.get(OUTCOME) == RunResult.LOCKED else RunResult.SUCCESS


def _problems(name: str, condition: Condition, schedule: Registered | None, last: LastRun | None) -> list[str]:
    found = []
    if condition is Condition.MISSING:
        found.append(f"{name} is not registered: {_SERVE}")
    if condition is Condition.OUTDATED:
        found.append(f"{name} is registered with another interval: restart arawn-cli schedule serve --cloacina")
    if schedule is not None and not schedule.enabled:
        found.append(f"{name} is switched off in Cloacina")
    if last is not None and last.error is not None:
        found.append(f"the last run of {name} failed: {last.error}")
    return found
