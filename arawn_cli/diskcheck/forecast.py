"""The growth of usage, and the days until it reaches a limit. Pure functions.

Growth is the Theil-Sen estimator, the median of the slopes between all pairs of points (Sen 1968,
doi:10.1080/01621459.1968.10480934): a nightly cleanup or one upload in a week changes it little.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from math import ceil

WINDOW_HOURS = 7 * 24
HORIZON_DAYS = 365
_POINTS = 14
_MIN_HOURS = 48

Sample = tuple[int, int]
"""An hour since the epoch, and the usage in it."""


def growth_per_day(samples: Sequence[Sample], hour: int) -> float | None:
    """Return the growth per day at `hour`, from samples in the order of time.

    Return None if the samples cover less than two days or have no trend. Usage between two samples
    counts as unchanged, and samples from before the last week do not count. There is a trend if
    usage rose in a third of the steps and recently, and fell by at most half of what it rose. So
    one upload is no trend, nor is a directory that is filled and emptied every day. A negative
    median is no trend either.
    """
    recent = [sample for sample in samples if hour - WINDOW_HOURS <= sample[0] <= hour]
    if not recent or hour - recent[0][0] < _MIN_HOURS:
        return None
    first = recent[0][0]
    step = (hour - first) / min(_POINTS, hour - first)
    points = _resampled(recent, first, hour, step)
    if not _is_trend([later[1] - earlier[1] for earlier, later in pairwise(points)]):
        return None
    from statistics import median  # it imports random, decimal and hashlib, which only a trend needs

    growth = 24 * median((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(points, 2))
    return growth if growth >= 0 else None


def days_until(limit: int, usage: int, growth: float | None) -> int | None:
    """Return the days until `usage` exceeds `limit`, rounded up; None if unknown or over a year."""
    if growth is None or growth <= 0:
        return None
    days = max(ceil((limit - usage) / growth), 0)
    return days if days <= HORIZON_DAYS else None


def _is_trend(steps: Sequence[int]) -> bool:
    rises = sum(step for step in steps if step > 0)
    falls = -sum(step for step in steps if step < 0)
    rising = sum(step > 0 for step in steps)
    rises_recently = any(step > 0 for step in steps[-max(len(steps) // 3, 1) :])
    return rises_recently and rising * 3 >= len(steps) and falls * 2 <= rises


def _resampled(samples: Sequence[Sample], first: int, last: int, step: float) -> list[tuple[float, int]]:
    """Return the usage at equal steps of time: the newest sample up to each."""
    points: list[tuple[float, int]] = []
    at = 0
    for number in range(round((last - first) / step) + 1):
        moment = first + number * step
        while at + 1 < len(samples) and samples[at + 1][0] <= moment:
            at += 1
        points.append((moment, samples[at][1]))
    return points
