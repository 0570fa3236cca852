"""Run the jobs in child processes for the engine."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from arawn_cli.config.loader import Flags
from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.events import JobName
from arawn_cli.schedule.cloacina.run_locks import Claim

log = logging.getLogger(__name__)

# What Cloacina's scheduler and its recovery put into each context.
OF_CLOACINA = frozenset(
    {
        "scheduled_time",
        "schedule_id",
        "schedule_timezone",
        "schedule_expression",
        "is_recovery",
        "recovery_attempt",
        "original_execution_id",
    }
)


SUMMARY = "summary"


OUTCOME = "outcome"


_LONGEST = 36_500


class RefusedContextError(ArawnCliError):
    """A context asks for what no run may do; nothing has been touched."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Order:
    """A run of one job, as plain values: the options of its command."""

    job: JobName
    config: str | None
    base_path: str | None
    root: str | None = None
    older_than_days: int | None = None
    dry_run: bool | None = None
    verbose: bool = False
    quiet: bool = False

    @classmethod
    def of(cls, job: JobName, flags: Flags, root: str | None, *, verbose: bool, quiet: bool) -> Order:
        """The order of a job on a named root, or None for the main one, with the options that its service was started with."""
        config = None if flags.config is None else str(flags.config.absolute())
        return cls(job, config, flags.base_path if root is None else None, root, verbose=verbose, quiet=quiet)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "job": JobName(values["job"])})

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def flags(self) -> Flags:
        """What the command would be given."""
        config = None if self.config is None else Path(self.config)
        dry_run = bool(self.dry_run) if self.job is JobName.DISK_CHECK else self.dry_run
        return Flags(config=config, base_path=self.base_path, older_than_days=self.older_than_days, dry_run=dry_run, root=self.root)


def ordered(order: Order, context: Mapping[str, object]) -> Order:
    """An order with what a context overrides: `older_than_days`, `dry_run`, and `base_path` where the order names no root.

    Raises:
        RefusedContextError: it holds anything else, or a value that the command would not take.
    """
    asked = {key: value for key, value in context.items() if key not in OF_CLOACINA}
    fixed = {"base_path": order.root is not None, "older_than_days": order.job is JobName.DISK_CHECK}
    allowed = [key for key in _ALLOWED if not fixed.get(key)]
    for key, value in asked.items():
        if key not in allowed:
            raise RefusedContextError(f"the context holds {key!r}: {', '.join(allowed)} is all that {order.job} takes here")
        if not _fits(key, value):
            raise RefusedContextError(f"the context holds {key} = {value!r}: {_ALLOWED[key]} is allowed")
    return replace(order, **asked)  # type: ignore[arg-type]  # each value was just looked at


_ALLOWED = {
    "base_path": "a path that begins with /",
    "dry_run": "true or false",
    "older_than_days": f"a whole number from 1 to {_LONGEST}",
}


def _fits(key: str, value: object) -> bool:
    if key == "base_path":
        return isinstance(value, str) and value.startswith("/") and "\0" not in value
    if key == "dry_run":
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LONGEST


ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a service; the threads that start its runs take none of them, and what they start inherits that."""


WORKER = ("-P", "-m", "arawn_cli.schedule.cloacina.worker")


_LOOK_SECONDS = 5.0


_ENDING_SECONDS = 60.0


_RECENT = 20


class FailedRunError(ArawnCliError):
    """A run that did not do all its work; the text is the reason, for Cloacina's history."""


class PutOffError(ArawnCliError):
    """A run that came in while the service was ending, and was not begun."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended that is no failure; `summary` is its event, None where another run was at work."""

    outcome: str
    summary: Mapping[str, object] | None


class Crew:
    """Starts the process of each run, while the service goes on."""

    def __init__(self, environment: Mapping[str, str], stdout: int) -> None:
        """`environment` and the descriptor `stdout` are what the service itself was started with."""
        self._environment = dict(environment)
        self._stdout = stdout
        self._changed = threading.Condition()
        self._at_work: set[subprocess.Popen[bytes]] = set()
        self._in_hand = 0
        self._closed = False
        self.ended: list[tuple[str, str]] = []

    @contextmanager
    def in_hand(self, workflow: str, due: str) -> Iterator[None]:
        """Counts a run as in hand, and those that ended last in `ended`, by their workflow and when they were due.

        Raises:
            PutOffError: the service is ending.
        """
        with self._changed:
            if self._closed:
                raise PutOffError("the service is ending: the run is put off, and Cloacina tries it again")
            self._in_hand += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_hand -= 1
                self.ended = [*self.ended[-_RECENT:], (workflow, due)]
                self._changed.notify_all()

    def close(self) -> None:
        """Begins no more runs, and returns when those in hand have ended."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._in_hand == 0)

    def stop(self) -> None:
        """Has the runs in hand end as a command does on SIGTERM."""
        for process in tuple(self._at_work):
            process.terminate()

    def run(self, order: Order, claim: Claim, seconds: float) -> Done:
        """Does one run, of at most so many seconds.

        Raises:
            FailedRunError: it did not do all its work, or lost its claim and was ended.
        """
        # In memory: a pipe holds too little to be read at the end, and a disk may be full.
        with os.fdopen(os.memfd_create("answer"), "rb") as answer:
            process = self._start(order, answer.fileno())
            self._at_work.add(process)
            try:
                trouble = _watched(process, claim, seconds)
            finally:
                self._at_work.discard(process)
            answer.seek(0)
            return outcome_of(process.returncode, answer.read(), trouble)

    def _start(self, order: Order, answer: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *WORKER, order.to_json(), str(answer), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            env=self._environment,
            pass_fds=(answer,),
            process_group=0,  # a signal from the terminal is the service's alone
        )


def _watched(process: subprocess.Popen[bytes], claim: Claim, seconds: float) -> str | None:
    """Waits for a process; what made it be ended, or None."""
    give_up = time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(_LOOK_SECONDS, max(give_up - time.monotonic(), 0)))
            return None
        if not claim.is_held():
            process.kill()  # at once: another machine may begin
            process.wait()
            return "the database was lost, and with it the claim on this root: the run was ended"
        if time.monotonic() >= give_up:
            _end(process)
            return f"not done within {seconds:.0f} seconds: the run was ended"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def outcome_of(status: int, answer: bytes, trouble: str | None) -> Done:
    """What became of a run, by its exit status and what it said.

    Raises:
        FailedRunError: it did not do all its work.
    """
    if trouble is not None:
        raise FailedRunError(trouble)
    if status < 0 or not answer:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status} and said nothing"
        raise FailedRunError(f"the run {how}; the next one finishes what it began")
    said = json.loads(answer)
    if status == ExitCode.LOCKED:
        return Done(EXIT_MEANINGS[ExitCode.LOCKED], None)
    if status != ExitCode.DONE:
        raise FailedRunError(said["reason"])
    return Done(EXIT_MEANINGS[ExitCode.DONE], said["summary"])
