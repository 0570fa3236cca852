"""Run the Cloacina engine until a signal: load it, register the workflows, run what is due."""

from __future__ import annotations

import importlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from arawn_cli.errors import ArawnCliError
from arawn_cli.events import JobName, RunResult
from arawn_cli.schedule.cloacina.engine_database import EXTRA, OUTCOME, VARIABLE, EngineDatabase, EngineError, postgres_driver
from arawn_cli.schedule.cloacina.processes import ENDING, RunPool
from arawn_cli.schedule.cloacina.workflows import Workflow, arguments_with, changes_to, is_ours
from arawn_cli.schedule.intervals import HOUR, MINUTE

log = logging.getLogger(__name__)

_JOB_SECONDS = {JobName.SCRATCH_CLEANUP: 6 * HOUR, JobName.DISK_CHECK: 30 * MINUTE}  # as in the systemd units
_TASK_SECONDS = 7 * HOUR
_ATTEMPTS = 3
_OWN_THREADS = 4
_ALL_SCHEDULES = 10_000
_BACKSTOP_SECONDS = 5
_RECORD_SECONDS = 5.0
_STDOUT = 1


class Context(Protocol):
    """The part of a task's context that is used here."""

    def to_dict(self) -> dict[str, object]:
        """Return all values."""

    def set(self, key: str, value: object, /) -> None:
        """Set a value."""


def load_engine() -> ModuleType:
    """Import Cloacina.

    Raises:
        EngineError: it is missing, or does not load here.
    """
    try:
        return importlib.import_module("cloaca")
    except ImportError as error:
        raise EngineError(
            f"Cloacina cannot be loaded ({' '.join(str(error).split())}): on a machine with glibc 2.38 or newer, run {EXTRA}; "
            "`arawn-cli schedule install` has systemd or cron run the jobs without it"
        ) from error


