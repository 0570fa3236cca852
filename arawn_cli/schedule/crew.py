"""The runs that a service has in hand, each in a process of its own; a service that ends takes no new ones, and waits for these."""

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
from dataclasses import dataclass

from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.schedule.claims import Claim
from arawn_cli.schedule.order import Order

log = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a service; the threads that start its runs take none of them, and what they start inherits that."""

WORKER = ("-P", "-m", "arawn_cli.schedule.worker")
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
