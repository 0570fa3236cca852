"""Signals and priority of the process that runs a job."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from arawn_cli.config.schema import Maintenance
from arawn_cli.errors import ExitCode

log = logging.getLogger(__name__)


class Signals:
    """Record SIGTERM and SIGINT, so that a run ends between two steps and reports what it did."""

    def __init__(self) -> None:
        self._received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals inside the context, and restore the previous handlers after it."""
        before = [(number, signal.signal(number, self._receive)) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def stopping(self) -> bool:
        """Return whether one of the signals was received."""
        return self._received is not None

    @property
    def exit_code(self) -> ExitCode | None:
        """Return 128 plus the number of the signal, or None without a signal."""
        return None if self._received is None else ExitCode(128 + self._received)

    def _receive(self, number: int, _frame: object) -> None:
        self._received = number


# The lowest priority of the best-effort class (ioprio_set(2)); psutil's own default is the highest.
_LOWEST = 7


def lower_priority(maintenance: Maintenance) -> None:
    """Lower the CPU and disk priority of this process to the configured values; never raise them.

    Some containers do not allow it: a priority that cannot be lowered stays, and the other one is
    still lowered.
    """
    process = psutil.Process()
    for lower in (_lower_cpu, _lower_disk):
        try:
            lower(process, maintenance)
        except (psutil.Error, OSError) as error:
            log.info("cannot lower the priority of this process: %s", error)


def _lower_cpu(process: psutil.Process, maintenance: Maintenance) -> None:
    if process.nice() < maintenance.nice:
        process.nice(maintenance.nice)


def _lower_disk(process: psutil.Process, maintenance: Maintenance) -> None:
    if maintenance.io_class == "none" or not hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        return
    idle, best_effort = psutil.IOPRIO_CLASS_IDLE, psutil.IOPRIO_CLASS_BE
    current = process.ionice().ioclass
    # If a systemd unit has set the class already, do not set it again: it may forbid the call.
    if maintenance.io_class == "idle" and current != idle:
        process.ionice(idle)
    elif maintenance.io_class == "best-effort" and current not in (idle, best_effort):
        process.ionice(best_effort, _LOWEST)
