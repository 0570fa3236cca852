"""The pace at which usage grows, and the day on which a limit is reached. Pure functions of values.

The pace is the Theil-Sen estimator, the median of the slopes between all pairs of points
(Sen 1968, doi:10.1080/01621459.1968.10480934): a nightly cleanup or one large upload among many days moves it little.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from math import ceil

WINDOW_HOURS = 7 * 24


HORIZON_DAYS = 365


_POINTS = 14


_FEWEST_HOURS = 48


Sample = tuple[int, int]
"""An hour since the epoch, and the usage in it."""


def pace(samples: Sequence[Sample], hour: int) -> float | None:
    """Growth per day at `hour`, from samples in the order of time; None when they cover less than two days, or show no trend.

    Between two samples usage counts as unchanged, and samples before the window of a week are passed over. There is a
    trend when usage rose in a third of the time and lately, and fell by no more than half of what it rose: one upload is
    a step, and what is filled and cleaned day after day is a circle. A median that falls, of many small falls, is none either.
    """
    recent = [sample for sample in samples if hour - WINDOW_HOURS <= sample[0] <= hour]
    if not recent or hour - recent[0][0] < _FEWEST_HOURS:
        return None
    first = recent[0][0]
    step = (hour - first) / min(_POINTS, hour - first)
    points = _resampled(recent, first, hour, step)
    if not _is_trend([later[1] - earlier[1] for earlier, later in pairwise(points)]):
        return None
    from statistics import median  # with random, decimal and hashlib behind it: for a trend alone

    growth = 24 * median((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(points, 2))
    return growth if growth >= 0 else None


def days_until(limit: int, usage: int, growth: float | None) -> int | None:
    """Whole days, begun ones counted, until `usage` grows past `limit`; None when it does not within a year, or nobody knows."""
    if growth is None or growth <= 0:
        return None
    days = max(ceil((limit - usage) / growth), 0)
    return days if days <= HORIZON_DAYS else None


def _is_trend(steps: Sequence[int]) -> bool:
    rises = sum(step for step in steps if step > 0)
    falls = -sum(step for step in steps if step < 0)
    rising = sum(step > 0 for step in steps)
    lately = any(step > 0 for step in steps[-max(len(steps) // 3, 1) :])
    return lately and rising * 3 >= len(steps) and falls * 2 <= rises


def _resampled(samples: Sequence[Sample], first: int, last: int, step: float) -> list[tuple[float, int]]:
    """The usage at equal steps of time: of each moment the newest sample up to it."""
    points: list[tuple[float, int]] = []
    at = 0
    for number in range(round((last - first) / step) + 1):
        moment = first + number * step
        while at + 1 < len(samples) and samples[at + 1][0] <= moment:
            at += 1
        points.append((moment, samples[at][1]))
    return points
