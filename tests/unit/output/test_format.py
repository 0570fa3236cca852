"""Counts, sizes, ages and times as people read them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.filesize import decimal

from arawn_cli.events import Unit
from arawn_cli.output.format import age, amount, day, minute, second
from arawn_cli.timestamps import DAY, SECOND, parse
from arawn_cli.units import count, size

NOW = parse("2026-03-18T09:30:07.5Z")


@given(st.integers(0, 2**63 - 1) | st.integers(0, 2000) | st.sampled_from([10**power - one for power in range(3, 19) for one in (0, 1)]))
def test_a_size_is_that_of_rich(number: int) -> None:
    assert size(number) == decimal(number)


def test_a_count_agrees_with_its_noun() -> None:
    assert [count(number, "session") for number in (0, 1, 2, 1234)] == ["0 sessions", "1 session", "2 sessions", "1,234 sessions"]


def test_an_amount_has_the_unit_of_bytes_alone() -> None:
    assert (amount(1500, Unit.BYTES), amount(1500, Unit.INODES)) == ("1.5 kB", "1,500")


def test_an_age_is_in_hours_or_days() -> None:
    ages = (None, NOW + SECOND, NOW, NOW - DAY + SECOND, NOW - DAY, NOW - 100 * DAY)
    assert [age(instant, NOW) for instant in ages] == ["unknown", "in the future", "0 h ago", "23 h ago", "1 d ago", "100 d ago"]


def test_times_are_in_utc_and_rounded_down() -> None:
    assert (day(NOW), minute(NOW), second(NOW)) == ("2026-03-18", "2026-03-18 09:30", "2026-03-18 09:30:07 UTC")
