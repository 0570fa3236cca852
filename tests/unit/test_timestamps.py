from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli import timestamps


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.123456789+00:00", 123_456_789),
        ("1970-01-01T00:00:00.5z", 500_000_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T22:30:00-01:30", 0),
        ("1970-01-01T00:00:00.0000000001Z", 1),
        ("2024-02-29T23:59:60Z", 1_709_251_200 * timestamps.SECOND),
    ],
)
def test_rfc3339_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert timestamps.parse(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01",
        "1700000000",
        "2026-01-01T00:00:00+99:99",
    ],
)
def test_what_is_no_rfc3339_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an RFC 3339|no such"):
        timestamps.parse(text)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_rendered_times_read_back_as_they_were(moment: datetime) -> None:
    text = moment.isoformat(timespec="microseconds")
    assert timestamps.render(timestamps.parse(text)) == text.replace("+00:00", "Z")


@pytest.mark.parametrize("instant", [2**63 - 1, -(2**63), 10**30])
def test_mtimes_outside_the_calendar_still_render(instant: int) -> None:
    assert timestamps.render(instant).endswith("Z")
