"""The history of usage in the state file: at most one sample an hour and scope, for 90 days.

A sample equal to the one before is left out for up to a day: usage between two samples counts as unchanged.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from arawn_cli.forecast import Sample
from arawn_cli.instants import SECOND
from arawn_cli.pressure import TOTAL, ScopeUsage
from arawn_cli.state import State, key_of

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
