"""Run the command of a job in a child process for the engine."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, cast

from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.events import Reason

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a service. All its threads block them, and child processes inherit that."""

# Cloacina gives the runs of a dead service to another machine, so no run may outlive its service.
# env(1) unblocks SIGTERM and SIGINT. With setpriv(1), the kernel kills the run when the thread that
# started it ends (PR_SET_PDEATHSIG, prctl(2)). sh exits if the service died before that was set.
_PREFIX = ("env", "--default-signal=TERM,INT", "setpriv", "--pdeathsig", "KILL", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"')
_CHECK_SECONDS = 5.0
_ENDING_SECONDS = 60.0
_CHUNK = 1 << 16


class FailedRunError(ArawnCliError):
    """A run that did not do all its work; the text is the reason, for Cloacina's history."""


class RunPool:
    """The runs of a service, each in its own process.

    Attributes:
        processes: the active runs.
    """

    def __init__(self, environment: Mapping[str, str], stdout: int) -> None:
        """Take the environment and the standard output that the service was started with."""
        self._environment = dict(environment)
        self._stdout = stdout
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._closed = False
        self.processes: set[subprocess.Popen[bytes]] = set()

    def close(self) -> None:
        """Start no more runs."""
        with self._starting:
            self._closed = True

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
        """
        with self._starting:
            if self._closed:
                raise FailedRunError("the service is ending: this run was not started, and Cloacina retries it")
            process = subprocess.Popen(
                [*_PREFIX, str(os.getpid()), sys.executable, "-P", "-m", "arawn_cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=self._environment,
                process_group=0,  # only the service gets Ctrl-C
            )
            self.processes.add(process)
        try:
            with cast("IO[bytes]", process.stdout) as output:
                last_line, stopped = self._forward(process, output.fileno(), is_held, seconds)
        finally:
            process.kill()
            process.wait()
            self.processes.discard(process)
        return summary_of(process.returncode, last_line, stopped)

    def _forward(
        self, process: subprocess.Popen[bytes], output: int, is_held: Callable[[], bool], seconds: float
    ) -> tuple[bytes, str | None]:
        """Copy whole lines to standard output until a process ends or has to be killed.

        Return its last line, and why it was ended or None.
        """
        end, check = time.monotonic() + seconds, time.monotonic() + _CHECK_SECONDS
        rest = last_line = b""
        stopped = None
        while True:
            now = time.monotonic()
            if now >= check:
                check = now + _CHECK_SECONDS
                if not is_held():  # killed without delay: another machine may begin
                    return b"", "the connection to the database was lost, and with it the lock on this root: the run was ended"
            if now >= end:
                if stopped is not None:
                    return b"", stopped
                stopped, end = f"not done within {seconds:.0f} seconds: the run was ended", now + _ENDING_SECONDS
                process.terminate()
            if not select.select([output], [], [], max(min(check, end) - now, 0))[0]:
                if process.poll() is not None:  # a child of it still has its output open
                    return last_line, stopped
                continue
            chunk = os.read(output, _CHUNK)
            if not chunk:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(end - now, 0))
                return last_line, stopped
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                last_line = lines.rpartition(b"\n")[2]
                try:
                    self._write(lines + newline)
                except OSError as error:
                    stopped, end = f"standard output takes no more: {error.strerror}", now + _ENDING_SECONDS
                    process.terminate()

    def _write(self, lines: bytes) -> None:
        with self._writing:
            while lines:
                lines = lines[os.write(self._stdout, lines) :]


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
    meaning = EXIT_MEANINGS[ExitCode(status)] if status in EXIT_MEANINGS else f"exit status {status}"
    failures, kept = (summary or {}).get("failures"), (summary or {}).get("sessions_kept")
    details = "see the log of the service"
    if status == ExitCode.PARTIAL and isinstance(failures, list) and failures:
        details = f"{len(failures)} failures, the first: {failures[0]['operation']} {failures[0]['path']}: {failures[0]['message']}"
    if status == ExitCode.REFUSED and isinstance(kept, dict) and Reason.REMOVAL_LIMIT in kept:
        details = f"the removal limit keeps {kept[Reason.REMOVAL_LIMIT]} sessions"
    raise FailedRunError(f"{meaning}: {details}")
