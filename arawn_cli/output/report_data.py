"""Gather the figures of `report`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arawn_cli.arawn.layout import Root, opened_root
from arawn_cli.cleanup.decisions import removal_limit_of
from arawn_cli.cleanup.sessions import Decision, ScratchSession
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.diskcheck import alerts
from arawn_cli.diskcheck.alerts import Transition
from arawn_cli.diskcheck.forecast import WINDOW_HOURS, Sample
from arawn_cli.diskcheck.history import CheckHistory, load_history, trend_of
from arawn_cli.diskcheck.inspection import Measurements, inspect
from arawn_cli.diskcheck.levels import FILESYSTEM, INODES, SESSION, TOTAL, ScopeUsage, judge_all, next_limit, worst
from arawn_cli.diskcheck.limits import freed_in, rules_of, scope_of, size_in
from arawn_cli.diskcheck.measuring import WorkstreamTree
from arawn_cli.diskcheck.reclaimable import decisions_now, going
from arawn_cli.events import IN_RECENT_USE, NO_SESSION, Filesystem, Level, Reason
from arawn_cli.fs.measure import Usage, combined
from arawn_cli.state import StateUnavailableError
from arawn_cli.timestamps import DAY

log = logging.getLogger(__name__)

SHOWN_SESSIONS = 8


SHOWN_ALERTS = 12


@dataclass(frozen=True, slots=True)
class ScopeReport:
    """A scope: its usage and level now, its usage over the period, and what that leads to.

    `growth` is per day, None when nobody knows. `next_limit` is None above all limits, `forecast_days` are
    the days until that limit is reached, None when that is unknown, more than a year off, or not coming.
    """

    usage: ScopeUsage
    level: Level
    trend: tuple[Sample, ...]
    growth: float | None
    next_limit: int | None
    forecast_days: int | None

    @property
    def percent(self) -> int:
        """Usage as a whole percentage of the limit, rounded down."""
        return self.usage.usage * 100 // max(self.usage.limit, 1)


@dataclass(frozen=True, slots=True)
class WorkstreamReport:
    """A workstream, with its bytes by area in the configured measure.

    Where nobody knows its limit, the level is unknown, and the limits are zero.
    """

    id: str
    standing: ScopeReport
    production: int
    work: int
    other: int


@dataclass(frozen=True, slots=True)
class Session:
    """A scratch session: `reason` says why it goes or stays, `due` from when on its age lets it go, None when no day is known."""

    id: str
    level: Level
    size: int
    last_activity: int | None
    reason: Reason
    due: int | None


@dataclass(frozen=True, slots=True)
class NextCleanup:
    """What a cleanup now would take, the oldest first, and what comes due after it, the earliest first."""

    going: tuple[Session, ...]
    freed: int
    coming: tuple[Session, ...]
    braked: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A root at one instant. Times are nanoseconds since the epoch, sizes are bytes in the configured measure.

    Attributes:
        days: length of the period that trends and alerts cover.
        workstreams: the largest first.
        space: None where the filesystem does not count what `space` and `inodes` count.
        sessions: every scratch session, in no order.
        cleanup: None when nobody knows what a cleanup would do.
        transitions: changes of level in the period, newest first.
        problems: what could not be read, a line each; all figures leave it out.
    """

    now: int
    days: int
    host: str
    root: str
    older_than_days: int
    level: Level
    total: ScopeReport
    workstreams: tuple[WorkstreamReport, ...]
    space: ScopeReport | None
    inodes: ScopeReport | None
    filesystem: Filesystem
    trash: int
    foreign: int
    sessions: tuple[Session, ...]
    cleanup: NextCleanup | None
    transitions: tuple[Transition, ...]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.problems

    @property
    def has_history(self) -> bool:
        """Whether any earlier check is remembered."""
        return len(self.total.trend) > 1

    def largest(self) -> list[Session]:
        """The largest scratch sessions, largest first."""
        return sorted(self.sessions, key=lambda session: session.size, reverse=True)[:SHOWN_SESSIONS]

    def oldest(self) -> list[Session]:
        """The scratch sessions that nobody used for longest, oldest first."""
        known = [session for session in self.sessions if session.last_activity is not None]
        return sorted(known, key=activity_of)[:SHOWN_SESSIONS]


def activity_of(session: Session) -> int:
    """When a session was last used, for an order: one of which nobody knows comes first."""
    return session.last_activity or 0


# A sample equal to the one before is left out for up to a day: so much earlier the period's first usage can stand.
_LEAD_HOURS = 24


@dataclass(frozen=True, slots=True)
class _Found:
    """What disk and state file tell of a root; nothing is made of it yet."""

    now: int
    days: int
    host: str
    root: Path
    inspection: Measurements
    remembered: CheckHistory
    decisions: list[Decision] | None
    transitions: list[Transition]
    problems: tuple[str, ...]


def gather(config: Config, context: RunContext, days: int, unread: Sequence[str] = ()) -> Report:
    """Measures a root and reads what is remembered of it; `unread` says what could not be read before.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
        StoppedError: a signal asked the run to end.
    """
    now = context.clock()
    with opened_root(config.root) as root:
        inspection = inspect(root, config, context, {})
        remembered = load_history(context.state, root.path, now, hours=max(days * 24 + _LEAD_HOURS, WINDOW_HOURS))
        decisions = decisions_now(root, config, inspection.sessions, now)
        transitions, problem = _transitions(context, root, now - days * DAY)
    found = _Found(now, days, context.host, root.path, inspection, remembered, decisions, transitions, (*problem, *unread))
    return _report(config, found)


