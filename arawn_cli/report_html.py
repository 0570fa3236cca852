"""A report as one HTML page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from arawn_cli import __version__, names, report_charts
from arawn_cli import report_words as words
from arawn_cli.alerts import Transition
from arawn_cli.report_charts import Bar, Line
from arawn_cli.report_values import SHOWN_ALERTS, SHOWN_SESSIONS, Report, Session, Standing, WorkstreamStanding


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
        loader=PackageLoader("arawn_cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(decimal=decimal, day=words.day, shown=names.escape)
    return environment.get_template("report.html.j2").render(
        report=report,
        words=words,
        version=__version__,
        verdict=words.verdict(report),
        chart=report_charts.chart(report),
        bar_width=report_charts.BAR,
        spark_size=report_charts.SPARK,
        chart_size=report_charts.CHART,
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


def _areas(workstream: WorkstreamStanding) -> str:
    sizes = {"production": workstream.production, "work": workstream.work, "other": workstream.other}
    return ", ".join(f"{area} {decimal(size)}" for area, size in sizes.items() if size) or "empty"


def _filesystem(report: Report) -> list[_Row]:
    standings = (("Space", report.space), ("Inodes", report.inodes))
    return [_row(label, standing, report) for label, standing in standings if standing]


def _row(label: str, standing: Standing, report: Report, *, identifier: str = "", areas: str = "") -> _Row:
    return _Row(
        label=label,
        id=identifier,
        level=str(standing.level),
        used=words.used(standing),
        limit=words.limit(standing),
        share=words.share(standing),
        bar=report_charts.bar(standing),
        spark=report_charts.spark(standing, report.days * 24),
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
