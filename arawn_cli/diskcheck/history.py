"""Store usage per hour in the state file, and read trends from it."""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from arawn_cli.diskcheck import alerts
from arawn_cli.diskcheck.forecast import WINDOW_HOURS, Sample, days_until, pace
from arawn_cli.diskcheck.levels import TOTAL, Remembered, ScopeUsage, next_limit
from arawn_cli.events import Level
from arawn_cli.state import State, StateUnavailableError, key_of
from arawn_cli.timestamps import SECOND

log = logging.getLogger(__name__)

KEPT_DAYS = 90


_LONGEST_GAP_HOURS = 24


_SAMPLES = (
    "SELECT scopes.scope, hour, usage FROM samples JOIN scopes ON scopes.id = samples.scope WHERE hour >= ? AND root = ? ORDER BY hour"
)


def hour_of(now: int) -> int:
    """The whole hours since the epoch of an instant in nanoseconds."""
    return now // (3600 * SECOND)


def read(state: State, root: Path, since: int) -> dict[str, list[Sample]]:
    """The samples of each scope of a root from an hour on, in the order of time.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    rows = cast("list[tuple[str, int, int]]", state.select(_SAMPLES, (since, key_of(root))))
    for scope, hour, usage in rows:
        samples[scope].append((hour, usage))
    return dict(samples)


def store(connection: sqlite3.Connection, root: Path, usages: Iterable[ScopeUsage], hour: int) -> None:
    """Takes the samples of an hour, once, and forgets those that are too old; an incomplete usage is no sample.

    The total is sampled in every hour with a check, and so tells that the hour has been seen to.
    """
    if _is_sampled(connection, root, hour):
        return
    ids = _ids(connection, root)
    latest = _latest(connection, hour)
    for usage in usages:
        number = ids.get(usage.scope)
        if usage.complete and (usage.scope == TOTAL or number is None or latest.get(number) != usage.usage):
            number = _add_scope(connection, root, usage.scope) if number is None else number
            connection.execute("INSERT OR IGNORE INTO samples VALUES (?, ?, ?)", (hour, number, usage.usage))
    # After a leap of the clock nothing is forgotten at once: it may be a wrong one.
    if latest and connection.execute("DELETE FROM samples WHERE hour < ?", (hour - KEPT_DAYS * 24,)).rowcount:
        connection.execute("DELETE FROM scopes WHERE id NOT IN (SELECT scope FROM samples)")


def _ids(connection: sqlite3.Connection, root: Path) -> Mapping[str, int]:
    rows: list[tuple[str, int]] = connection.execute("SELECT scope, id FROM scopes WHERE root = ?", (key_of(root),)).fetchall()
    return dict(rows)


def _is_sampled(connection: sqlite3.Connection, root: Path, hour: int) -> bool:
    total = "SELECT 1 FROM samples WHERE hour = ? AND scope = (SELECT id FROM scopes WHERE root = ? AND scope = ?)"
    return connection.execute(total, (hour, key_of(root), TOTAL)).fetchone() is not None


def _latest(connection: sqlite3.Connection, hour: int) -> dict[int, int]:
    """The newest usage of every scope that was sampled within the longest gap."""
    statement = "SELECT scope, usage FROM samples WHERE hour > ? AND hour <= ? ORDER BY hour"
    rows: list[tuple[int, int]] = connection.execute(statement, (hour - _LONGEST_GAP_HOURS, hour)).fetchall()
    return dict(rows)


def _add_scope(connection: sqlite3.Connection, root: Path, scope: str) -> int:
    return connection.execute("INSERT INTO scopes (root, scope) VALUES (?, ?)", (key_of(root), scope)).lastrowid or 0


def trend_of(samples: Sequence[Sample], present: Sample, hours: int) -> tuple[Sample, ...]:
    """The samples of the hours up to the present one; usage between two samples counts as unchanged.

    The newest sample before the period stands at its beginning. Without any earlier sample the present one is all.
    """
    hour = present[0]
    first = hour - hours
    earlier = [sample for sample in samples if sample[0] <= first]
    within = [sample for sample in samples if first < sample[0] < hour]
    beginning = [(first, earlier[-1][1])] if earlier else []
    return (*beginning, *within, present)


def usage_at(trend: Sequence[Sample], moments: Sequence[float]) -> list[int | None]:
    """The usage at each moment, in hours since the epoch; None where no sample is as early."""
    hours = [hour for hour, _ in trend]
    positions = [bisect_right(hours, moment) for moment in moments]
    return [trend[position - 1][1] if position else None for position in positions]


def equal_steps(first: float, last: float, count: int) -> list[float]:
    """`count` moments from the first to the last, both among them; two or more."""
    return [first + (last - first) * number / (count - 1) for number in range(count)]


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """What is remembered of a root: alerts and samples by scope, at the hour of the check."""

    hour: int
    alerts: Mapping[str, Remembered] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)

    def pace(self, scope: str, usage: int) -> float | None:
        """Growth per day of a scope that uses so much now, or None when nobody knows."""
        earlier = [sample for sample in self.samples.get(scope, ()) if sample[0] < self.hour]
        return pace([*earlier, (self.hour, usage)], self.hour) if earlier else None

    def level(self, scope: str) -> Level:
        """The level that the last check left a scope at."""
        before = self.alerts.get(scope)
        return before.alert.level if before else Level.OK

    def forecast(self, usage: ScopeUsage) -> int | None:
        """Days until a scope comes to the limit that is next for it; None when it has none, or nobody knows."""
        limit = next_limit(usage, self.level(usage.scope))
        if limit is None or not usage.complete:
            return None
        return days_until(limit, usage.usage, self.pace(usage.scope, usage.usage))


def load_history(state: State, root: Path, now: int, *, hours: int = WINDOW_HOURS) -> CheckHistory:
    """What is remembered, with the samples of so many hours; nothing, after a warning, where the state cannot be read."""
    hour = hour_of(now)
    try:
        return CheckHistory(hour, alerts.read(state, root), read(state, root, hour - hours))
    except StateUnavailableError as error:
        log.warning("%s: earlier levels and usage are not known", error)
        return CheckHistory(hour)
