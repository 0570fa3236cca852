"""What installing or removing would change, as values: text before, text after, and whose it was."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.vocabulary import Condition


class ScheduleError(ArawnCliError):
    """A step of installing, removing or asking failed; the steps before it are done."""

    exit_code = ExitCode.PARTIAL


class TangledError(ScheduleError):
    """Lines of the tool's run, and it cannot tell which are whose."""


class NoSchedulerError(ScheduleError):
    """The scheduler is not on this machine; nothing is done."""

    exit_code = ExitCode.USAGE


class AskedWronglyError(ArawnCliError):
    """The command line asks for what cannot be done here."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Change:
    """One file, or one crontab. `before` and `after` are whole texts, or None where there is none."""

    place: str
    name: str
    before: str | None
    after: str | None
    condition: Condition

    @property
    def needs_question(self) -> bool:
        """Whether it would overwrite or remove what the tool did not write."""
        return self.condition in (Condition.EDITED, Condition.FOREIGN)

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff, without their ends."""
        before, after = (_lines(text) for text in (self.before, self.after))
        old = "/dev/null" if self.before is None else self.place
        new = "/dev/null" if self.after is None else self.place
        return difflib.unified_diff(before, after, old, new, lineterm="")


class Store(Protocol):
    """A place that holds what is installed."""

    def installing(self, bodies: Mapping[str, str]) -> list[Change]:
        """A change for each body whose file is not what it should be."""

    def removing(self) -> list[Change]:
        """A change for each file found, foreign ones left out."""

    def conditions(self, bodies: Mapping[str, str]) -> dict[str, Condition]:
        """What is found for each body."""

    def text(self, name: str) -> str | None:
        """What is found under a name."""

    def since(self, name: str) -> int | None:
        """When it was written, in nanoseconds since the epoch; None where that is not known."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Makes the changes.

        Raises:
            ScheduleError: a file or crontab cannot be changed.
        """


def _lines(text: str | None) -> list[str]:
    return [line for line in (text or "").splitlines() if not line.startswith("# arawn-cli schedule sha256=")]
