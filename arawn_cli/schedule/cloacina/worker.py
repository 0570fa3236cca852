"""The process that does one run for Cloacina: the command itself, which also tells its service how it went.

It is a process of its own, so that it gets signals, priorities and memory as a command has them, and does not outlive its service:
Cloacina hands the run of a service that is gone to another machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from arawn_cli.cli.jobs import Audience, run_check, run_cleanup
from arawn_cli.cli.runner import Output
from arawn_cli.errors import EXIT_MEANINGS, ExitCode
from arawn_cli.events import DiskCheck, JobName, Reason, ScratchCleanup, to_json
from arawn_cli.schedule.cloacina.runs import ENDING, Order

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(slots=True)
class _Heard:
    reason: str | None = None
    summary: ScratchCleanup | DiskCheck | None = None

    def told(self, reason: str) -> None:
        self.reason = reason

    def summed_up(self, summary: ScratchCleanup | DiskCheck) -> None:
        self.summary = summary


def main(arguments: Sequence[str]) -> int:
    """Does the run of an order; `arguments` are the order, the descriptor that takes the answer, and the service's process id."""
    text, descriptor, service = arguments
    _end_with(int(service))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    order, heard = Order.from_json(text), _Heard()
    output = Output(format="json", verbose=order.verbose, quiet=order.quiet, unless_running=True)
    audience = Audience(heard.told, heard.summed_up)
    flags = order.flags()
    code = run_cleanup(flags, output, audience) if order.job is JobName.SCRATCH_CLEANUP else run_check(flags, output, None, audience)
    summary = None if heard.summary is None else json.loads(to_json(heard.summary))
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as answer:
        json.dump({"code": int(code), "reason": heard.reason or _reason(code, heard.summary), "summary": summary}, answer)
    return int(code)


def _reason(code: ExitCode, summary: ScratchCleanup | DiskCheck | None) -> str:
    meaning = EXIT_MEANINGS[code]
    if code is ExitCode.PARTIAL and isinstance(summary, ScratchCleanup) and summary.failures:
        first = summary.failures[0]
        return f"{meaning}: {len(summary.failures)} in all, first {first.operation} {first.path}: {first.message}"
    if code is ExitCode.REFUSED and isinstance(summary, ScratchCleanup):
        return f"{meaning}: the removal limit keeps {summary.sessions_kept.get(Reason.REMOVAL_LIMIT, 0)} sessions"
    return meaning


def _end_with(service: int) -> None:
    """Has the kernel end this process with the service, at once: no removal may go on that another machine begins anew."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != service:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