def serve(
    engine: ModuleType, workflows: Sequence[Workflow], database: EngineDatabase, state_directory: Path, environment: Mapping[str, str]
) -> None:
    """Run the workflows when they are due, until SIGTERM or SIGINT.

    A second signal ends the active runs. `environment` is that of the runs; this process's own
    changes.

    Raises:
        EngineError: the engine does not start, or its database cannot be used.
    """
    if database.file is None:
        postgres_driver()
    others = sorted({schedule.workflow for schedule in database.schedules() if not is_ours(schedule.workflow)})
    if others:  # the engine begins everything that is due, and would fail workflows that this process does not define
        raise EngineError(
            f"the database {database} has workflows of other programs ({', '.join(others)}), which would fail here: "
            "use another database for arawn-cli"
        )
    temporary = state_directory / "cloacina"
    try:
        os.makedirs(state_directory, mode=0o700, exist_ok=True)
        os.makedirs(temporary, mode=0o700, exist_ok=True)
        if database.file is not None:
            os.close(os.open(database.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise EngineError(f"cannot create {error.filename}: {error.strerror}") from error
    os.environ["TMPDIR"] = str(temporary)  # Cloacina makes a directory for packages there, readable by everyone
    # A run blocks one thread of Cloacina's runtime (Tokio), whose default is one per processor.
    os.environ["TOKIO_WORKER_THREADS"] = str(len(workflows) + _OWN_THREADS)
    # Threads inherit the mask, so that none takes a signal before this one waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        pool = RunPool({key: value for key, value in environment.items() if key != VARIABLE}, _forward_stdout(database.without_secrets))
        for workflow in workflows:
            _define(engine, workflow, database, pool)
        shutdown = _started(engine, workflows, database)
        signal.sigwait(ENDING)
        log.info("ending: no new runs, waiting for active ones")
        pool.close()
        while pool.processes:
            if signal.sigtimedwait(ENDING, 0.2) is not None:
                pool.terminate()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    # Wait until the history has the last runs. A failed one stays open until it has been retried.
    end = time.monotonic() + _RECORD_SECONDS
    while database.has_unfinished_runs() and time.monotonic() < end:
        time.sleep(0.05)
    nothing = os.open(os.devnull, os.O_WRONLY)  # Cloacina logs errors about its own end
    os.dup2(nothing, _STDOUT)
    os.close(nothing)
    try:
        shutdown()
    except (ValueError, RuntimeError) as error:
        log.warning("Cloacina does not end by itself: %s", database.without_secrets(error))


def _define(engine: ModuleType, workflow: Workflow, database: EngineDatabase, pool: RunPool) -> None:
    """Define a workflow in this process's engine. A failed task is retried twice."""

    def task(context: Context) -> Context:
        given = context.to_dict()
        name = f"{workflow.name}, due {given.get('scheduled_time', 'now')}"
        log.info("%s: begins", name)
        try:
            arguments = arguments_with(workflow, given)
            with database.locked(workflow.name) as is_held:
                summary = None if is_held is None else pool.run(arguments, is_held, _JOB_SECONDS[workflow.job])
        except ArawnCliError as error:
            log.error("%s: %s", name, error)
            raise
        outcome = "done" if summary else RunResult.LOCKED.value
        log.info("%s: %s", name, outcome)
        context.set(OUTCOME, outcome)
        context.set("summary", summary)
        return context

    with engine.WorkflowBuilder(workflow.name) as builder:
        builder.description(f"arawn-cli {workflow.job}")
        engine.task(
            id=workflow.job,
            retry_attempts=_ATTEMPTS,
            retry_backoff="exponential",
            retry_delay_ms=60_000,
            retry_max_delay_ms=600_000,
            retry_condition="all",
        )(task)


def _started(engine: ModuleType, workflows: Sequence[Workflow], database: EngineDatabase) -> Callable[[], None]:
    """Start Cloacina's runner, which begins at once what is due, and register the workflows.

    Its cron recovery stays off: it takes a run that began long ago for lost, even if it is still
    active. The heartbeat of a dead service shows which runs are lost.

    Return the function that stops it; no run may be active then.

    Raises:
        EngineError: it does not start, or refuses a schedule.
    """
    settings = engine.DefaultRunnerConfig(
        task_timeout_seconds=_TASK_SECONDS,
        workflow_timeout_seconds=_TASK_SECONDS * (_ATTEMPTS + 1),
        cron_enable_recovery=False,
        cron_poll_interval_seconds=_BACKSTOP_SECONDS,
        # The process that polls first takes a run. With equal intervals it would always be the
        # same one, because runs are due at whole seconds.
        scheduler_poll_interval_ms=random.randint(250, 750),  # noqa: S311 - not a secret
    )
    with database.locked("", wait=True):  # two processes that create the tables at once fail
        try:
            runner = engine.DefaultRunner.with_config(database.url, settings)
            found = runner.list_cron_schedules(False, _ALL_SCHEDULES, 0)
            missing, delete = changes_to({workflow.name: workflow.cron for workflow in workflows}, found)
            for identity in delete:
                runner.delete_cron_schedule(identity)
            for name, cron in missing.items():
                runner.register_cron_workflow(name, cron, "UTC")
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"Cloacina does not start on {database}: {database.without_secrets(error)}") from error
    for workflow in workflows:
        log.info("%s is due at %s", workflow.name, workflow.cron)
    log.info("%d schedules registered, %d removed in %s", len(missing), len(delete), database)
    shutdown: Callable[[], None] = runner.shutdown
    return shutdown


def _forward_stdout(without_secrets: Callable[[str], str]) -> int:
    """Log what Cloacina writes to standard output. Return the real one, for events."""
    os.environ.setdefault("RUST_LOG", "warn")  # Cloacina's log level (tracing's EnvFilter)
    os.environ["NO_COLOR"] = "1"
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    reader, writer = os.pipe()
    os.dup2(writer, _STDOUT)
    os.close(writer)

    def forward() -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                log.warning("Cloacina: %s", without_secrets(line))

    threading.Thread(target=forward, name="engine-log", daemon=True).start()
    return stdout
