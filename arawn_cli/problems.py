"""Log a persistent problem when it starts, once a day, and when it ends: cron mails it.

A module names the problem of a log record with `extra=persistent(…)`. While a job runs, the records
above information that name one are held. At the end of the run `decide` compares them with the
problems of earlier runs: a record that is not due is logged as information.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from arawn_cli.errors import StateUnavailableError
from arawn_cli.events import JobName
from arawn_cli.names import cut
from arawn_cli.state import State, key_of
from arawn_cli.timestamps import DAY, HOUR

log = logging.getLogger(__name__)
_package = logging.getLogger("arawn_cli")

_HELD_MAX = 1000

_OF_RUN = "((job = ? AND root = ?) OR job = '')"


@dataclass(frozen=True, slots=True)
class Problem:
    """The subject of a log record.

    Attributes:
        key: names it among the problems of a job on a root, or of all jobs if it is shared.
        ended: the message when it is over: empty for none, None for that of the start.
        about: an object that settings can change; with another one the problem starts again.
    """

    key: str
    is_shared: bool = False
    ended: str | None = None
    about: str = ""


class Noted(NamedTuple):
    """A problem of an earlier run; the time is in nanoseconds since the epoch."""

    logged_at: int
    ended: str
    about: str = ""


def persistent(key: str, *, shared: bool = False, ended: str | None = None, about: str = "") -> dict[str, Problem]:
    """Return the `extra` of a log record about a problem that every run may meet; see `Problem`."""
    return {"problem": Problem(key, shared, ended, about)}


STATE = persistent("state", shared=True, ended="the state can be used again")


class Decision(NamedTuple):
    """The problems that are logged as what they are, and the messages of those that are over."""

    due: frozenset[Problem]
    ended: Mapping[str, str]


def decide(seen: frozenset[Problem], known: Mapping[str, Noted], now: int, period: int, *, complete: bool) -> Decision:
    """Decide which problems a run logs, of those that it saw and of those of earlier runs.

    A problem is due when it is new, and a day after it was logged; a day less half a period, at
    most an hour, since runs are never exactly as far apart. Only a complete run shows that one is
    over. Times are in nanoseconds; `period` is the time between two runs.
    """
    pause = DAY - min(period // 2, HOUR)

    def is_due(problem: Problem) -> bool:
        noted = known.get(problem.key)
        return noted is None or noted.about != problem.about or not 0 <= now - noted.logged_at < pause

    keys = {problem.key for problem in seen}
    return Decision(frozenset(filter(is_due, seen)), {key: noted.ended for key, noted in known.items() if complete and key not in keys})


def is_due_without_state(job: JobName, now: int, period: int) -> bool:
    """Decide by the time: a check logs in the first run of an hour, a cleanup always."""
    return job is not JobName.DISK_CHECK or now % HOUR < period


@dataclass(slots=True)
class ProblemLog(logging.Filter):
    """Hold the log records of one run that name a problem.

    Attributes:
        period: time between two scheduled runs of the job, in nanoseconds.
    """

    state: State
    job: JobName
    root: Path
    period: int
    _held: dict[Problem, list[logging.LogRecord]] = field(default_factory=dict)
    _count: int = 0
    _last: logging.LogRecord | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record now."""
        problem = getattr(record, "problem", None)
        if not isinstance(problem, Problem) or record.levelno <= logging.INFO:
            return True
        if record is self._last:  # each handler asks
            return False
        self._last = record
        if self._count < _HELD_MAX:
            self._held.setdefault(problem, []).append(record)
        self._count += 1
        return False

    def begin(self) -> None:
        """Hold the records of this package until `end`."""
        for handler in _package.handlers:
            handler.addFilter(self)

    def end(self, now: int, *, complete: bool) -> None:
        """Log the held records that are due, the others as information, and the ends of problems.

        `now` is the wall clock in nanoseconds; `complete` is whether the job has done its work.
        """
        for handler in _package.handlers:
            handler.removeFilter(self)
        if self._count > _HELD_MAX:
            more = (f"{self._count - _HELD_MAX:,}",)
            self._held[Problem("more")] = [logging.LogRecord(__name__, logging.WARNING, __file__, 0, "and %s more warnings", more, None)]
        try:
            decision = self._decide(now, complete=complete)
        except StateUnavailableError:
            due = is_due_without_state(self.job, now, self.period)
            decision = Decision(frozenset(self._held if due else ()), {})
        for problem, records in self._held.items():
            for record in records:
                if problem not in decision.due:
                    record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
        for text in filter(None, decision.ended.values()):
            log.warning("%s", text)

    def _decide(self, now: int, *, complete: bool) -> Decision:
        """Decide, and store the decision."""
        of_run = (self.job.value, key_of(self.root))
        if not self._held and not self._known(of_run):
            return Decision(frozenset(), {})
        with self.state.transaction() as connection:
            decision = decide(frozenset(self._held), self._known(of_run), now, self.period, complete=complete)
            forget = f"DELETE FROM problems WHERE problem = ? AND {_OF_RUN}"  # noqa: S608 - a constant
            connection.executemany(forget, [(key, *of_run) for key in decision.ended])
            note = "INSERT OR REPLACE INTO problems (job, root, problem, about, logged_at, ended) VALUES (?, ?, ?, ?, ?, ?)"
            for problem in decision.due:
                ended = cut(f"no longer: {self._held[problem][0].getMessage()}") if problem.ended is None else problem.ended
                connection.execute(note, (*(("", "") if problem.is_shared else of_run), problem.key, problem.about, now, ended))
        return decision

    def _known(self, of_run: tuple[str, str]) -> dict[str, Noted]:
        rows = self.state.select(f"SELECT problem, logged_at, ended, about FROM problems WHERE {_OF_RUN}", of_run)  # noqa: S608 - a constant
        return {key: Noted(*noted) for key, *noted in rows}