def _report(config: Config, found: _Found) -> Report:
    inspection, remembered = found.inspection, found.remembered
    standings = _standings(config, inspection, remembered, found.now, found.days * 24)
    sessions, cleanup = _sessions(config, inspection, found.decisions, standings)
    unknown = () if cleanup else ("what a cleanup would do is not known: the scratch sessions cannot be judged",)
    return Report(
        now=found.now,
        days=found.days,
        host=found.host,
        root=str(found.root),
        older_than_days=config.older_than_days,
        level=worst(standing.level for standing in standings.values()),
        total=standings[TOTAL],
        workstreams=_workstreams(config, inspection, standings, remembered.hour),
        space=standings.get(FILESYSTEM),
        inodes=standings.get(INODES),
        filesystem=inspection.filesystem,
        trash=size_in(config, inspection.inventory.trash),
        foreign=sum(size_in(config, usage) for usage in inspection.inventory.foreign.values()),
        sessions=tuple(sessions),
        cleanup=cleanup,
        transitions=tuple(found.transitions),
        problems=(*(str(failure) for failure in inspection.failures), *unknown, *found.problems),
    )


def _transitions(context: RunContext, root: Root, since: int) -> tuple[list[Transition], tuple[str, ...]]:
    try:
        noted = alerts.read_transitions(context.state, root.path, alerts.TRANSITIONS_KEPT)
    except StateUnavailableError as error:
        return [], (f"earlier usage and alerts are not known: {error}",)
    return [transition for transition in noted if transition.time >= since], ()


def _standings(config: Config, inspection: Measurements, remembered: CheckHistory, now: int, hours: int) -> dict[str, ScopeReport]:
    verdicts = judge_all(inspection.scopes, remembered.alerts, rules_of(config), now, gone=())
    return {verdict.usage.scope: _standing(verdict.usage, verdict.level, remembered, hours) for verdict in verdicts}


def _standing(usage: ScopeUsage, level: Level, remembered: CheckHistory, hours: int) -> ScopeReport:
    scope = usage.scope
    return ScopeReport(
        usage=usage,
        level=level,
        trend=trend_of(remembered.samples.get(scope, ()), (remembered.hour, usage.usage), hours),
        growth=remembered.pace(scope, usage.usage) if usage.complete else None,
        next_limit=next_limit(usage, remembered.level(scope)),
        forecast_days=remembered.forecast(usage),
    )


def _without_limit(config: Config, tree: WorkstreamTree, hour: int) -> ScopeReport:
    total = tree.total
    usage = ScopeUsage(scope_of(tree.row.id), tree.row.title, size_in(config, total), 0, 0, total.complete)
    return ScopeReport(usage, Level.UNKNOWN, ((hour, usage.usage),), None, None, None)


def _workstreams(config: Config, inspection: Measurements, standings: dict[str, ScopeReport], hour: int) -> tuple[WorkstreamReport, ...]:
    found = [
        WorkstreamReport(
            tree.row.id,
            standings.get(scope_of(tree.row.id)) or _without_limit(config, tree, hour),
            *(size_in(config, part) for part in (tree.production, tree.work, tree.other)),
        )
        for tree in inspection.inventory.workstreams
    ]
    return tuple(sorted(found, key=lambda workstream: workstream.standing.usage.usage, reverse=True))


def _sessions(
    config: Config, inspection: Measurements, decisions: list[Decision] | None, standings: dict[str, ScopeReport]
) -> tuple[list[Session], NextCleanup | None]:
    """Every scratch session, and what cleanup would do with them as far as that is known."""
    levels = {scope.removeprefix(SESSION): standing.level for scope, standing in standings.items() if scope.startswith(SESSION)}
    removed = None if decisions is None else _removed_now(config, decisions)
    if decisions is None or removed is None:
        unknown = Reason.ACTIVITY_UNKNOWN
        measured = inspection.sessions.items()
        return [
            Session(name, levels.get(name, Level.OK), size_in(config, usage), usage.newest_mtime, unknown, None) for name, usage in measured
        ], None
    braked = removal_limit_of(config).exceeded_by(decisions) is not None
    kept = Reason.REMOVAL_LIMIT if braked else Reason.IN_USE
    final = [
        replace(decision, reason=kept) if decision.goes and decision.session.name not in removed else decision for decision in decisions
    ]
    sessions = [_session(config, decision, levels) for decision in final if decision.reason not in NO_SESSION]
    freed = freed_in(config, combined(session.usage or Usage() for session in removed.values()))
    leaving = sorted((session for session in sessions if session.reason is Reason.EXPIRED), key=activity_of)
    coming = sorted((session for session in sessions if session.due is not None), key=activity_of)
    return sessions, NextCleanup(tuple(leaving), freed, tuple(coming), braked)


def _removed_now(config: Config, decisions: Sequence[Decision]) -> dict[str, ScratchSession] | None:
    """Return the sessions that a cleanup would remove, by name; None if that cannot be found out."""
    try:
        return {session.name: session for session in going(config, decisions)}
    except OSError:
        return None


def _session(config: Config, decision: Decision, levels: dict[str, Level]) -> Session:
    session = decision.session
    activity = session.last_activity
    comes_due = decision.reason in IN_RECENT_USE and activity is not None
    return Session(
        id=session.name,
        level=levels.get(session.name, Level.OK),
        size=size_in(config, session.usage) if session.usage else 0,
        last_activity=activity,
        reason=decision.reason,
        due=activity + config.older_than_days * DAY if comes_due and activity is not None else None,
    )
