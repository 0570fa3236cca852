"""Alerts in the state file: levels of scopes that are not ok, and the latest changes of level."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from arawn_cli.diskcheck.levels import NO_ALERT, Alert, ScopeUsage, StoredAlert, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.state import State, StateUnavailableError, key_of

TRANSITIONS_KEPT = 1000
"""Changes of level that are kept per root."""

_SELECT_ALERTS = (
    "SELECT scope, name, unit, usage, warning_limit, critical_limit, level, warnings, criticals, notified_at FROM alerts WHERE root = ? "
    "ORDER BY scope"
)
_AlertRow = tuple[str, str, str, int, int, int, str, int, int, int | None]

_SELECT_TRANSITIONS = (
    "SELECT time, scope, name, unit, usage, warning_limit, level_before, level FROM transitions WHERE root = ? ORDER BY number DESC LIMIT ?"
)
_TransitionRow = tuple[int, str, str, str, int, int, str, str]


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


def load(connection: sqlite3.Connection, root: Path) -> dict[str, StoredAlert]:
    """Return the alerts of a root by scope, in a transaction. A scope without one is ok."""
    return _stored_alerts(connection.execute(_SELECT_ALERTS, (key_of(root),)).fetchall())


def read(state: State, root: Path) -> dict[str, StoredAlert]:
    """Return the alerts of a root by scope, outside of a transaction.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    return _stored_alerts(cast("list[_AlertRow]", state.select(_SELECT_ALERTS, (key_of(root),))))


def store(connection: sqlite3.Connection, root: Path, verdicts: Iterable[Verdict], before: Mapping[str, StoredAlert], now: int) -> None:
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
    rows = cast("list[_TransitionRow]", state.select(_SELECT_TRANSITIONS, (key_of(root), count)))
    return [
        Transition(time, scope, name, Unit(unit), usage, limit, Level(before), Level(level))
        for time, scope, name, unit, usage, limit, before, level in rows
    ]


def _stored_alerts(rows: Iterable[_AlertRow]) -> dict[str, StoredAlert]:
    try:
        return {
            scope: StoredAlert(
                Alert(Level(level), warnings, criticals, notified_at),
                ScopeUsage(scope, name, usage, limit, critical, complete=True, unit=Unit(unit)),
            )
            for scope, name, unit, usage, limit, critical, level, warnings, criticals, notified_at in rows
        }
    except ValueError as error:
        raise StateUnavailableError(f"the state file contains values that this version does not know: {error}") from error
