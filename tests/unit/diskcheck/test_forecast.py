"""The growth_per_day of growth and the day of the limit, and the history that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.diskcheck.forecast import Sample, days_until, growth_per_day
from arawn_cli.events import DiskPressure, Level
from arawn_cli.timestamps import SECOND
from tests.support.in_process import checked
from tests.support.tree import SampleTree, write

HOUR = 500_000


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
    # 12 000 bytes, 6 000 a day: the limit is behind, and the critical one at 20 000 comes in the second day.
    blog = next(event for event in events if isinstance(event, DiskPressure))
    assert (blog.scope, blog.level, blog.forecast_days) == ("blog", Level.WARNING, 2)
    # The total comes to 107 374 bytes at the same growth_per_day.
    assert result.summary.forecast_days == 16
