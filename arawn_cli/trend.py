"""What a scope used over a period, from the samples of the history. Pure functions of values."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from arawn_cli.forecast import Sample


def trend_of(samples: Sequence[Sample], present: Sample, hours: int) -> tuple[Sample, ...]:
    """The samples of the hours up to the present one; usage between two samples counts as unchanged.

    The newest sample before the period stands at its beginning. Without any earlier sample the present one is all.
    """
    hour = present[0]
    first = hour - hours
    earlier = [sample for sample in samples if sample[0] <= first]
    within = [sample for sample in samples if first < sample[0] < hour]
    beginning = [(first, earlier[-1][1])] if earlier else []
    return (*beginning, *within, present)


def usage_at(trend: Sequence[Sample], moments: Sequence[float]) -> list[int | None]:
    """The usage at each moment, in hours since the epoch; None where no sample is as early."""
    hours = [hour for hour, _ in trend]
    positions = [bisect_right(hours, moment) for moment in moments]
    return [trend[position - 1][1] if position else None for position in positions]


def equal_steps(first: float, last: float, count: int) -> list[float]:
    """`count` moments from the first to the last, both among them; two or more."""
    return [first + (last - first) * number / (count - 1) for number in range(count)]
