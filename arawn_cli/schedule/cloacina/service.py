"""Run the Cloacina engine: load it, forward its log, register workflows, serve."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from arawn_cli.cli.runner import Output, guarded
from arawn_cli.config.loader import Config, Flags, load_all
from arawn_cli.errors import ExitCode
from arawn_cli.schedule.cloacina.engine import EngineError, load_engine, postgres_driver
from arawn_cli.schedule.cloacina.engine_log import EngineLog
from arawn_cli.schedule.cloacina.runs import ENDING, Crew, Order
from arawn_cli.schedule.cloacina.schedules import VARIABLE, EngineDatabase, database_from, instant_of
from arawn_cli.schedule.cloacina.workflows import Changes, Runner, Workflow, define, is_ours, poll_interval, workflows_of

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

_RECORD_SECONDS = 5.0


_NAP_SECONDS = 0.05


_OWN_THREADS = 4


def run_serve(flags: Flags, output: Output, database: str | None) -> ExitCode:
    """`schedule serve --cloacina`."""

    def body(_: Console | None) -> ExitCode:
        before = {key: value for key, value in os.environ.items() if key != VARIABLE}
        engine = load_engine()
        configs = load_all(flags, os.environ)
        place = database_from(database, os.environ, configs[0].state_directory)
        workflows = wanted(configs, flags, output)
        _refuse_others(place)
        _make_private(place, configs[0].state_directory)
        _make_room(len(workflows))
        engine_log = EngineLog(os.environ, place.without_secrets)
        crew = Crew(before, engine_log.stdout)
        with _Ending(crew) as ending:
            define(engine, workflows, place, crew)
            runner = Runner(engine, place, poll_interval())
            _tell(workflows, runner.register(workflows), place)
            ending.wait()
            log.info("ending: no new runs, and those in hand are waited for")
            crew.close()
        _await_records(crew, place)
        engine_log.end()
        runner.shutdown()
        return ExitCode.DONE

    return guarded(output, body)


def wanted(configs: Sequence[Config], flags: Flags, output: Output) -> list[Workflow]:
    """The workflows of all roots, whose runs get the options of this command.

    Raises:
        ConfigurationError: an interval has no expression in Cloacina.
    """
    return workflows_of(configs, lambda job, root: Order.of(job, flags, root, verbose=output.verbose, quiet=output.quiet))


class _Ending:
    """The signals that end the service: the first has it wait for the runs in hand, each further one ends those.

    Threads that are made before `wait` take none of them: this thread alone handles one, and sleeps on while another has it.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._asked = False
        # A handler runs in the midst of what it interrupts, where the lock of an event may be held.
        self._reader, self._writer = os.pipe()

    def __enter__(self) -> _Ending:
        for number in ENDING:
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        return self

    def __exit__(self, *_: object) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self) -> None:
        """Returns when the first signal has come."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.read(self._reader, 1)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            self._crew.stop()
        else:
            self._asked = True
            os.write(self._writer, b"!")


def _refuse_others(database: EngineDatabase) -> None:
    """Cloacina begins all that is due in its database, and would fail the workflows of others, which this process does not have.

    Raises:
        EngineError: there are some.
    """
    if database.file is None:
        postgres_driver()
    others = sorted({schedule.workflow for schedule in database.schedules() if not is_ours(schedule.workflow)})
    if others:
        raise EngineError(
            f"the database {database} has workflows of others ({', '.join(others)}), which would fail here: give it one of its own"
        )


def _make_private(database: EngineDatabase, state_directory: Path) -> None:
    """Has Cloacina's files be this account's alone: its database, and the folder for packages that it makes among temporary files."""
    try:
        os.makedirs(state_directory, mode=0o700, exist_ok=True)
        os.makedirs(state_directory / "cloacina", mode=0o700, exist_ok=True)
        if database.file is not None:
            os.close(os.open(database.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise EngineError(f"{error.filename} cannot be made: {error.strerror}") from error
    os.environ["TMPDIR"] = str(state_directory / "cloacina")


def _make_room(workflows: int) -> None:
    """Has Cloacina's runtime (Tokio) have a thread for each run and some for itself: one for each processor are all held by long runs."""
    os.environ["TOKIO_WORKER_THREADS"] = str(workflows + _OWN_THREADS)


def _tell(workflows: Sequence[Workflow], changes: Changes, database: EngineDatabase) -> None:
    for workflow in workflows:
        log.info("%s is due at %s", workflow.name, workflow.cron)
    counts = (len(changes.register), len(changes.update), len(changes.delete))
    log.info("%d schedules registered, %d changed, %d removed in %s", *counts, database)


def _await_records(crew: Crew, database: EngineDatabase) -> None:
    """Waits a little for the ends of the last runs to stand in the history; one that failed stays open until it was tried again."""
    give_up = time.monotonic() + _RECORD_SECONDS
    last = {(workflow, instant_of(due)) for workflow, due in crew.ended}
    while last & database.unfinished() and time.monotonic() < give_up:
        time.sleep(_NAP_SECONDS)
