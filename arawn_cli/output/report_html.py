"""Render a report as an HTML page with SVG charts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from jinja2 import Environment, PackageLoader, StrictUndefined

from arawn_cli import __version__, names
from arawn_cli.diskcheck.history import equal_steps, usage_at
from arawn_cli.diskcheck.levels import worst
from arawn_cli.output import report_data, report_wording
from arawn_cli.output.format import PLAIN, Command, age, day, minute_with_zone, scope_name
from arawn_cli.output.report_data import Report, ScopeReport
from arawn_cli.timestamps import SECOND
from arawn_cli.units import count, size

# The width of a bar in its drawing, and width and height of a trend and of the chart. The page
# stretches bar and chart.
_BAR = 100.0
_SPARKLINE = (112.0, 26.0)
_CHART = (1000.0, 240.0)

_HOUR = 3600 * SECOND
_MARGIN = 3.0  # of a trend

_SPARKLINE_POINTS = 57
_CHART_POINTS = 337

# Space above the highest usage or limit, as a factor.
_HEADROOM = 1.08

# The forecast extends the chart by this share of the period.
_FORECAST_SHARE = 0.3

_GRID_LINES = 4
_DAY_TICKS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """Where usage and limit end in a bar up to the critical limit, at most twice the limit."""

    usage: float
    limit: float


@dataclass(frozen=True, slots=True)
class Line:
    """A trend: the points of its line, those of the area below it, and its end."""

    points: str
    area: str
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid. `at` is in percent of the width, or of the height from the top."""

    at: float
    value: int


@dataclass(frozen=True, slots=True)
class Chart:
    """The total over the period, and its forecast.

    Attributes:
        forecast: the points of the line on which usage grows at its pace; empty if it does not.
        present: the present on the time axis, in percent.
        days: ticks with instants as values.
        limits: the limits that fit in.
    """

    line: Line
    forecast: str
    present: float
    amounts: tuple[Tick, ...]
    days: tuple[Tick, ...]
    limits: tuple[Tick, ...]


def page(report: Report, command: Command = PLAIN) -> str:
    """Render the page, without characters that UTF-8 cannot encode."""
    environment = Environment(
        loader=PackageLoader("arawn_cli.output"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(size=size, day=day, minute_with_zone=minute_with_zone, printable=names.escape)
    return environment.get_template("report.html.j2").render(
        report=report,
        command=command,
        words=report_wording,
        data=report_data,
        scope_name=scope_name,
        count=count,
        age=age,
        worst=worst,
        version=__version__,
        chart=chart(report),
        bar_of=bar,
        sparkline_of=sparkline,
        bar_width=_BAR,
        sparkline_size=_SPARKLINE,
        chart_size=_CHART,
    )


def bar(scope: ScopeReport) -> Bar:
    """Draw the bar of a scope."""
    limit = max(scope.usage.limit, 1)
    full = max(min(scope.usage.critical, 2 * limit), limit)
    return Bar(usage=round(min(scope.usage.usage / full, 1) * _BAR, 2), limit=round(limit / full * _BAR, 2))


def sparkline(scope: ScopeReport, hours: int) -> Line | None:
    """Draw the trend of a scope, or return None without a sample before the present one."""
    curve = scope.curve(hours, _SPARKLINE_POINTS)
    width, height = (length - 2 * _MARGIN for length in _SPARKLINE)
    points = [
        (_MARGIN + width * number / (len(curve) - 1), _MARGIN + height * (1 - usage))
        for number, usage in enumerate(curve)
        if usage is not None
    ]
    return _line(points, _SPARKLINE[1]) if points else None


def chart(report: Report) -> Chart | None:
    """Draw the chart of the total, or return None without history."""
    if not report.has_history:
        return None
    total = report.total
    width, height = _CHART
    last = total.trend[-1][0]
    first = last - report.days * 24
    growth = max(total.growth or 0.0, 0.0)
    hours = report.days * 24 * (1 + _FORECAST_SHARE if growth else 1)
    # The limit is always visible, and of the forecast as much as leaves the rest readable.
    highest = max(total.usage.limit, *(usage for _, usage in total.trend))
    top = max(min(total.usage.usage + growth * report.days * _FORECAST_SHARE, highest * 1.25), highest, 1) * _HEADROOM

    def place(hour: float, usage: float) -> tuple[float, float]:
        return width * (hour - first) / hours, height * (1 - usage / top)

    steps = equal_steps(first, last, _CHART_POINTS)
    points = [place(step, usage) for step, usage in zip(steps, usage_at(total.trend, steps), strict=True) if usage is not None]
    forecast = ""
    if growth:
        usage = total.trend[-1][1]
        end = min(first + hours, last + (top - usage) / growth * 24)
        forecast = _points([place(last, usage), place(end, usage + growth * (end - last) / 24)])
    return Chart(
        line=_line(points, height),
        forecast=forecast,
        present=round(100 * (last - first) / hours, 2),
        amounts=tuple(_height_tick(amount, top) for amount in _round_amounts(top)),
        days=_days(first, hours),
        limits=tuple(_height_tick(limit, top) for limit in {total.usage.limit, total.usage.critical} if 0 < limit <= top),
    )


def _height_tick(value: int, top: float) -> Tick:
    return Tick(round(100 * (1 - value / top), 2), value)


def _round_amounts(top: float) -> list[int]:
    """Return zero and multiples of a power of two up to the top."""
    step = 2 ** max(ceil(log2(top / (_GRID_LINES + 1))), 0)
    return [step * number for number in range(int(top / step) + 1)]


def _days(first: float, hours: float) -> tuple[Tick, ...]:
    """Return local midnights at equal distances, without those too close to an edge."""
    step = max(round(hours / 24 / _DAY_TICKS), 1) * 24
    offset = time.localtime((first + hours) * 3600).tm_gmtoff // 3600
    midnight = ((int(first) + offset) // 24 + 1) * 24 - offset
    ticks = ((100 * (hour - first) / hours, hour) for hour in range(midnight, int(first + hours) + 1, step))
    return tuple(Tick(round(at, 2), hour * _HOUR) for at, hour in ticks if 4 <= at <= 96)


def _line(points: Sequence[tuple[float, float]], height: float) -> Line:
    closed = [(points[0][0], height), *points, (points[-1][0], height)]
    return Line(_points(points), _points(closed), (round(points[-1][0], 1), round(points[-1][1], 1)))


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
