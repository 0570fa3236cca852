"""Everything outside a job: clocks, host, environment, state, events, progress, stop signal."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from arawn_cli import timestamps
from arawn_cli.errors import StoppedError, never_stopping
from arawn_cli.events import Event
from arawn_cli.state import State


class Progress:
    """Show the progress of a job: nothing here, a bar in the subclass for terminals."""

    def start(self, what: str, total: int) -> None:
        """Begin a stage of `total` steps, and end the previous one."""

    def advance(self, steps: int = 1) -> None:
        """Count steps of the stage as done."""

    def end(self) -> None:
        """End the last stage and clear the display."""


class EventOutbox(Protocol):
    """Store events until they are sent."""

    def store(self, event: Event) -> None:
        """Store an event, in memory if the state file cannot be written."""

    def add(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Store events in a transaction of the state file.

        Raises:
            StateUnavailableError: an earlier event could not be stored, and must not be overtaken.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Everything outside one run of a job.

    Attributes:
        state: the state file; in a dry run it is only read.
        show: writes an event to standard output.
        outboxes: store events for the relay and for notifications; none in a dry run.
        progress: the progress display.
        stopping: returns whether a signal asked the run to end.
        started: called by a real run once it has its lock.
        clock: returns the wall clock, in nanoseconds since the epoch.
        monotonic: returns a clock that never steps, in nanoseconds, for durations.
        boot: returns the boot of the machine, whose clock nobody can set.
        host: the host name, for events.
        environment: the environment variables.
    """

    state: State
    show: Callable[[Event], None]
    outboxes: Sequence[EventOutbox] = ()
    progress: Progress = field(default_factory=Progress)
    stopping: Callable[[], bool] = never_stopping
    started: Callable[[], None] = lambda: None
    clock: Callable[[], int] = time.time_ns
    monotonic: Callable[[], int] = time.monotonic_ns
    boot: Callable[[], timestamps.Boot] = timestamps.current_boot
    host: str = field(default_factory=socket.gethostname)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def emit(self, event: Event) -> None:
        """Store an event, and then show it: an event that was seen is not lost."""
        for outbox in self.outboxes:
            outbox.store(event)
        self.show(event)

    def timestamp(self) -> str:
        """Return the current time, as events write it."""
        return timestamps.render(self.clock())

    def advance_or_stop(self, steps: int) -> None:
        """Count steps of a stage that changes nothing as done, and end the run if it was asked to.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if self.stopping():
            raise StoppedError
        self.progress.advance(steps)
