"""Word a report, the same on a terminal and in HTML. Names from the tree are returned escaped."""

from __future__ import annotations

from collections.abc import Sequence

from arawn_cli.cleanup.history import Removal
from arawn_cli.diskcheck.history import Outlook, Transition
from arawn_cli.diskcheck.levels import OWN_FILES, SESSION, TOTAL, can_cleanup_help, is_of_filesystem
from arawn_cli.events import REMOVED_FOR, Level, Reason, Unit
from arawn_cli.names import escape
from arawn_cli.output.format import amount, day, minute_with_zone, mounts_in_words
from arawn_cli.output.report_data import (
    MAX_SESSIONS,
    MAX_WORKSTREAMS,
    DirectoryReport,
    NextCleanup,
    OpenAlert,
    Report,
    ScopeReport,
    SessionReport,
    WorkstreamReport,
)
from arawn_cli.timestamps import DAY
from arawn_cli.units import count, size

NO_HISTORY = "No history yet: trends and forecasts appear after some hours of disk-check runs."
NO_REMOVALS = "No removals are recorded in this period."
NO_ALERTS = "No alerts are recorded in this period."
NO_ORPHANS = "Nothing: every directory belongs to a workstream in use, or to scratch."
UNKNOWN_CLEANUP = "The next cleanup is unknown."
DUE_NOW = "due now"

_KEPT = {
    Reason.ACTIVE: "used recently",
    Reason.RECENT_FILES: "used recently",
    Reason.KEPT_LAST: "used last",
    Reason.PROTECTED: "protected",
    Reason.ATTACHED: "attached to a workstream",
    Reason.IN_USE: "in use",
    Reason.LOCKED: "in use",
    Reason.MOUNT_INSIDE: "mount inside",
    Reason.NOT_A_DIRECTORY: "not a directory",
    Reason.FOREIGN_NAME: "not a session",
    Reason.ACTIVITY_UNKNOWN: "last use unknown",
    Reason.FUTURE_TIMESTAMP: "dated in the future",
    Reason.NOT_PERMITTED: "not permitted",
    Reason.CANNOT_MOVE: "cannot be moved",
    Reason.CHANGED_SINCE_PLAN: "changed meanwhile",
    Reason.REMOVAL_LIMIT: "over the removal limit",
    Reason.OVER_BUDGET: "over budget",
    Reason.IO_ERROR: "cannot be read",
}
"""The words for every reason that keeps a session."""


def summary(total: ScopeReport, workstreams: int) -> str:
    """Return the total in one sentence."""
    found = count(workstreams, "workstream")
    if not total.has_limit:
        return f"{used(total)} in {found}, {limit(total)}."
    return f"{used(total)} of {limit(total)} in {found}, {share(total)} of the limit."


def headline(alerts: Sequence[ScopeReport], *, complete: bool) -> str:
    """Return the worst problem and the number of others, for alerts sorted worst first."""
    if alerts:
        others = f", and {count(len(alerts) - 1, 'more alert')}" if alerts[1:] else ""
        return problem(alerts[0]) + others
    return "everything is within its limits" if complete else "not everything could be read; the rest is within its limits"


def problem(scope: ScopeReport) -> str:
    """Return how full a scope is, as a sentence without a period."""
    usage, name = scope.usage, escape(scope.usage.name)
    more = "" if usage.complete else "at least "
    if usage.capacity:
        return f"{name} is {share(scope)} full" if usage.unit is Unit.BYTES else f"{name} are {share(scope)} used"
    if not usage.limit:
        return f"{name}: {used(scope)}, without a limit"
    plural = usage.scope in (TOTAL, OWN_FILES)
    return f"{name} {'are' if plural else 'is'} at {more}{share(scope)} of {'their' if plural else 'its'} limit"


def verdict(report: Report) -> str:
    """Return the worst level, or `incomplete` instead of ok if something could not be read."""
    return "incomplete" if report.level is Level.OK and not report.complete else str(report.level)


def unread(number: int) -> str:
    """Return how much could not be read, as a sentence."""
    return f"{count(number, 'part')} could not be read. The figures do not include it."


def used(scope: ScopeReport) -> str:
    """Return the usage, with `at least` if it is incomplete."""
    return ("" if scope.usage.complete else "at least ") + amount(scope.usage.usage, scope.usage.unit)


def at_least(number: int, *, complete: bool) -> str:
    """Return a size, with `at least` if it is incomplete."""
    return ("" if complete else "at least ") + size(number)


def directories(report: Report) -> list[tuple[str, DirectoryReport]]:
    """Return Arawn's directories beside the workstreams, each with a title."""
    titled = (("Arawn's own files", report.own_files), ("Arawn's backups", report.backups))
    return [
        (f"{title}, {at_least(directory.size, complete=directory.complete)} in {escape(directory.path)}", directory)
        for title, directory in titled
        if directory is not None
    ]


def limit(scope: ScopeReport) -> str:
    """Return the warning limit."""
    if scope.level is Level.UNKNOWN:
        return "unknown"
    if scope.usage.capacity:
        return f"{-(-scope.usage.limit * 100 // scope.usage.capacity)}%"
    return amount(scope.usage.limit, scope.usage.unit) if scope.usage.limit else "no limit"


def share(scope: ScopeReport) -> str:
    """Return usage in percent of the limit or of a filesystem; "" without a known limit."""
    return f"{scope.usage.percent}%" if scope.has_limit else ""


