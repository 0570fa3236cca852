"""Run the command of a job in a child process for the engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, cast

from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.events import Reason, RunResult
from arawn_cli.schedule.cloacina.run_locks import Lock

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a service. All its threads block them, and child processes inherit that."""

# Cloacina gives the runs of a dead service to another machine, so no run may outlive its service.
# env(1) unblocks SIGTERM and SIGINT. With setpriv(1), the kernel kills the run when the thread that
# started it ends (PR_SET_PDEATHSIG, prctl(2)). sh exits if the service died before that was set.
_PREFIX = ("env", "--default-signal=TERM,INT", "setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')
_CHECK_SECONDS = 5.0
_ENDING_SECONDS = 60.0
_OUTPUT_SECONDS = 5.0
_RECENT = 20


class FailedRunError(ArawnCliError):
    """A run that did not do all its work; the text is the reason, for Cloacina's history."""


class ServiceEndingError(ArawnCliError):
    """A run that was not started because the service is ending."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The end of a run that did not fail: `done` with its last event, or `locked` without."""

    outcome: str
    summary: Mapping[str, object] | None


class RunPool:
    """The runs of a service, each in its own process."""

    def __init__(self, environment: Mapping[str, str], stdout: int) -> None:
        """Take the environment and the standard output that the service was started with."""
        self._environment = dict(environment)
        self._stdout = stdout
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._active = 0
        self._closed = False
        self.ended: list[tuple[str, str]] = []

    @contextmanager
    def counted(self, workflow: str, due: str) -> Iterator[None]:
        """Count a run as active, and append its workflow and due time to `ended` afterwards.

        Raises:
            ServiceEndingError: the pool is closed.
        """
        with self._changed:
            if self._closed:
                raise ServiceEndingError("the service is ending: this run was not started, and Cloacina retries it")
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self.ended = [*self.ended[-_RECENT:], (workflow, due)]
                self._changed.notify_all()

    def close(self) -> None:
        """Start no more runs."""
        with self._changed:
            self._closed = True

    def wait(self, seconds: float) -> bool:
        """Wait for the active runs, at most so many seconds. Return whether all have ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._active == 0, seconds)

    def terminate(self) -> None:
        """Send SIGTERM to the active runs."""
        for process in tuple(self._processes):
            process.terminate()

    def run(self, arguments: Sequence[str], lock: Lock, seconds: float) -> RunOutcome:
        """Run `arawn-cli` with some arguments for at most so many seconds.

        Its events go to the service's standard output, its log to the service's standard error.

        Raises:
            FailedRunError: it did not do all its work, or was ended.
        """
        process = subprocess.Popen(
            [*_PREFIX, str(os.getpid()), sys.executable, "-P", "-m", "arawn_cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._environment,
            process_group=0,  # only the service gets Ctrl-C
        )
        output = _Forwarder(cast("IO[bytes]", process.stdout), self._stdout, self._writing)
        self._processes.add(process)
        try:
            output.start()
            stopped = _watch(process, lock, seconds)
        finally:
            self._processes.discard(process)
            if process.poll() is None:
                process.kill()
                process.wait()
        output.join(_OUTPUT_SECONDS)
        return outcome_of(process.returncode, output.last_line, stopped or output.error)


class _Forwarder(threading.Thread):
    """Copy lines to a descriptor and keep the last one. Close the source if that fails."""

    def __init__(self, source: IO[bytes], target: int, writing: threading.Lock) -> None:
        super().__init__(name="run-output", daemon=True)
        self._source = source
        self._target = target
        self._writing = writing
        self.last_line = b""
        self.error: str | None = None

    def run(self) -> None:
        with self._source:
            for line in self._source:
                try:
                    with self._writing:
                        left = line
                        while left:
                            left = left[os.write(self._target, left) :]
                except OSError as error:
                    self.error = f"standard output takes no more: {error.strerror}"
                    return
                self.last_line = line


def _watch(process: subprocess.Popen[bytes], lock: Lock, seconds: float) -> str | None:
    """Wait for a process. Return why it was ended, or None if it ended by itself."""
    end = time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(_CHECK_SECONDS, max(end - time.monotonic(), 0)))
            return None
        if not lock.is_held():
            process.kill()  # without delay: another machine may begin
            return "the connection to the database was lost, and with it the lock on this root: the run was ended"
        if time.monotonic() >= end:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_SECONDS)
            return f"not done within {seconds:.0f} seconds: the run was ended"


def outcome_of(status: int, last_line: bytes, stopped: str | None) -> RunOutcome:
    """Return how a run ended, from its exit status and the last line of its output.

    Raises:
        FailedRunError: it did not do all its work.
    """
    if stopped is not None:
        raise FailedRunError(stopped)
    if status < 0:
        raise FailedRunError(f"the run was killed by {signal.Signals(-status).name}; the next one finishes what it began")
    try:
        summary = json.loads(last_line)
    except ValueError:
        summary = None
    if status == ExitCode.DONE:
        # With --unless-running, a run that finds another one in progress prints nothing.
        return RunOutcome("done" if summary else RunResult.LOCKED, summary)
    meaning = EXIT_MEANINGS[ExitCode(status)] if status in EXIT_MEANINGS else f"exit status {status}"
    raise FailedRunError(f"{meaning}: {_details(status, summary)}")


def _details(status: int, summary: Mapping[str, object] | None) -> str:
    """Return the part of a summary that explains an exit status, or a reference to the log."""
    failures, kept = (summary or {}).get("failures"), (summary or {}).get("sessions_kept")
    if status == ExitCode.PARTIAL and isinstance(failures, list) and failures:
        return f"{len(failures)} failures, the first: {failures[0]['operation']} {failures[0]['path']}: {failures[0]['message']}"
    if status == ExitCode.REFUSED and isinstance(kept, dict) and Reason.REMOVAL_LIMIT in kept:
        return f"the removal limit keeps {kept[Reason.REMOVAL_LIMIT]} sessions"
    return "see the log of the service"
