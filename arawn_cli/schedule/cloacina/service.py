"""Run the Cloacina engine until a signal: load it, forward its log, register workflows, serve."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from arawn_cli.schedule.cloacina.runs import ENDING, RunPool
from arawn_cli.schedule.cloacina.schedules import EXTRA, VARIABLE, EngineDatabase, EngineError, postgres_driver, timestamp_of
from arawn_cli.schedule.cloacina.workflows import Runner, Workflow, define, is_ours

log = logging.getLogger(__name__)

_GLIBC = (2, 38)
_TIMERS = "`arawn-cli schedule install` has systemd or cron run the jobs"
_OWN_THREADS = 4
_RECORD_SECONDS = 5.0
_STDOUT = 1
_LINE = re.compile(r"\S+Z\s+(?P<level>ERROR|WARN|INFO|DEBUG|TRACE)\s+(?P<rest>.*)")
_LEVELS = {"ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}


def load_engine() -> ModuleType:
    """Import Cloacina.

    Raises:
        EngineError: it is missing, or does not load here.
    """
    try:
        return importlib.import_module("cloaca")
    except ImportError as error:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        glibc = tuple(int(part) for part in version.split(".")) if name == "glibc" else None
        raise EngineError(why_unloadable(error, glibc)) from error


def why_unloadable(error: ImportError, glibc: tuple[int, ...] | None) -> str:
    """Return why the engine cannot be loaded and what to do; `glibc` is this machine's version."""
    missing = isinstance(error, ModuleNotFoundError) and error.name == "cloaca"
    if glibc is not None and glibc < _GLIBC:
        needed, found = (".".join(str(part) for part in version) for version in (_GLIBC, glibc))
        elsewhere = f"on a newer one, run {EXTRA}; here, " if missing else ""
        return f"Cloacina needs glibc {needed}, and this machine has {found}: {elsewhere}{_TIMERS}"
    if missing:
        return f"Cloacina is not installed: run {EXTRA}; without it, {_TIMERS}"
    return f"Cloacina cannot be loaded here ({' '.join(str(error).split())}): {_TIMERS}"


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
        define(engine, workflows, database, pool)
        runner = Runner(engine, database)
        changes = runner.register(workflows)
        for workflow in workflows:
            log.info("%s is due at %s", workflow.name, workflow.cron)
        counts = (len(changes.register), len(changes.update), len(changes.delete))
        log.info("%d schedules registered, %d changed, %d removed in %s", *counts, database)
        signal.sigwait(ENDING)
        log.info("ending: no new runs, waiting for active ones")
        pool.close()
        while not pool.wait(0.2):
            if signal.sigtimedwait(ENDING, 0) is not None:
                pool.terminate()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    # Wait until the history has the last runs. A failed one stays open until it has been retried.
    end = time.monotonic() + _RECORD_SECONDS
    last = {(workflow, timestamp_of(due)) for workflow, due in pool.ended}
    while last & database.unfinished() and time.monotonic() < end:
        time.sleep(0.05)
    nothing = os.open(os.devnull, os.O_WRONLY)  # Cloacina logs errors about its own end
    os.dup2(nothing, _STDOUT)
    os.close(nothing)
    runner.shutdown()


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
                found = _LINE.match(line)
                level = _LEVELS.get(found["level"], logging.DEBUG) if found else logging.WARNING
                log.log(level, "Cloacina: %s", without_secrets(found["rest"] if found else line))

    threading.Thread(target=forward, name="engine-log", daemon=True).start()
    return stdout