def share_of_limit(scope: ScopeReport) -> str:
    """Return the usage in percent of the limit, and the limit, or that there is none."""
    if not share(scope):
        return forecast(scope)
    return f"{share(scope)}, limit {limit(scope)}" if scope.usage.capacity else f"{share(scope)} of {limit(scope)}"


def change(scope: ScopeReport) -> str:
    """Return the change of the usage over the trend, or nothing without a trend."""
    if len(scope.trend) < 2:
        return ""
    difference = scope.trend[-1][1] - scope.trend[0][1]
    sign = "+" if difference > 0 else "-" if difference < 0 else "±"
    return sign + amount(abs(difference), scope.usage.unit)


def forecast(scope: ScopeReport) -> str:
    """Return when the next limit is reached at the pace of the last week, or why not."""
    if scope.level is Level.UNKNOWN:
        return "limit unknown"
    if not scope.has_limit:
        return "no limit"
    if scope.next_limit is None:
        return "above both limits"
    if scope.forecast_days is not None:
        which = Level.CRITICAL if scope.next_limit > scope.usage.limit else Level.WARNING
        return f"{which} in {scope.forecast_days} d" if scope.forecast_days else f"{which} today"
    if not scope.usage.complete:
        return "unknown"
    return "not within a year" if scope.outlook is Outlook.GROWING else scope.outlook


def forecast_day(scope: ScopeReport, now: int) -> str:
    """Return the day on which the next limit is reached, or nothing if it is unknown or today."""
    return day(now + scope.forecast_days * DAY) if scope.forecast_days and scope.next_limit is not None else ""


def areas(production: int, work: int, other: int) -> str:
    """Return the usage of a workstream by area."""
    sizes = {"production": production, "work": work, "other": other}
    return ", ".join(f"{area} {size(number)}" for area, number in sizes.items() if number) or "empty"


def transition_usage(transition: Transition) -> str:
    """Return the usage and the limit of a scope when its level changed."""
    return f"{amount(transition.usage, transition.unit)} of {amount(transition.limit, transition.unit)}"


def cleanup(cleanup: NextCleanup) -> str:
    """Describe the next cleanup in one sentence."""
    if cleanup.over_removal_limit:
        return "A cleanup now would remove nothing: more is due than the removal limit allows in one run."
    freed = f"It would free {size(cleanup.freed)}." if cleanup.freed or not cleanup.trashed else "No space is freed until then."
    if not cleanup.removed:
        return f"A cleanup now would remove nothing: no session is due. {freed if cleanup.freed else ''}".rstrip()
    removed = f"A cleanup now would remove {count(len(cleanup.removed), 'session')}"
    if cleanup.trash_until is not None:
        removed += f": {size(cleanup.trashed)}, in the trash until {minute_with_zone(cleanup.trash_until)}"
    return f"{removed}. {freed}"


def due(session: SessionReport) -> str:
    """Return when a cleanup may remove a session, or why it keeps it."""
    if session.reason in REMOVED_FOR:
        return DUE_NOW
    return f"from {day(session.due)}" if session.due is not None else _KEPT[session.reason]


def not_shown(cleanup: NextCleanup) -> int:
    """Return the number of sessions of a cleanup that the lists leave out."""
    return sum(max(len(part) - MAX_SESSIONS, 0) for part in (cleanup.removed, cleanup.later))


def removal(found: Removal) -> str:
    """Return why a session was removed, and until when it can be restored or when it was purged."""
    purged = "in the trash" if found.purged_at is None else f"purged {day(found.purged_at)}"
    return f"{found.reason}, {purged}"


def not_counted(report: Report) -> str:
    """Return the mounts whose contents no figure includes, as a sentence."""
    return f"Not counted: {mounts_in_words(report.not_counted)}."


def next_step(alert: OpenAlert, report: Report) -> tuple[str, ...]:
    """Return the arguments of the command that helps against an alert; none if no command does."""
    scope = alert.scope.usage.scope
    if scope.startswith(SESSION):
        return ("scratch-cleanup", "--dry-run", escape(scope.removeprefix(SESSION)))
    helps = can_cleanup_help(scope)
    if helps and report.cleanup is not None and report.cleanup.removed:
        return ("scratch-cleanup", "--dry-run")
    return ("trash", "list") if helps and report.trash else ()


def advice(alert: OpenAlert) -> str:
    """Return the advice of a page about an alert for which there is no command."""
    scope = alert.scope.usage.scope
    if scope == OWN_FILES:
        return "See the largest of Arawn's own files below."
    if is_of_filesystem(scope):
        return "See the largest workstreams below. Other files on this filesystem are not listed here."
    if scope == TOTAL:
        return "See the largest workstreams below, or raise the limit (maintenance.pressure.total)."
    return "See its largest files below, or raise its limit (maintenance.pressure.limits)."


def opened(alert: OpenAlert) -> str:
    """Return since when an alert lasts."""
    return "since an unknown time" if alert.since is None else f"since {minute_with_zone(alert.since)}"


def folded(report: Report) -> tuple[list[WorkstreamReport], list[WorkstreamReport]]:
    """Return the workstreams that a page shows, and those that it folds: small ones that are ok."""
    shown: list[WorkstreamReport] = []
    rest: list[WorkstreamReport] = []
    for number, workstream in enumerate(report.workstreams):
        (shown if number < MAX_WORKSTREAMS or workstream.scope.level is not Level.OK else rest).append(workstream)
    return shown, rest
