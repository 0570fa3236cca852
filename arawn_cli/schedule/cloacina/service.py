"""Run the Cloacina engine until a signal: load it, register the workflows, run due jobs.

The command of a job runs in a child process.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Protocol, cast

from arawn_cli.command_events import RunResult
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import JobName, Reason
from arawn_cli.fs.mounts import in_thread
from arawn_cli.schedule.cloacina.engine_database import EXTRA, OUTCOME, VARIABLE, EngineDatabase, EngineError, postgres_driver
from arawn_cli.schedule.cloacina.workflows import Workflow, arguments_with, changes_to, is_ours
from arawn_cli.schedule.intervals import HOUR, MINUTE

log = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a service. All its threads block them, and child processes inherit that."""

# Cloacina gives the runs of a dead service to another machine, so no run may outlive its service.
# env(1) unblocks SIGTERM and SIGINT. With setpriv(1), the kernel kills the run when the thread that
# started it ends (PR_SET_PDEATHSIG, prctl(2)). sh exits if the service died before that was set.
_PREFIX = ("env", "--default-signal=TERM,INT", "setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')
_CHECK_SECONDS = 5.0
_ENDING_SECONDS = 60.0
_JOB_SECONDS = {JobName.SCRATCH_CLEANUP: 6 * HOUR, JobName.DISK_CHECK: 30 * MINUTE}  # as in the systemd units
_TASK_SECONDS = 7 * HOUR
_ATTEMPTS = 3
_OWN_THREADS = 4
_ALL_SCHEDULES = 10_000
_BACKSTOP_SECONDS = 5
_RECORD_SECONDS = 5.0
_STDOUT = 1


class FailedRunError(ArawnCliError):
    """A run that did not do all its work; the text is the reason, for Cloacina's history."""


@dataclass(slots=True)
class RunPool:
    """The runs of a service, each in its own process.

    Attributes:
        environment: the variables that the service was started with.
        stdout: the standard output that it was started with.
        processes: the active runs.
    """

    environment: Mapping[str, str] = field(repr=False)
    stdout: int
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _is_closed: bool = False
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """Start no more runs."""
        with self._starting:
            self._is_closed = True

    def terminate(self) -> None:
        """Send SIGTERM to the active runs."""
        for process in tuple(self.processes):
            process.terminate()

    def run(self, arguments: Sequence[str], is_held: Callable[[], bool], seconds: float) -> Mapping[str, object] | None:
        """Run `arawn-cli` with some arguments while a lock is held, at most so many seconds.

        Its events go to the service's standard output, its log to the service's standard error.

        Return its last event, or None if another run was in progress.

        Raises:
            FailedRunError: it was not started, did not do all its work, or was ended.
            OSError: no process or thread can be started.
        """
        with self._starting:
            if self._is_closed:
                raise FailedRunError("the service is ending: this run was not started, and Cloacina retries it")
            process = subprocess.Popen(
                [*_PREFIX, str(os.getpid()), sys.executable, "-P", "-m", "arawn_cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=dict(self.environment),
                process_group=0,  # only the service gets Ctrl-C
            )
            self.processes.add(process)
        output = _Output()
        try:
            reader = _started_thread(partial(output.forward, process, self.stdout, self._writing))
            stopped = _wait(process, is_held, seconds)
        finally:
            process.kill()
            process.wait()
            self.processes.discard(process)
        with suppress(TimeoutError):  # a child of the run may still have its output open
            reader.result(_CHECK_SECONDS)
        return summary_of(process.returncode, output.last_line, stopped or output.problem)


def _started_thread(work: Callable[[], None]) -> Future[None]:
    """Call `work`, which may take long, in a thread that ends with this process.

    Raises:
        OSError: the thread cannot be started, or has not begun within seconds: one that gets no
            memory never does.
    """
    begun = threading.Event()

    def run() -> None:
        begun.set()
        work()

    result = in_thread(run)
    if not begun.wait(_CHECK_SECONDS):
        raise OSError(errno.EAGAIN, "a new thread does not begin")
    return result


def _wait(process: subprocess.Popen[bytes], is_held: Callable[[], bool], seconds: float) -> str | None:
    """Wait until a process ends or has to be killed; return why it was ended, or None."""
    end, stopped = time.monotonic() + seconds, None
    while True:
        try:
            process.wait(max(min(_CHECK_SECONDS, end - time.monotonic()), 0))
        except subprocess.TimeoutExpired:
            if not is_held():  # killed without delay: another machine may begin
                return "the connection to the database was lost, and with it the lock on this root: the run was ended"
            if time.monotonic() < end:
                continue
            if stopped is not None:
                return stopped
            stopped, end = f"not done within {seconds:.0f} seconds: the run was ended", time.monotonic() + _ENDING_SECONDS
            process.terminate()
        else:
            return stopped


@dataclass(slots=True)
class _Output:
    """The output of a run: its last whole line, and why it could not be forwarded or None."""

    last_line: bytes = b""
    problem: str | None = None

    def forward(self, process: subprocess.Popen[bytes], stdout: int, writing: threading.Lock) -> None:
        """Copy whole lines of a process to standard output; end the process if that fails."""
        with cast("IO[bytes]", process.stdout) as lines:
            for line in lines:
                if self.problem is not None or not line.endswith(b"\n"):
                    continue
                self.last_line = line
                try:
                    with writing:
                        while line:
                            line = line[os.write(stdout, line) :]
                except OSError as error:
                    self.problem = f"standard output takes no more: {error.strerror}"
                    process.terminate()


def summary_of(status: int, last_line: bytes, stopped: str | None) -> Mapping[str, object] | None:
    """Return the last event of a run, or None if another run was in progress.

    Raises:
        FailedRunError: it did not do all its work.
    """
    if stopped is not None:
        raise FailedRunError(stopped)
    if status < 0:
        raise FailedRunError(f"the run was killed by {signal.Signals(-status).name}; the next one finishes what it began")
    summary: Mapping[str, object] | None = None
    with suppress(ValueError):  # with --unless-running, a run that finds another one prints nothing
        summary = json.loads(last_line)
    if status == ExitCode.DONE:
        return summary
    meaning = next((code.meaning for code in ExitCode if code == status), f"exit status {status}")
    failures, kept = (summary or {}).get("failures"), (summary or {}).get("sessions_kept")
    details = "see the log of the service"
    if status == ExitCode.PARTIAL and isinstance(failures, list) and failures:
        number = (summary or {}).get("failure_count", len(failures))
        details = f"{number} failures, the first: {failures[0]['operation']} {failures[0]['path']}: {failures[0]['message']}"
    if status == ExitCode.REFUSED and isinstance(kept, dict) and Reason.REMOVAL_LIMIT in kept:
        details = f"the removal limit keeps {kept[Reason.REMOVAL_LIMIT]} sessions"
    raise FailedRunError(f"{meaning}: {details}")


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
        except (ArawnCliError, OSError) as error:
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
    """Start Cloacina's runner, which begins due runs at once, and register the workflows.

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
    """Log Cloacina's standard output. Return the real one, for events.

    Raises:
        OSError: the thread that logs it cannot be started.
    """
    os.environ.setdefault("RUST_LOG", "warn")  # Cloacina's log level (tracing's EnvFilter)
    os.environ["NO_COLOR"] = "1"
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    reader, writer = os.pipe()

    def forward() -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                log.warning("Cloacina: %s", without_secrets(line))

    _started_thread(forward)
    os.dup2(writer, _STDOUT)
    os.close(writer)
    return stdout
