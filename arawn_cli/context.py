"""What a job is given of the outside: clock, host name, and where events and progress go."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arawn_cli import timestamps
from arawn_cli.errors import StoppedError
from arawn_cli.events import Event
from arawn_cli.state import State

Change = Callable[[sqlite3.Connection], Sequence[Event]]
"""What is to be done in one transaction on the state file, and the events that stand or fall with it."""


class Progress(Protocol):
    """Shows how far a job is; every call is cheap and may show nothing."""

    def start(self, what: str, total: int) -> None:
        """Begins a stage of `total` steps, ending the one before."""

    def advance(self, steps: int = 1) -> None:
        """Some steps of the stage are done."""

    def end(self) -> None:
        """The last stage is over, and nothing of it stays in sight."""


class NoProgress:
    """Shows nothing."""

    def start(self, what: str, total: int) -> None:
        """Begins a stage."""

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""

    def end(self) -> None:
        """The last stage is over."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """The outside of one run.

    Attributes:
        clock: the wall clock, in nanoseconds since the epoch.
        monotonic: a clock that never steps, in nanoseconds, for durations.
        emit: takes each event as it happens.
        state: the state file; in a dry run it is only read.
        commit: makes a change of the state file, stores its events for the relay in the same transaction, and shows
            them after it; false when the file takes no change, and then nothing of it has happened.
        stopping: whether a signal asked the run to end.
    """

    clock: Callable[[], int]
    monotonic: Callable[[], int]
    host: str
    emit: Callable[[Event], None]
    state: State
    commit: Callable[[Change], bool]
    progress: Progress
    stopping: Callable[[], bool]

    def timestamp(self) -> str:
        """The present time, as events write it."""
        return timestamps.render(self.clock())

    def advance_or_stop(self, steps: int) -> None:
        """Some steps of a stage that changes nothing are done, and may be the last.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if self.stopping():
            raise StoppedError("stopped by a signal")
        self.progress.advance(steps)
