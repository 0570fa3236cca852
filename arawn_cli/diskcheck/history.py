"""Results of earlier checks: alerts, changes of level and hourly usage; trends and forecasts.

They are in the state file. Trends and forecasts are pure functions of them.
"""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, pairwise
from math import ceil
from pathlib import Path

from arawn_cli.diskcheck.levels import NO_ALERT, TOTAL, Alert, ScopeUsage, StoredAlert, Verdict, next_limit
from arawn_cli.errors import StateUnavailableError
from arawn_cli.events import Level, Unit
from arawn_cli.problems import STATE
from arawn_cli.state import State, key_of
from arawn_cli.timestamps import HOUR

log = logging.getLogger(__name__)

TRANSITIONS_KEPT = 1000
"""Changes of level that are kept per root."""

KEPT_DAYS = 90
_MAX_GAP_HOURS = 24  # an unchanged usage is stored again after this time

WINDOW_HOURS = 7 * 24
HORIZON_DAYS = 365
_POINTS = 14
_MIN_HOURS = 48

# Usage that varies by at most this share of its largest value is steady.
_STEADY = 0.01

Sample = tuple[int, int]
"""An hour since the epoch, and the usage in it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of the level of a scope; `time` is in nanoseconds, usage and limit in `unit`."""

    time: int
    scope: str
    name: str
    unit: Unit
    usage: int
    limit: int
    before: Level
    level: Level


def read_alerts(state: State, root: Path) -> dict[str, StoredAlert]:
    """Return the alerts of a root by scope, also within a transaction. Other scopes are ok.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    columns = "scope, name, unit, usage, warning_limit, critical_limit, level, warnings, criticals, notified_at"
    rows = state.select(f"SELECT {columns} FROM alerts WHERE root = ? ORDER BY scope", (key_of(root),))  # noqa: S608 - a constant
    return {
        scope: StoredAlert(
            Alert(Level(level), warnings, criticals, notified_at),
            ScopeUsage(scope, name, usage, limit, critical, complete=True, unit=Unit(unit)),
        )
        for scope, name, unit, usage, limit, critical, level, warnings, criticals, notified_at in rows
    }


def store_alerts(
    connection: sqlite3.Connection, root: Path, verdicts: Iterable[Verdict], before: Mapping[str, StoredAlert], now: int
) -> None:
    """Store alerts and changes of level at `now` (nanoseconds); `before` are the stored alerts."""
    key = key_of(root)
    for verdict in verdicts:
        usage, alert = verdict.usage, verdict.alert
        if alert != NO_ALERT:
            limits = (usage.usage, usage.limit, usage.critical)
            row = (usage.scope, usage.name, usage.unit, *limits, alert.level, alert.warnings, alert.criticals, alert.notified_at)
            connection.execute("INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (key, *row))
        elif usage.scope in before:
            connection.execute("DELETE FROM alerts WHERE root = ? AND scope = ?", (key, usage.scope))
        if verdict.before is not verdict.level:
            change = (usage.scope, usage.name, usage.unit, usage.usage, usage.limit, verdict.before, verdict.level)
            connection.execute("INSERT INTO transitions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (now, key, *change))
            connection.execute(
                "DELETE FROM transitions WHERE root = ? AND number <= "
                "(SELECT number FROM transitions WHERE root = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (key, key, TRANSITIONS_KEPT),
            )


def read_transitions(state: State, root: Path, count: int) -> list[Transition]:
    """Return the latest changes of level of a root, newest first.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    columns = "time, scope, name, unit, usage, warning_limit, level_before, level"
    statement = f"SELECT {columns} FROM transitions WHERE root = ? ORDER BY number DESC LIMIT ?"  # noqa: S608 - a constant
    return [
        Transition(time, scope, name, Unit(unit), usage, limit, Level(before), Level(level))
        for time, scope, name, unit, usage, limit, before, level in state.select(statement, (key_of(root), count))
    ]


