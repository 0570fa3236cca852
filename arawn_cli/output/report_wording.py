"""The wording of a report, on a terminal and in a page alike. What stands in the tree comes out escaped."""

from __future__ import annotations

from rich.filesize import decimal

from arawn_cli import timestamps
from arawn_cli.arawn.layout import SCRATCH
from arawn_cli.diskcheck.alerts import Transition
from arawn_cli.diskcheck.levels import FILESYSTEM, INODES, SESSION
from arawn_cli.events import Level, Reason, Unit
from arawn_cli.names import escape
from arawn_cli.output.report_data import SHOWN_SESSIONS, NextCleanup, Report, ScopeReport, Session, WorkstreamReport
from arawn_cli.timestamps import DAY, SECOND

NO_HISTORY = "No history yet: trends and forecasts need disk-check to have run for some hours."


NO_ALERTS = "No level changed in this time."


GOES = "goes now"


UNKNOWN_CLEANUP = "What a cleanup would do is not known."


_STAYS = {
    Reason.PROTECTED: "protected",
    Reason.IN_USE: "in use",
    Reason.LOCKED: "in use",
    Reason.MOUNT_INSIDE: "holds a mount",
    Reason.ACTIVITY_UNKNOWN: "age unknown",
    Reason.FUTURE_TIMESTAMP: "dated in the future",
    Reason.REMOVAL_LIMIT: "over the removal limit",
}


def day(instant: int) -> str:
    """The day of an instant, in UTC."""
    return timestamps.render(instant)[:10]


def minute(instant: int) -> str:
    """An instant to the minute, in UTC."""
    return timestamps.render(instant)[:16].replace("T", " ")


def ago(instant: int | None, now: int) -> str:
    """How long ago an instant was, in hours or days."""
    if instant is None:
        return "unknown"
    if instant > now:
        return "in the future"
    hours = (now - instant) // (3600 * SECOND)
    return f"{hours} h ago" if hours < 24 else f"{hours // 24} d ago"


def amount(number: int, unit: Unit) -> str:
    """A number of bytes with its unit, or of inodes with separators."""
    return decimal(number) if unit is Unit.BYTES else f"{number:,}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def used(standing: ScopeReport) -> str:
    """The usage of a scope; a lower bound says so."""
    return ("" if standing.usage.complete else "at least ") + amount(standing.usage.usage, standing.usage.unit)


def limit(standing: ScopeReport) -> str:
    """The limit that a warning stands for."""
    return "unknown" if standing.level is Level.UNKNOWN else amount(standing.usage.limit, standing.usage.unit)


def share(standing: ScopeReport) -> str:
    """Usage as a percentage of the limit."""
    return "" if standing.level is Level.UNKNOWN else f"{standing.percent}%"


def change(standing: ScopeReport) -> str:
    """How usage differs from the beginning of the trend; nothing without one."""
    if len(standing.trend) < 2:
        return ""
    difference = standing.trend[-1][1] - standing.trend[0][1]
    sign = "+" if difference > 0 else "-" if difference < 0 else "±"
    return sign + amount(abs(difference), standing.usage.unit)


def forecast(standing: ScopeReport) -> str:
    """In how many days the next limit is reached at the pace of the last week, or why no day is named."""
    if standing.level is Level.UNKNOWN:
        return "limit not known"
    if standing.next_limit is None:
        return "above both limits"
    if standing.forecast_days is not None:
        which = "critical" if standing.next_limit > standing.usage.limit else "limit"
        return f"{which} in {standing.forecast_days} d" if standing.forecast_days else f"{which} today"
    if standing.growth is None:
        return "not known yet" if standing.usage.complete else "not known"
    return "not growing" if standing.growth <= 0 else "not within a year"


def reached(standing: ScopeReport, now: int) -> str:
    """The day on which the next limit is reached; nothing where none is named."""
    return day(now + standing.forecast_days * DAY) if standing.forecast_days and standing.next_limit is not None else ""


def pace(standing: ScopeReport) -> str:
    """The growth of a day."""
    if standing.growth is None:
        return ""
    sign = "+" if standing.growth >= 0 else "-"
    return f"{sign}{amount(round(abs(standing.growth)), standing.usage.unit)} a day"


def scope(name: str, title: str) -> str:
    """A scope by the name that people know it by."""
    if name.startswith(SESSION):
        return f"session {escape(name.removeprefix(SESSION))}"
    prefix = {FILESYSTEM: "filesystem ", INODES: "inodes of "}.get(name, "")
    return prefix + escape(title)


def identifier(workstream: WorkstreamReport) -> str:
    """The id of a workstream where its title does not say it already."""
    return "" if workstream.id in (workstream.standing.usage.name, SCRATCH) else escape(workstream.id)


def transition(change: Transition) -> str:
    """What a scope used of its limit when its level changed."""
    return f"{amount(change.usage, change.unit)} of {amount(change.limit, change.unit)}"


def fate(session: Session) -> str:
    """What cleanup does with a session, and when."""
    if session.reason is Reason.EXPIRED:
        return GOES
    return f"from {day(session.due)}" if session.due is not None else _STAYS.get(session.reason, str(session.reason))


def cleanup(next_cleanup: NextCleanup, report: Report) -> str:
    """What a cleanup now would come to."""
    if next_cleanup.braked:
        return "A cleanup now would remove nothing: more is due than the removal limit allows in one run."
    if not next_cleanup.going:
        return f"A cleanup now would remove nothing: no session is unused for {count(report.older_than_days, 'day')}."
    return f"A cleanup now would remove {count(len(next_cleanup.going), 'session')} and free {decimal(next_cleanup.freed)}."


def left_out(next_cleanup: NextCleanup) -> int:
    """How many sessions of a cleanup are more than a list shows."""
    return sum(max(len(part) - SHOWN_SESSIONS, 0) for part in (next_cleanup.going, next_cleanup.coming))


def summary(report: Report) -> str:
    """The whole in one sentence."""
    total = report.total
    return f"{used(total)} of {limit(total)} in {count(len(report.workstreams), 'workstream')}, {total.percent}% of the limit."


def free(report: Report) -> str:
    """What is left of the filesystem."""
    space = report.filesystem
    return f"{decimal(space.free_bytes)} of {decimal(space.total_bytes)}"


def verdict(report: Report) -> str:
    """The level of the whole; ok is not claimed for what could not be read."""
    return "incomplete" if report.level is Level.OK and not report.complete else str(report.level)
