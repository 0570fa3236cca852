"""The alerts of a root in the state file: the level of each scope that is not quiet, and the latest changes of level."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from arawn_cli.diskcheck.levels import QUIET, Alert, Remembered, ScopeUsage, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.state import State, StateUnavailableError, key_of

TRANSITIONS_KEPT = 1000


_ALERTS = (
    "SELECT scope, name, unit, usage, warning_limit, critical_limit, level, warnings, criticals, notified_at FROM alerts WHERE root = ? "
    "ORDER BY scope"
)


_TRANSITIONS = (
    "SELECT time, scope, name, unit, usage, warning_limit, level_before, level FROM transitions WHERE root = ? ORDER BY number DESC LIMIT ?"
)


# scope, name, unit, usage, warning limit, critical limit, level, warnings, criticals, told at
_AlertRow = tuple[str, str, str, int, int, int, str, int, int, int | None]


# time, scope, name, unit, usage, warning limit, level before, level
_TransitionRow = tuple[int, str, str, str, int, int, str, str]


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of level: when (nanoseconds), of which scope, by which usage of which limit, both in `unit`."""

    time: int
    scope: str
    name: str
    unit: Unit
    usage: int
    limit: int
    before: Level
    level: Level


def load(connection: sqlite3.Connection, root: Path) -> dict[str, Remembered]:
    """What is remembered of the scopes of a root, by scope; of one that is not there the level is ok."""
    return _remembered(connection.execute(_ALERTS, (key_of(root),)).fetchall())


def read(state: State, root: Path) -> dict[str, Remembered]:
    """The same, outside of a transaction.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    return _remembered(cast("list[_AlertRow]", state.select(_ALERTS, (key_of(root),))))


def store(connection: sqlite3.Connection, root: Path, verdicts: Iterable[Verdict], now: int) -> None:
    """Remembers what a check made of the scopes, and notes the changes of level; `now` is in nanoseconds."""
    for verdict in verdicts:
        if verdict.alert == QUIET:
            connection.execute("DELETE FROM alerts WHERE root = ? AND scope = ?", (key_of(root), verdict.usage.scope))
        else:
            connection.execute("INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (key_of(root), *_row_of(verdict)))
        if verdict.before is not verdict.level:
            _note(connection, root, verdict, now)


def read_transitions(state: State, root: Path, count: int) -> list[Transition]:
    """The newest changes of level of a root, newest first.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    rows = cast("list[_TransitionRow]", state.select(_TRANSITIONS, (key_of(root), count)))
    return [
        Transition(time, scope, name, Unit(unit), usage, limit, Level(before), Level(level))
        for time, scope, name, unit, usage, limit, before, level in rows
    ]


def _remembered(rows: Iterable[_AlertRow]) -> dict[str, Remembered]:
    try:
        return _by_scope(rows)
    except ValueError as error:
        raise StateUnavailableError(f"the state holds what this version does not know: {error}") from error


def _by_scope(rows: Iterable[_AlertRow]) -> dict[str, Remembered]:
    return {
        scope: Remembered(
            Alert(Level(level), warnings, criticals, told_at),
            ScopeUsage(scope, name, usage, limit, critical, complete=True, unit=Unit(unit)),
        )
        for scope, name, unit, usage, limit, critical, level, warnings, criticals, told_at in rows
    }


def _row_of(verdict: Verdict) -> _AlertRow:
    usage, alert = verdict.usage, verdict.alert
    limits = (usage.usage, usage.limit, usage.critical)
    return (usage.scope, usage.name, usage.unit.value, *limits, alert.level.value, alert.warnings, alert.criticals, alert.told_at)


def _note(connection: sqlite3.Connection, root: Path, verdict: Verdict, now: int) -> None:
    usage = verdict.usage
    connection.execute(
        "INSERT INTO transitions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            now,
            key_of(root),
            usage.scope,
            usage.name,
            usage.unit.value,
            usage.usage,
            usage.limit,
            verdict.before.value,
            verdict.level.value,
        ),
    )
    connection.execute(
        "DELETE FROM transitions WHERE root = ? AND number <= "
        "(SELECT number FROM transitions WHERE root = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (key_of(root), key_of(root), TRANSITIONS_KEPT),
    )
