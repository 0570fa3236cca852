"""Render a report as an HTML page with SVG charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from arawn_cli import __version__, names
from arawn_cli.diskcheck.alerts import Transition
from arawn_cli.diskcheck.history import equal_steps, usage_at
from arawn_cli.output import report_wording as words
from arawn_cli.output.report_data import SHOWN_ALERTS, SHOWN_SESSIONS, Report, ScopeReport, Session, WorkstreamReport
from arawn_cli.timestamps import SECOND

BAR = 100.0
"""Width of the drawing of a bar."""


SPARK = (112.0, 26.0)
"""Width and height of the drawing of a trend in a table."""


CHART = (1000.0, 240.0)
"""Width and height of the drawing of the total; it is stretched to its place."""


_Place = Callable[[float, float], tuple[float, float]]


_HOUR = 3600 * SECOND


_MARGIN = 3.0


_SPARK_POINTS = 57


_CHART_POINTS = 337


# Less than this share of the usage does not fill the height: noise must not look like growth.
_LEAST_SPAN = 0.1


_HEADROOM = 1.08


# So much of the period is shown as its continuation.
_AHEAD = 0.3


_GRID_LINES = 4


_DAY_MARKS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar up to twice the limit, or the critical limit if that is less: where usage ends, and where the limit is."""

    usage: float
    limit: float


