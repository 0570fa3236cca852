"""The use case `report`: what is used now, how it came to this, and what comes next. It changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arawn_cli import alerts
from arawn_cli.alerts import Transition
from arawn_cli.config import Config
from arawn_cli.events import Level
from arawn_cli.forecast import WINDOW_HOURS
from arawn_cli.inspection import Inspection, inspect
from arawn_cli.instants import DAY
from arawn_cli.inventory import WorkstreamTree
from arawn_cli.layout import Root, opened_root
from arawn_cli.model import Usage
from arawn_cli.pressure import FILESYSTEM, INODES, SESSION, TOTAL, ScopeUsage, judge_all, next_limit, worst
from arawn_cli.recall import Recall, recall
from arawn_cli.reclaimable import decisions_now, going
from arawn_cli.report_values import NextCleanup, Report, Session, Standing, WorkstreamStanding, activity_of
from arawn_cli.scopes import freed_in, rules_of, scope_of, size_in
from arawn_cli.scratch_session import NO_SESSION, Decision, Reason
from arawn_cli.state_file import StateUnavailableError
from arawn_cli.surroundings import Surroundings
from arawn_cli.survey import brake_of
from arawn_cli.tally import combined
from arawn_cli.trend import trend_of

log = logging.getLogger(__name__)

# A sample equal to the one before is left out for up to a day: so much earlier the period's first usage can stand.
_LEAD_HOURS = 24
_COMES_DUE = frozenset({Reason.ACTIVE, Reason.RECENT_FILES})


@dataclass(frozen=True, slots=True)
class _Found:
    """What disk and state file tell of a root; nothing is made of it yet."""

    now: int
    days: int
    host: str
    root: Path
    inspection: Inspection
    remembered: Recall
    decisions: list[Decision] | None
    transitions: list[Transition]
    problems: tuple[str, ...]


def gather(config: Config, surroundings: Surroundings, days: int, unread: Sequence[str] = ()) -> Report:
    """Measures a root and reads what is remembered of it; `unread` says what could not be read before.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
        StoppedError: a signal asked the run to end.
    """
    now = surroundings.clock()
    with opened_root(config.root) as root:
        inspection = inspect(root, config, surroundings, {})
        remembered = recall(surroundings.state, root.path, now, hours=max(days * 24 + _LEAD_HOURS, WINDOW_HOURS))
        decisions = decisions_now(root, config, inspection.sessions, now)
        transitions, problem = _transitions(surroundings, root, now - days * DAY)
    found = _Found(now, days, surroundings.host, root.path, inspection, remembered, decisions, transitions, (*problem, *unread))
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


def _transitions(surroundings: Surroundings, root: Root, since: int) -> tuple[list[Transition], tuple[str, ...]]:
    try:
        noted = alerts.read_transitions(surroundings.state, root.path, alerts.TRANSITIONS_KEPT)
    except StateUnavailableError as error:
        return [], (f"earlier usage and alerts are not known: {error}",)
    return [transition for transition in noted if transition.time >= since], ()


def _standings(config: Config, inspection: Inspection, remembered: Recall, now: int, hours: int) -> dict[str, Standing]:
    verdicts = judge_all(inspection.scopes, remembered.alerts, rules_of(config), now, gone=())
    return {verdict.usage.scope: _standing(verdict.usage, verdict.level, remembered, hours) for verdict in verdicts}


def _standing(usage: ScopeUsage, level: Level, remembered: Recall, hours: int) -> Standing:
    scope = usage.scope
    return Standing(
        usage=usage,
        level=level,
        trend=trend_of(remembered.samples.get(scope, ()), (remembered.hour, usage.usage), hours),
        growth=remembered.pace(scope, usage.usage) if usage.complete else None,
        next_limit=next_limit(usage, remembered.level(scope)),
        forecast_days=remembered.forecast(usage),
    )


def _without_limit(config: Config, tree: WorkstreamTree, hour: int) -> Standing:
    total = tree.total
    usage = ScopeUsage(scope_of(tree.row.id), tree.row.title, size_in(config, total), 0, 0, total.complete)
    return Standing(usage, Level.UNKNOWN, ((hour, usage.usage),), None, None, None)


def _workstreams(config: Config, inspection: Inspection, standings: dict[str, Standing], hour: int) -> tuple[WorkstreamStanding, ...]:
    found = [
        WorkstreamStanding(
            tree.row.id,
            standings.get(scope_of(tree.row.id)) or _without_limit(config, tree, hour),
            *(size_in(config, part) for part in (tree.production, tree.work, tree.other)),
        )
        for tree in inspection.inventory.workstreams
    ]
    return tuple(sorted(found, key=lambda workstream: workstream.standing.usage.usage, reverse=True))


def _sessions(
    config: Config, inspection: Inspection, decisions: list[Decision] | None, standings: dict[str, Standing]
) -> tuple[list[Session], NextCleanup | None]:
    """Every scratch session, and what cleanup would do with them as far as that is known."""
    levels = {scope.removeprefix(SESSION): standing.level for scope, standing in standings.items() if scope.startswith(SESSION)}
    taken = _taken(config, decisions)
    if decisions is None or taken is None:
        unknown = Reason.ACTIVITY_UNKNOWN
        measured = inspection.sessions.items()
        return [
            Session(name, levels.get(name, Level.OK), size_in(config, usage), usage.newest_mtime, unknown, None) for name, usage in measured
        ], None
    braked = brake_of(config).pulled_by(decisions) is not None
    settled = [decision if decision in taken or not decision.goes else _held(decision, braked) for decision in decisions]
    sessions = [_session(config, decision, levels) for decision in settled if decision.reason not in NO_SESSION]
    freed = freed_in(config, combined(decision.session.usage or Usage() for decision in taken))
    leaving = sorted((session for session in sessions if session.reason is Reason.EXPIRED), key=activity_of)
    coming = sorted((session for session in sessions if session.due is not None), key=activity_of)
    return sessions, NextCleanup(tuple(leaving), freed, tuple(coming), braked)


def _taken(config: Config, decisions: Sequence[Decision] | None) -> list[Decision] | None:
    """The decisions that a cleanup would carry out; None when nobody knows."""
    if decisions is None:
        return None
    try:
        identities = {session.identity for session in going(config, decisions)}
    except OSError:
        return None
    return [decision for decision in decisions if decision.goes and decision.session.identity in identities]


def _held(decision: Decision, braked: bool) -> Decision:
    return replace(decision, reason=Reason.BRAKE if braked else Reason.IN_USE)


def _session(config: Config, decision: Decision, levels: dict[str, Level]) -> Session:
    session = decision.session
    activity = session.last_activity
    comes_due = decision.reason in _COMES_DUE and activity is not None
    return Session(
        id=session.name,
        level=levels.get(session.name, Level.OK),
        size=size_in(config, session.usage) if session.usage else 0,
        last_activity=activity,
        reason=decision.reason,
        due=activity + config.older_than_days * DAY if comes_due and activity is not None else None,
    )