def read_samples(state: State, root: Path, since: int) -> dict[str, list[Sample]]:
    """Return the samples of each scope of a root from an hour on, in the order of time.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    statement = (
        "SELECT scopes.scope, hour, usage FROM samples JOIN scopes ON scopes.id = samples.scope WHERE hour >= ? AND root = ? ORDER BY hour"
    )
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for scope, hour, usage in state.select(statement, (since, key_of(root))):
        samples[scope].append((hour, usage))
    return dict(samples)


def store_samples(connection: sqlite3.Connection, root: Path, usages: Iterable[ScopeUsage], hour: int) -> None:
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


class Outlook(StrEnum):
    """How the usage of a scope developed in the last week."""

    UNKNOWN = "not yet known"
    STEADY = "steady"
    UNCLEAR = "no clear trend"
    GROWING = "growing"


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """The stored alerts and samples of a root by scope; `hour` is the current one."""

    hour: int
    alerts: Mapping[str, StoredAlert] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)

    def trend(self, usage: ScopeUsage, hours: int) -> tuple[Sample, ...]:
        """Return the samples of the last hours of a scope, with its usage now as the last one."""
        return trend_of(self.samples.get(usage.scope, ()), (self.hour, usage.usage), hours)

    def growth(self, usage: ScopeUsage) -> float | None:
        """Return the growth per day of a scope with its usage now, or None if it is unknown."""
        earlier = [sample for sample in self.samples.get(usage.scope, ()) if sample[0] < self.hour]
        return growth_per_day([*earlier, (self.hour, usage.usage)], self.hour) if earlier and usage.complete else None

    def outlook(self, usage: ScopeUsage) -> Outlook:
        """Return how the usage of a scope develops until its usage now."""
        growth, samples = self.growth(usage), self.samples.get(usage.scope, ())
        week = [used for hour, used in samples if hour >= self.hour - WINDOW_HOURS]
        if growth is not None and growth > 0:
            return Outlook.GROWING
        if not usage.complete or not week or self.hour - samples[-len(week)][0] < _MIN_HOURS:
            return Outlook.UNKNOWN
        most, least = max(*week, usage.usage), min(*week, usage.usage)
        return Outlook.STEADY if most - least <= most * _STEADY else Outlook.UNCLEAR

    def next_limit(self, usage: ScopeUsage) -> int | None:
        """Return the limit that a scope exceeds next; None above all or without one."""
        before = self.alerts.get(usage.scope)
        return next_limit(usage, before.alert.level if before else Level.OK)

    def forecast(self, usage: ScopeUsage) -> int | None:
        """Return the days until a scope exceeds its next limit; None if unknown or above all."""
        limit = self.next_limit(usage)
        return None if limit is None else days_until(limit, usage.usage, self.growth(usage))


def load_history(state: State, root: Path, now: int, *, hours: int = WINDOW_HOURS) -> CheckHistory:
    """Return the history of a root with samples of the last hours.

    Log a warning and return an empty history if the state file cannot be read.
    """
    hour = now // HOUR
    try:
        return CheckHistory(hour, read_alerts(state, root), read_samples(state, root, hour - hours))
    except StateUnavailableError as error:
        log.warning("%s: earlier levels and usage are unknown", error, extra=STATE)
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


def growth_per_day(samples: Sequence[Sample], hour: int) -> float | None:
    """Return the growth per day at `hour`, from samples in the order of time.

    It is the Theil-Sen estimator, the median of the slopes between all pairs of points (Sen 1968,
    doi:10.1080/01621459.1968.10480934): a nightly cleanup or one upload in a week changes it
    little.

    Return None if the samples cover less than two days or have no trend. Usage between two samples
    counts as unchanged, and samples from before the last week do not count. There is a trend if
    usage rose in a third of the steps and recently, and fell by at most half of that rise. So
    one upload is not a trend, nor is a directory that is filled and emptied every day. A negative
    median is not a trend either.
    """
    recent = [sample for sample in samples if hour - WINDOW_HOURS <= sample[0] <= hour]
    if not recent or hour - recent[0][0] < _MIN_HOURS:
        return None
    first = recent[0][0]
    moments = equal_steps(first, hour, min(_POINTS, hour - first) + 1)
    points = [(moment, usage) for moment, usage in zip(moments, usage_at(recent, moments), strict=True) if usage is not None]
    if not _is_trend([later[1] - earlier[1] for earlier, later in pairwise(points)]):
        return None
    from statistics import median  # it imports random, decimal and hashlib, which only a trend needs

    growth = 24 * median((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(points, 2))
    return growth if growth >= 0 else None


def days_until(limit: int, usage: int, growth: float | None) -> int | None:
    """Return the days until `usage` exceeds `limit`, rounded up; None if unknown or over a year."""
    if growth is None or growth <= 0:
        return None
    days = max(ceil((limit - usage) / growth), 0)
    return days if days <= HORIZON_DAYS else None


def _is_trend(steps: Sequence[int]) -> bool:
    rises = sum(step for step in steps if step > 0)
    falls = -sum(step for step in steps if step < 0)
    rising = sum(step > 0 for step in steps)
    rises_recently = any(step > 0 for step in steps[-max(len(steps) // 3, 1) :])
    return rises_recently and rising * 3 >= len(steps) and falls * 2 <= rises
