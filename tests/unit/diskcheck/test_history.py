"""Hourly samples in the state file, and trends from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from arawn_cli.diskcheck import history
from arawn_cli.diskcheck.history import CheckHistory
from arawn_cli.diskcheck.levels import TOTAL, Alert, ScopeUsage, StoredAlert
from arawn_cli.events import Level
from arawn_cli.state import State

HOUR = 500_000


def usages(*amounts: int) -> list[ScopeUsage]:
    return [
        ScopeUsage(scope, scope, amount, 10**9, 2 * 10**9, complete=True) for scope, amount in zip((TOTAL, "a", "b"), amounts, strict=False)
    ]


def stored(state: State, root: Path, hour: int, found: list[ScopeUsage]) -> None:
    with state.transaction() as connection:
        history.store(connection, root, found, hour)


def test_one_sample_an_hour_and_none_that_tells_nothing_new(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    for minute in range(3):
        stored(state, root, HOUR, usages(10 + minute, 5))
    stored(state, root, HOUR + 1, usages(20, 5))
    stored(state, root, HOUR + 24, usages(20, 5))
    read = history.read(state, root, 0)
    assert read == {TOTAL: [(HOUR, 10), (HOUR + 1, 20), (HOUR + 24, 20)], "a": [(HOUR, 5), (HOUR + 24, 5)]}
    assert history.read(state, Path("/another"), 0) == {}


def test_an_incomplete_usage_is_no_sample(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    stored(state, root, HOUR, [ScopeUsage(TOTAL, TOTAL, 7, 10, 20, complete=False)])
    assert history.read(state, root, 0) == {}


def test_samples_are_forgotten_after_ninety_days(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    stored(state, root, HOUR, usages(1, 2))
    stored(state, root, HOUR + 90 * 24, usages(1))
    assert history.read(state, root, 0)["a"] == [(HOUR, 2)]
    stored(state, root, HOUR + 90 * 24 + 1, usages(1))
    assert history.read(state, root, 0) == {TOTAL: [(HOUR + 90 * 24, 1), (HOUR + 90 * 24 + 1, 1)]}


def test_the_forecast_is_for_the_next_limit_of_the_level() -> None:
    usage = ScopeUsage("a", "A", 480, 500, 1000, complete=True)
    samples = {"a": [(HOUR - hours, 480 - 10 * hours) for hours in range(48, 0, -1)]}
    warned = {"a": StoredAlert(Alert(Level.WARNING), usage)}
    assert CheckHistory(HOUR, {}, samples).growth("a", 480) == pytest.approx(240)
    assert CheckHistory(HOUR, {}, samples).forecast(usage) == 1
    assert CheckHistory(HOUR, warned, samples).forecast(usage) == 3
    assert CheckHistory(HOUR, {}, samples).forecast(ScopeUsage("a", "A", 480, 500, 1000, complete=False)) is None
    assert CheckHistory(HOUR).forecast(usage) is None
