"""Alerts, changes of level and hourly samples in the state file; trends and forecasts from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.check_events import DiskPressure
from arawn_cli.diskcheck import history
from arawn_cli.diskcheck.history import CheckHistory, Outlook, Sample, days_until, growth_per_day
from arawn_cli.diskcheck.levels import NO_ALERT, TOTAL, Alert, ScopeUsage, StoredAlert, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.state import State
from arawn_cli.timestamps import SECOND
from tests.support.in_process import checked
from tests.support.tree import SampleTree, write

ROOT = Path("/root-of-test")
HOUR = 500_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path, lambda: 0)
    yield state
    state.close()


def verdict(scope: str, level: Level, before: Level = Level.OK, *, warnings: int = 0) -> Verdict:
    alert = Alert(level, warnings, 0, None if level is Level.OK else 5)
    return Verdict(ScopeUsage(scope, f"name of {scope}", 7, 5, 10, complete=True, unit=Unit.INODES), before, alert, notify=True)


def alerts_stored(state: State, *verdicts: Verdict, now: int = 9) -> list[str]:
    """Store verdicts as a check does, and return the statements that changed the alerts."""
    statements: list[str] = []
    with state.transaction() as connection:
        before = history.read_alerts(state, ROOT)
        connection.set_trace_callback(statements.append)
        history.store_alerts(connection, ROOT, verdicts, before, now)
        connection.set_trace_callback(None)
    return [statement.split(" (")[0] for statement in statements if " alerts " in statement]


def test_an_alert_is_read_as_it_was_stored(state: State) -> None:
    rising = verdict("a", Level.WARNING)
    counting = verdict("b", Level.OK, warnings=1)
    alerts_stored(state, rising, counting)
    expected = {made.usage.scope: StoredAlert(made.alert, made.usage) for made in (rising, counting)}
    assert history.read_alerts(state, ROOT) == expected
    with state.transaction():
        assert history.read_alerts(state, ROOT) == expected
        assert history.read_alerts(state, Path("/another")) == {}


def test_only_an_alert_that_is_stored_is_deleted(state: State) -> None:
    """There may be thousands of sessions that are ok, and other processes wait for the lock."""
    ok = [verdict(f"session:{number}", Level.OK) for number in range(1000)]
    assert alerts_stored(state, verdict("a", Level.WARNING), *ok) == ["INSERT OR REPLACE INTO alerts VALUES"]
    (statement,) = alerts_stored(state, verdict("a", Level.OK, Level.WARNING), *ok)
    assert statement.startswith("DELETE FROM alerts")
    assert (history.read_alerts(state, ROOT), ok[0].alert) == ({}, NO_ALERT)


def test_the_latest_changes_of_level_are_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "TRANSITIONS_KEPT", 2)
    for now, (before, level) in enumerate([(Level.OK, Level.WARNING), (Level.WARNING, Level.CRITICAL), (Level.CRITICAL, Level.OK)]):
        alerts_stored(state, verdict("a", level, before), verdict("b", Level.WARNING, Level.WARNING), now=now)
    changes = history.read_transitions(state, ROOT, 10)
    assert [(change.time, change.before, change.level) for change in changes] == [
        (2, Level.CRITICAL, Level.OK),
        (1, Level.WARNING, Level.CRITICAL),
    ]
    assert changes[0] == history.Transition(2, "a", "name of a", Unit.INODES, 7, 5, Level.CRITICAL, Level.OK)
    assert history.read_transitions(state, ROOT, 1) == changes[:1]


def usages(*amounts: int) -> list[ScopeUsage]:
    return [
        ScopeUsage(scope, scope, amount, 10**9, 2 * 10**9, complete=True) for scope, amount in zip((TOTAL, "a", "b"), amounts, strict=False)
    ]


def samples_stored(state: State, root: Path, hour: int, found: list[ScopeUsage]) -> None:
    with state.transaction() as connection:
        history.store_samples(connection, root, found, hour)


def test_one_sample_an_hour_and_none_that_tells_nothing_new(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    for minute in range(3):
        samples_stored(state, root, HOUR, usages(10 + minute, 5))
    samples_stored(state, root, HOUR + 1, usages(20, 5))
    samples_stored(state, root, HOUR + 24, usages(20, 5))
    read = history.read_samples(state, root, 0)
    assert read == {TOTAL: [(HOUR, 10), (HOUR + 1, 20), (HOUR + 24, 20)], "a": [(HOUR, 5), (HOUR + 24, 5)]}
    assert history.read_samples(state, Path("/another"), 0) == {}


def test_an_incomplete_usage_is_no_sample(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    samples_stored(state, root, HOUR, [ScopeUsage(TOTAL, TOTAL, 7, 10, 20, complete=False)])
    assert history.read_samples(state, root, 0) == {}


def test_samples_are_forgotten_after_ninety_days(tmp_path: Path) -> None:
    state, root = State(tmp_path, lambda: 0), Path("/root-of-test")
    samples_stored(state, root, HOUR, usages(1, 2))
    samples_stored(state, root, HOUR + 90 * 24, usages(1))
    assert history.read_samples(state, root, 0)["a"] == [(HOUR, 2)]
    samples_stored(state, root, HOUR + 90 * 24 + 1, usages(1))
    assert history.read_samples(state, root, 0) == {TOTAL: [(HOUR + 90 * 24, 1), (HOUR + 90 * 24 + 1, 1)]}


def test_the_forecast_is_for_the_next_limit_of_the_level() -> None:
    usage = ScopeUsage("a", "A", 480, 500, 1000, complete=True)
    samples = {"a": [(HOUR - hours, 480 - 10 * hours) for hours in range(48, 0, -1)]}
    warned = {"a": StoredAlert(Alert(Level.WARNING), usage)}
    assert CheckHistory(HOUR, {}, samples).growth(usage) == pytest.approx(240)
    assert CheckHistory(HOUR, {}, samples).forecast(usage) == 1
    assert CheckHistory(HOUR, warned, samples).forecast(usage) == 3
    for known, outlook in ((CheckHistory(HOUR, {}, samples), Outlook.GROWING), (CheckHistory(HOUR), Outlook.UNKNOWN)):
        assert known.outlook(usage) is outlook
        partly = replace(usage, complete=False)
        assert (known.growth(partly), known.forecast(partly), known.outlook(partly)) == (None, None, Outlook.UNKNOWN)
    assert CheckHistory(HOUR).forecast(usage) is None


def growing(hours: int, per_hour: int) -> list[Sample]:
    return [(HOUR - hours + number, number * per_hour) for number in range(hours + 1)]


def test_steady_growth_is_its_own_pace() -> None:
    assert growth_per_day(growing(48, 10), HOUR) == pytest.approx(240)


def test_a_week_is_what_counts() -> None:
    assert growth_per_day([(HOUR - 400 + n, 1_000_000 - n) for n in range(200)] + growing(168, 10), HOUR) == pytest.approx(240)


def test_less_than_two_days_tell_nothing() -> None:
    assert growth_per_day(growing(47, 10), HOUR) is None
    assert growth_per_day([], HOUR) is None
    assert growth_per_day(growing(48, 10), HOUR) is not None


@pytest.mark.parametrize("age", range(0, 169, 12))
def test_one_large_upload_moves_the_pace_little_and_is_no_trend_of_its_own(age: int) -> None:
    with_upload = [(hour, usage + (3000 if hour >= HOUR - age else 0)) for hour, usage in growing(168, 10)]
    growth = growth_per_day(with_upload, HOUR)
    assert growth is not None
    assert 200 < growth < 800
    assert not growth_per_day([(HOUR - 168, 0), (HOUR - age, 9 * 10**9), (HOUR, 9 * 10**9)], HOUR)


@pytest.mark.parametrize("hours", [48, 60, 100, 168])
@pytest.mark.parametrize("period", [24, 72, 168])
@pytest.mark.parametrize("phase", [0, 0.3, 0.6])
def test_what_is_filled_and_cleaned_in_turn_is_no_trend(hours: int, period: int, phase: float) -> None:
    shift = int(phase * period)
    circle = [(HOUR - hours + n, ((n + shift) % period) * 10**8) for n in range(hours + 1)]
    if hours >= 2 * period:
        assert not growth_per_day(circle, HOUR)


def test_growth_between_weekly_cleanups_is_a_trend() -> None:
    cleaned = [(hour, usage - (300 if usage > 1000 else 0)) for hour, usage in growing(168, 10)]
    assert growth_per_day(cleaned, HOUR) == pytest.approx(240, rel=0.3)


def test_usage_between_two_samples_counts_as_unchanged() -> None:
    assert not growth_per_day([(HOUR - 100, 50), (HOUR, 50)], HOUR)
    assert not growth_per_day([(HOUR - 100, 50), (HOUR, 5000)], HOUR), "one step at the end is no trend"


def test_many_small_falls_between_a_few_rises_are_no_trend() -> None:
    usages = [100, 104, 108, 107, 106, 105, 104, 103, 102, 101, 100, 99, 103, 107, 111]
    assert growth_per_day([(HOUR - 168 + 12 * number, usage) for number, usage in enumerate(usages)], HOUR) is None


@given(st.lists(st.integers(0, 10**15), min_size=49, max_size=169))
def test_a_pace_never_falls_and_is_no_steeper_than_all_in_an_hour(usages: list[int]) -> None:
    samples = [(HOUR - len(usages) + 1 + number, usage) for number, usage in enumerate(usages)]
    growth = growth_per_day(samples, HOUR)
    assert growth is None or 0 <= growth <= 24 * (max(usages) - min(usages) + 1)


def test_days_are_counted_up_and_end_with_the_year() -> None:
    assert days_until(1000, 0, 100.0) == 10
    assert days_until(1000, 50, 100.0) == 10
    assert days_until(1000, 1000, 100.0) == 0
    assert days_until(365_00, 0, 100.0) == 365
    assert days_until(366_00, 0, 100.0) is None
    assert [days_until(1000, 0, growth) for growth in (None, 0.0, -5.0)] == [None, None, None]


def test_a_check_says_when_the_next_limit_is_reached(tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.pressure]\ntotal = '0.0001GiB'\n[maintenance.pressure.limits]\nblog = 10_000\n")
    tree.workstream("blog", "My blog", {})
    for hour in range(49):
        write(tree.workstreams / "blog" / "work" / "f", 250 * hour)
        result, events = checked(tree, config, now=tree.now + hour * 3600 * SECOND)
    # 12 000 bytes, 6 000 a day: the limit is behind, and the critical one at 20 000 comes in the
    # second day.
    blog = next(event for event in events if isinstance(event, DiskPressure))
    assert (blog.scope, blog.level, blog.forecast_days) == ("blog", Level.WARNING, 2)
    # The total comes to 107 374 bytes at the same growth_per_day.
    assert result.summary.forecast_days == 16
