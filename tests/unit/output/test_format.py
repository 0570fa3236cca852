"""Counts, sizes, ages and times as people read them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.events import Unit
from arawn_cli.output.format import age, amount, day, minute_with_zone, second
from arawn_cli.timestamps import DAY, SECOND, parse
from arawn_cli.units import bytes_of, count, seconds_of, size

NOW = parse("2026-03-18T09:30:07.5Z")


@given(st.integers(0, 2**63 - 1) | st.integers(0, 2000) | st.sampled_from([2**power - one for power in range(10, 63) for one in (0, 1)]))
def test_a_size_that_is_shown_can_be_entered(number: int) -> None:
    shown = size(number)
    assert re.fullmatch(r"\d{1,4} bytes?|\d{1,4}\.\d [KMGTPE]iB", shown)
    assert abs(bytes_of(shown) - number) <= number * 0.05


@given(
    st.integers(0, 2**53),
    st.sampled_from(
        [("", 1), ("B", 1), ("bytes", 1), ("k", 2**10), ("K", 2**10), ("Ki", 2**10), ("kB", 10**3), ("M", 2**20), ("GiB", 2**30)]
    ),
    st.sampled_from(["", " ", "  "]),
)
def test_a_size_has_a_number_and_a_unit(number: int, unit: tuple[str, int], space: str) -> None:
    assert bytes_of(f"{number}{space}{unit[0]}") == number * unit[1]


@given(st.text("0123456789.,-+e%/ kKMiGBd", max_size=8))
def test_any_other_text_is_no_size(text: str) -> None:
    number = text.strip(" ").rstrip("kKMGeiB").rstrip(" ")
    if not number.replace(".", "", 1).isdigit() or number.startswith(".") or number.endswith("."):
        with pytest.raises(ValueError, match="a size such as"):
            bytes_of(text)


@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from([("s", 1), ("m", 60), ("min", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)])),
        min_size=1,
        max_size=4,
    )
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, tuple[str, int]]]) -> None:
    assert seconds_of("".join(f"{number}{unit}" for number, (unit, _) in parts)) == sum(number * secs for number, (_, secs) in parts)


@pytest.mark.parametrize("text", ["", "5", "m", "1.5h", "1h30", "-5m", "5M", "1 h", "5m\n", "\u0665m"])
def test_any_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        seconds_of(text)


def test_a_count_agrees_with_its_noun() -> None:
    assert [count(number, "session") for number in (0, 1, 2, 1234)] == ["0 sessions", "1 session", "2 sessions", "1,234 sessions"]


def test_an_amount_has_the_unit_of_bytes_alone() -> None:
    assert (amount(1536, Unit.BYTES), amount(1500, Unit.INODES)) == ("1.5 KiB", "1,500")


def test_an_age_is_in_hours_or_days() -> None:
    ages = (None, NOW + SECOND, NOW, NOW - DAY + SECOND, NOW - DAY, NOW - 100 * DAY)
    assert [age(instant, NOW) for instant in ages] == ["unknown", "in the future", "0 h ago", "23 h ago", "1 d ago", "100 d ago"]


@pytest.mark.parametrize(
    ("zone", "hour", "name"),
    [
        ("UTC", "18 09:30", "UTC"),
        ("Asia/Tokyo", "18 18:30", "JST"),
        ("Pacific/Honolulu", "17 23:30", "HST"),
        ("../../etc/passwd", "18 09:30", "UTC"),
        ("\udcff", "18 09:30", "UTC"),
    ],
)
def test_times_are_local_and_rounded_down(monkeypatch: pytest.MonkeyPatch, zone: str, hour: str, name: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        shown = (day(NOW), minute_with_zone(NOW), second(NOW))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown == (f"2026-03-{hour[:2]}", f"2026-03-{hour} {name}", f"2026-03-{hour}:07 {name}")
