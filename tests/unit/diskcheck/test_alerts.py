"""Alerts and changes of level in the state file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arawn_cli.diskcheck import alerts
from arawn_cli.diskcheck.levels import NO_ALERT, Alert, ScopeUsage, StoredAlert, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.state import State

ROOT = Path("/root-of-test")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path, lambda: 0)
    yield state
    state.close()


def verdict(scope: str, level: Level, before: Level = Level.OK, *, warnings: int = 0) -> Verdict:
    alert = Alert(level, warnings, 0, None if level is Level.OK else 5)
    return Verdict(ScopeUsage(scope, f"name of {scope}", 7, 5, 10, complete=True, unit=Unit.INODES), before, alert, notify=True)


def stored(state: State, *verdicts: Verdict, now: int = 9) -> list[str]:
    """Store verdicts as a check does, and return the statements that changed the alerts."""
    statements: list[str] = []
    with state.transaction() as connection:
        before = alerts.load(connection, ROOT)
        connection.set_trace_callback(statements.append)
        alerts.store(connection, ROOT, verdicts, before, now)
        connection.set_trace_callback(None)
    return [statement.split(" (")[0] for statement in statements if " alerts " in statement]


def test_an_alert_is_read_as_it_was_stored(state: State) -> None:
    rising = verdict("a", Level.WARNING)
    counting = verdict("b", Level.OK, warnings=1)
    stored(state, rising, counting)
    expected = {made.usage.scope: StoredAlert(made.alert, made.usage) for made in (rising, counting)}
    assert alerts.read(state, ROOT) == expected
    with state.transaction() as connection:
        assert alerts.load(connection, ROOT) == expected
        assert alerts.load(connection, Path("/another")) == {}


def test_only_an_alert_that_is_stored_is_deleted(state: State) -> None:
    """There may be thousands of sessions that are ok, and other processes wait for the lock."""
    ok = [verdict(f"session:{number}", Level.OK) for number in range(1000)]
    assert stored(state, verdict("a", Level.WARNING), *ok) == ["INSERT OR REPLACE INTO alerts VALUES"]
    (statement,) = stored(state, verdict("a", Level.OK, Level.WARNING), *ok)
    assert statement.startswith("DELETE FROM alerts")
    assert (alerts.read(state, ROOT), ok[0].alert) == ({}, NO_ALERT)


def test_the_latest_changes_of_level_are_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "TRANSITIONS_KEPT", 2)
    for now, (before, level) in enumerate([(Level.OK, Level.WARNING), (Level.WARNING, Level.CRITICAL), (Level.CRITICAL, Level.OK)]):
        stored(state, verdict("a", level, before), verdict("b", Level.WARNING, Level.WARNING), now=now)
    changes = alerts.read_transitions(state, ROOT, 10)
    assert [(change.time, change.before, change.level) for change in changes] == [
        (2, Level.CRITICAL, Level.OK),
        (1, Level.WARNING, Level.CRITICAL),
    ]
    assert changes[0] == alerts.Transition(2, "a", "name of a", Unit.INODES, 7, 5, Level.CRITICAL, Level.OK)
    assert alerts.read_transitions(state, ROOT, 1) == changes[:1]