@dataclass(frozen=True, slots=True)
class Line:
    """A trend: the points of its line, those of the area below it, and its end."""

    points: str
    area: str
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line of the grid: where it is, in percent of the width from the left or of the height from the top, and what it stands for."""

    at: float
    value: int


@dataclass(frozen=True, slots=True)
class Chart:
    """The total over the period and a little on: heights from the top.

    `ahead` is the line on which usage goes on at its pace, `days` marks instants, `limits` the limits that fit in.
    """

    line: Line
    ahead: str
    present: float
    amounts: tuple[Mark, ...]
    days: tuple[Mark, ...]
    limits: tuple[Mark, ...]


def bar(standing: ScopeReport) -> Bar:
    """The bar of a scope."""
    limit = max(standing.usage.limit, 1)
    full = max(min(standing.usage.critical, 2 * limit), limit)
    return Bar(usage=round(min(standing.usage.usage / full, 1) * BAR, 2), limit=round(limit / full * BAR, 2))


def spark(standing: ScopeReport, hours: int) -> Line | None:
    """The trend of a scope from its least to its largest usage; None without a sample before the present one."""
    if len(standing.trend) < 2:
        return None
    last = standing.trend[-1][0]
    moments = equal_steps(last - hours, last, _SPARK_POINTS)
    width, height = SPARK
    usages = usage_at(standing.trend, moments)
    known = [usage for usage in usages if usage is not None]
    least, largest = min(known), max(known)
    span = max(largest - least, largest * _LEAST_SPAN, 1)
    room = height - 2 * _MARGIN
    points = [
        (_MARGIN + (width - 2 * _MARGIN) * number / (len(moments) - 1), height - _MARGIN - room * (usage - least) / span)
        for number, usage in enumerate(usages)
        if usage is not None
    ]
    return _line(points, height)


def chart(report: Report) -> Chart | None:
    """The chart of the total; None without history."""
    standing = report.total
    if not report.has_history:
        return None
    width, height = CHART
    last = standing.trend[-1][0]
    first = last - report.days * 24
    growth = standing.growth or 0.0
    hours = report.days * 24 * (1 + _AHEAD) if growth > 0 else float(report.days * 24)
    top = _top(standing, growth * report.days * _AHEAD)
    moments = equal_steps(first, last, _CHART_POINTS)
    usages = usage_at(standing.trend, moments)

    def place(hour: float, usage: float) -> tuple[float, float]:
        return width * (hour - first) / hours, height * (1 - usage / top)

    points = [place(moment, usage) for moment, usage in zip(moments, usages, strict=True) if usage is not None]
    return Chart(
        line=_line(points, height),
        ahead=_ahead(standing, growth, place, first + hours, top),
        present=round(100 * (last - first) / hours, 2),
        amounts=tuple(Mark(round(100 * (1 - amount / top), 2), amount) for amount in _round_amounts(top)),
        days=_days(first, hours),
        limits=tuple(
            Mark(round(100 * (1 - limit / top), 2), limit) for limit in {standing.usage.limit, standing.usage.critical} if limit <= top
        ),
    )


def _top(standing: ScopeReport, growth: float) -> float:
    """The usage at the top of the chart: the limit has a place in it, and what lies ahead as far as that leaves the rest readable."""
    reached = max(standing.usage.limit, *(usage for _, usage in standing.trend))
    return max(min(standing.usage.usage + growth, reached * 1.25), reached, 1) * _HEADROOM


def _ahead(standing: ScopeReport, growth: float, place: _Place, last: float, top: float) -> str:
    if growth <= 0:
        return ""
    hour, usage = standing.trend[-1]
    end = min(last, hour + (top - usage) / growth * 24)
    return _points([place(hour, usage), place(end, usage + growth * (end - hour) / 24)])


def _round_amounts(top: float) -> list[int]:
    """Zero and round numbers up to the top, for people to compare with."""
    step = 10.0 ** floor(log10(top / _GRID_LINES)) if top > _GRID_LINES else 1.0
    step = next(step * factor for factor in (1, 2, 5, 10) if top / (step * factor) <= _GRID_LINES + 1)
    return [round(step * number) for number in range(int(top / step) + 1)]


def _days(first: float, hours: float) -> tuple[Mark, ...]:
    """Midnights in UTC, equally far apart, as instants; marks too close to an end would not fit."""
    step = max(round(hours / 24 / _DAY_MARKS), 1) * 24
    midnight = (int(first) // 24 + 1) * 24
    marks = ((100 * (hour - first) / hours, hour) for hour in range(midnight, int(first + hours) + 1, step))
    return tuple(Mark(round(at, 2), hour * _HOUR) for at, hour in marks if 4 <= at <= 96)


def _line(points: Sequence[tuple[float, float]], height: float) -> Line:
    closed = [(points[0][0], height), *points, (points[-1][0], height)]
    return Line(_points(points), _points(closed), (round(points[-1][0], 1), round(points[-1][1], 1)))


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


@dataclass(frozen=True, slots=True)
class _Row:
    """One scope in the table of usage; texts are escaped as far as a terminal would need it, and the template does the rest."""

    label: str
    id: str
    level: str
    used: str
    limit: str
    share: str
    bar: Bar
    spark: Line | None
    change: str
    forecast: str
    reached: str
    areas: str = ""


@dataclass(frozen=True, slots=True)
class _SessionRow:
    id: str
    level: str
    size: str
    day: str
    ago: str
    fate: str
    due: str
    goes: bool


@dataclass(frozen=True, slots=True)
class _AlertRow:
    time: str
    before: str
    level: str
    scope: str
    usage: str


def page(report: Report) -> str:
    """The page, as text that UTF-8 can hold."""
    environment = Environment(
        loader=PackageLoader("arawn_cli.output"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(decimal=decimal, day=words.day, shown=names.escape)
    return environment.get_template("report.html.j2").render(
        report=report,
        words=words,
        version=__version__,
        verdict=words.verdict(report),
        chart=chart(report),
        bar_width=BAR,
        spark_size=SPARK,
        chart_size=CHART,
        total=_row("All workstreams", report.total, report),
        workstreams=_workstreams(report),
        filesystem=_filesystem(report),
        largest=_session_rows(report.largest(), report),
        oldest=_session_rows(report.oldest(), report),
        going=_session_rows(report.cleanup.going[:SHOWN_SESSIONS] if report.cleanup else (), report),
        coming=_session_rows(report.cleanup.coming[:SHOWN_SESSIONS] if report.cleanup else (), report),
        alerts=[_alert_row(transition) for transition in report.transitions[:SHOWN_ALERTS]],
        more_alerts=max(len(report.transitions) - SHOWN_ALERTS, 0),
        problems=[names.escape(problem) for problem in report.problems[:SHOWN_ALERTS]],
    )


def _workstreams(report: Report) -> list[_Row]:
    return [
        _row(
            names.escape(workstream.standing.usage.name),
            workstream.standing,
            report,
            identifier=words.identifier(workstream),
            areas=_areas(workstream),
        )
        for workstream in report.workstreams
    ]


def _areas(workstream: WorkstreamReport) -> str:
    sizes = {"production": workstream.production, "work": workstream.work, "other": workstream.other}
    return ", ".join(f"{area} {decimal(size)}" for area, size in sizes.items() if size) or "empty"


def _filesystem(report: Report) -> list[_Row]:
    standings = (("Space", report.space), ("Inodes", report.inodes))
    return [_row(label, standing, report) for label, standing in standings if standing]


def _row(label: str, standing: ScopeReport, report: Report, *, identifier: str = "", areas: str = "") -> _Row:
    return _Row(
        label=label,
        id=identifier,
        level=str(standing.level),
        used=words.used(standing),
        limit=words.limit(standing),
        share=words.share(standing),
        bar=bar(standing),
        spark=spark(standing, report.days * 24),
        change=words.change(standing),
        forecast=words.forecast(standing),
        reached=words.reached(standing, report.now),
        areas=areas,
    )


def _session_rows(sessions: Sequence[Session], report: Report) -> list[_SessionRow]:
    return [
        _SessionRow(
            id=names.escape(session.id),
            level=str(session.level),
            size=decimal(session.size),
            day="unknown" if session.last_activity is None else words.day(session.last_activity),
            ago="" if session.last_activity is None else words.ago(session.last_activity, report.now),
            fate=words.fate(session),
            due="" if session.due is None else words.day(session.due),
            goes=words.fate(session) == words.GOES,
        )
        for session in sessions
    ]


def _alert_row(transition: Transition) -> _AlertRow:
    return _AlertRow(
        time=words.minute(transition.time),
        before=str(transition.before),
        level=str(transition.level),
        scope=words.scope(transition.scope, transition.name),
        usage=words.transition(transition),
    )
