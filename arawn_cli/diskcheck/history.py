"""Hourly usage in the state file, and trends and forecasts from it."""

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
from arawn_cli.diskcheck.forecast import WINDOW_HOURS, Sample, days_until, growth_per_day
from arawn_cli.diskcheck.levels import TOTAL, ScopeUsage, StoredAlert, next_limit
from arawn_cli.events import Level
from arawn_cli.state import State, StateUnavailableError, key_of
from arawn_cli.timestamps import SECOND

log = logging.getLogger(__name__)

KEPT_DAYS = 90
_MAX_GAP_HOURS = 24  # an unchanged usage is stored again after this time


def hour_of(now: int) -> int:
    """Return the whole hours since the epoch of a time in nanoseconds."""
    return now // (3600 * SECOND)


def read(state: State, root: Path, since: int) -> dict[str, list[Sample]]:
    """Return the samples of each scope of a root from an hour on, in the order of time.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    statement = (
        "SELECT scopes.scope, hour, usage FROM samples JOIN scopes ON scopes.id = samples.scope WHERE hour >= ? AND root = ? ORDER BY hour"
    )
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for scope, hour, usage in cast("list[tuple[str, int, int]]", state.select(statement, (since, key_of(root)))):
        samples[scope].append((hour, usage))
    return dict(samples)


def store(connection: sqlite3.Connection, root: Path, usages: Iterable[ScopeUsage], hour: int) -> None:
    """Store a sample per scope and hour, without incomplete usages, and delete old samples.

    The total has a sample in every hour with a check, which marks the hour as done. Other scopes
    have one when their usage has changed, or after a day.
    """
    key = key_of(root)
    done = "SELECT 1 FROM samples WHERE hour = ? AND scope = (SELECT id FROM scopes WHERE root = ? AND scope = ?)"
    if connection.execute(done, (hour, key, TOTAL)).fetchone() is not None:
        return
    ids: dict[str, int] = dict(connection.execute("SELECT scope, id FROM scopes WHERE root = ?", (key,)).fetchall())
    recent = "SELECT scope, usage FROM samples WHERE hour > ? AND hour <= ? ORDER BY hour"
    latest: dict[int, int] = dict(connection.execute(recent, (hour - _MAX_GAP_HOURS, hour)).fetchall())
    for usage in usages:
        number = ids.get(usage.scope)
        if usage.complete and (usage.scope == TOTAL or number is None or latest.get(number) != usage.usage):
            if number is None:
                number = connection.execute("INSERT INTO scopes (root, scope) VALUES (?, ?)", (key, usage.scope)).lastrowid
            connection.execute("INSERT OR IGNORE INTO samples VALUES (?, ?, ?)", (hour, number, usage.usage))
    # Without recent samples the clock may be wrong: it must not delete all of them.
    if latest and connection.execute("DELETE FROM samples WHERE hour < ?", (hour - KEPT_DAYS * 24,)).rowcount:
        connection.execute("DELETE FROM scopes WHERE id NOT IN (SELECT scope FROM samples)")


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """The stored alerts and samples of a root by scope; `hour` is the current one."""

    hour: int
    alerts: Mapping[str, StoredAlert] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)

    def growth(self, scope: str, usage: int) -> float | None:
        """Return the growth per day of a scope that uses `usage` now, or None if unknown."""
        earlier = [sample for sample in self.samples.get(scope, ()) if sample[0] < self.hour]
        return growth_per_day([*earlier, (self.hour, usage)], self.hour) if earlier else None

    def level(self, scope: str) -> Level:
        """Return the level of a scope after the last check."""
        before = self.alerts.get(scope)
        return before.alert.level if before else Level.OK

    def forecast(self, usage: ScopeUsage) -> int | None:
        """Return the days until a scope exceeds its next limit; None if unknown or above all."""
        limit = next_limit(usage, self.level(usage.scope))
        if limit is None or not usage.complete:
            return None
        return days_until(limit, usage.usage, self.growth(usage.scope, usage.usage))


def load_history(state: State, root: Path, now: int, *, hours: int = WINDOW_HOURS) -> CheckHistory:
    """Return the history of a root with samples of the last hours.

    Log a warning and return an empty history if the state file cannot be read.
    """
    hour = hour_of(now)
    try:
        return CheckHistory(hour, alerts.read(state, root), read(state, root, hour - hours))
    except StateUnavailableError as error:
        log.warning("%s: earlier levels and usage are unknown", error)
        return CheckHistory(hour)


def trend_of(samples: Sequence[Sample], current: Sample, hours: int) -> tuple[Sample, ...]:
    """Return the samples of the last hours and the current one.

    The period begins with the newest sample from before it, since usage between two samples counts
    as unchanged.
    """
    hour = current[0]
    first = hour - hours
    earlier = [sample for sample in samples if sample[0] <= first]
    within = [sample for sample in samples if first < sample[0] < hour]
    beginning = [(first, earlier[-1][1])] if earlier else []
    return (*beginning, *within, current)


def usage_at(trend: Sequence[Sample], moments: Sequence[float]) -> list[int | None]:
    """Return the usage at each moment, in hours since the epoch; None before the first sample."""
    hours = [hour for hour, _ in trend]
    positions = [bisect_right(hours, moment) for moment in moments]
    return [trend[position - 1][1] if position else None for position in positions]


def equal_steps(first: float, last: float, count: int) -> list[float]:
    """Return `count` moments, at least two, from the first to the last."""
    return [first + (last - first) * number / (count - 1) for number in range(count)]
