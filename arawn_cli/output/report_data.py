"""Gather the figures of `report`.

Instants are nanoseconds since the epoch. Sizes are bytes in the configured measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter
from pathlib import Path

from arawn_cli import runs
from arawn_cli.arawn.layout import SESSIONS, WORKSTREAMS, Layout
from arawn_cli.arawn.root import Root, opened_root
from arawn_cli.cleanup.history import Removal, read_removals
from arawn_cli.cleanup.sessions import Decision
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.history import (
    TRANSITIONS_KEPT,
    WINDOW_HOURS,
    CheckHistory,
    Outlook,
    Sample,
    Transition,
    equal_steps,
    load_history,
    read_transitions,
    usage_at,
)
from arawn_cli.diskcheck.largest import Largest, largest_in
from arawn_cli.diskcheck.levels import (
    OWN_FILES,
    SESSION,
    TOTAL,
    ScopeUsage,
    Verdict,
    freed_in,
    is_of_filesystem,
    judge_all,
    reaches,
    rules_of,
    scope_of,
    scopes_of,
    size_in,
    worst,
    worst_first,
)
from arawn_cli.diskcheck.measuring import Measurements, measure_root
from arawn_cli.diskcheck.own_files import OwnFiles, measure_backups
from arawn_cli.diskcheck.reclaimable import NextRemoval, removal_now
from arawn_cli.errors import ExitCode, StateUnavailableError
from arawn_cli.events import IN_RECENT_USE, NO_SESSION, REMOVED_FOR, Filesystem, JobName, Level, Reason
from arawn_cli.fs.measure import threads_for
from arawn_cli.fs.usage import Usage, combined
from arawn_cli.output.format import age_class
from arawn_cli.runs import Run
from arawn_cli.state import State
from arawn_cli.timestamps import DAY

# The number of entries that a list of a report shows.
MAX_SESSIONS = 8
MAX_DIRECTORIES = 12
MAX_ALERTS = 12
MAX_WORKSTREAMS = 12  # those whose largest parts are searched, and that a page shows unfolded

_AGES = ("under a day", "1 to 7 days", "7 to 30 days", "30 to 90 days", "over 90 days", "unknown")
"""The names of the classes of ages, the last one for an unknown age."""

# The history leaves out samples that equal the one before, for up to a day. The usage at the
# beginning of the period may therefore be in a sample that is a day older.
_EXTRA_HOURS = 24

# A change of less than this share of the usage does not fill the height of a curve, so that noise
# does not look like growth.
_LEAST_SPAN = 0.1


@dataclass(frozen=True, slots=True)
class ScopeReport:
    """A scope with its level, its usage over the period and its forecast.

    Attributes:
        trend: samples of the period, the usage now last.
        growth: bytes or inodes per day, or None if it is unknown.
        outlook: how the usage developed in the last week.
        next_limit: the limit that the scope reaches next, or None above all limits.
        forecast_days: days until that limit is reached, or None if that is unknown, more than a
            year away, or the usage does not grow.
    """

    usage: ScopeUsage
    level: Level
    trend: tuple[Sample, ...]
    growth: float | None
    next_limit: int | None
    forecast_days: int | None
    outlook: Outlook = Outlook.UNKNOWN

    @property
    def has_limit(self) -> bool:
        """Whether it has a limit that is known."""
        return self.level is not Level.UNKNOWN and self.usage.limit > 0

    def curve(self, hours: int, steps: int) -> list[float | None]:
        """Return the usage at equal steps of the last `hours`, from 0 (least) to 1 (largest).

        A step before the first sample is None. Without any earlier sample the list is empty.
        """
        if len(self.trend) < 2:
            return []
        last = self.trend[-1][0]
        usages = usage_at(self.trend, equal_steps(last - hours, last, steps))
        known = [usage for usage in usages if usage is not None]
        least, largest = min(known), max(known)
        span = max(largest - least, largest * _LEAST_SPAN, 1)
        return [None if usage is None else (usage - least) / span for usage in usages]


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """A scope above its limit; `since` is when it left `ok`, or None if that is not recorded."""

    scope: ScopeReport
    since: int | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """The last run of a job by its state, and the next by its scheduler; None if unknown."""

    name: JobName
    last: Run | None
    next_run: int | None


@dataclass(frozen=True, slots=True)
class WorkstreamReport:
    """A workstream and its usage by area. If its limit is unknown, so is its level.

    `largest` is None if it was not searched for, or not found.
    """

    id: str
    scope: ScopeReport
    production: int
    work: int
    other: int
    largest: Largest | None = None


@dataclass(frozen=True, slots=True)
class SessionReport:
    """A scratch session.

    Attributes:
        reason: why a cleanup would remove or keep it.
        due: when it becomes old enough to be removed, or None if it is old enough or is kept for
            another reason.
    """

    id: str
    level: Level
    size: int
    last_activity: int | None
    reason: Reason
    due: int | None


@dataclass(frozen=True, slots=True)
class NextCleanup:
    """What a cleanup would do now.

    Attributes:
        removed: sessions that it would remove, the oldest first.
        trashed: bytes of those that it moves to the trash.
        trash_until: from when a run purges these; None without any.
        freed: bytes that the cleanup frees, also by purging entries of the trash.
        later: sessions that become due later, the earliest first.
        over_removal_limit: whether it would remove nothing because too much is due.
    """

    removed: tuple[SessionReport, ...]
    trashed: int
    trash_until: int | None
    freed: int
    later: tuple[SessionReport, ...]
    over_removal_limit: bool


class OrphanKind(StrEnum):
    """Why no cleanup covers a directory."""

    ATTACHED = "files of a session that belongs to a workstream"
    SESSIONS = "sessions of a promoted scratch"
    NO_ROW = "not in Arawn's database"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A directory that probably nobody needs, and that no cleanup covers.

    Attributes:
        path: its path, relative to the root.
        title: the title of its workstream, or the id of a scratch session.
    """

    kind: OrphanKind
    path: str
    title: str
    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class DirectoryReport:
    """A directory of Arawn's beside the workstreams: its entries by name, the largest first."""

    path: str
    entries: tuple[tuple[str, int], ...]
    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a root at one instant.

    Attributes:
        days: length of the period that trends and alerts cover.
        workstreams: the worst first.
        filesystems: space and inodes of each filesystem, as far as it counts them.
        filesystem: that of the root.
        not_counted: mounts that no figure includes, by their path below the root.
        sessions: every scratch session, in no order.
        orphans: directories that no cleanup covers, the largest first.
        own_scope: usage and level of Arawn's own files, or None if their directory is not known.
        own_files: their entries, or None.
        backups: Arawn's backups, or None if there are none that can be read.
        cleanup: None if nothing is known about the next cleanup.
        transitions: changes of level in the period, newest first.
        removals: sessions that were removed in the period and not restored, newest first.
        alerts: scopes above their limit now, the worst first.
        jobs: the runs of both jobs.
        problems: what could not be read, as sentences. All figures leave it out.
    """

    now: int
    days: int
    host: str
    root: str
    older_than_days: int
    level: Level
    total: ScopeReport
    workstreams: tuple[WorkstreamReport, ...]
    filesystems: tuple[ScopeReport, ...]
    filesystem: Filesystem
    not_counted: tuple[str, ...]
    trash: int
    foreign: int
    sessions: tuple[SessionReport, ...]
    orphans: tuple[Orphan, ...]
    own_scope: ScopeReport | None
    own_files: DirectoryReport | None
    backups: DirectoryReport | None
    cleanup: NextCleanup | None
    transitions: tuple[Transition, ...]
    removals: tuple[Removal, ...]
    alerts: tuple[OpenAlert, ...]
    jobs: tuple[JobReport, ...]
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 if something could not be read, else 0."""
        return ExitCode.DONE if self.complete else ExitCode.PARTIAL

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.problems

    @property
    def has_history(self) -> bool:
        """Whether there is a sample of an earlier check."""
        return len(self.total.trend) > 1

    def ages(self) -> list[tuple[str, int, int]]:
        """Return each age of scratch sessions, with the number of sessions and their bytes."""
        found: dict[str, list[int]] = {name: [] for name in _AGES}
        for session in self.sessions:
            activity = session.last_activity
            found[_AGES[-1 if activity is None else age_class(activity, self.now)]].append(session.size)
        return [(name, len(sizes), sum(sizes)) for name, sizes in found.items() if sizes]

    def largest(self) -> list[SessionReport]:
        """Return the largest scratch sessions, the largest first."""
        return sorted(self.sessions, key=lambda session: session.size, reverse=True)[:MAX_SESSIONS]

    def oldest(self) -> list[SessionReport]:
        """Return the scratch sessions that were not used for longest, the oldest first."""
        return _by_age([session for session in self.sessions if session.last_activity is not None])[:MAX_SESSIONS]


def _by_age(sessions: Sequence[SessionReport]) -> list[SessionReport]:
    return sorted(sessions, key=lambda session: session.last_activity or 0)


def gather(
    config: Config,
    context: RunContext,
    days: int,
    unread: Sequence[str] = (),
    *,
    search: bool = False,
    next_runs: Mapping[JobName, int] | None = None,
) -> Report:
    """Measure a root and read its history.

    `unread` has problems that the caller met before, and `next_runs` the next runs of the jobs as
    far as they are known. With `search` the largest parts of the largest workstreams are found,
    which measures these again.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
        StoppedError: a signal asked the run to end.
    """
    now, period = context.clock(), days * 24
    problems = list(unread)
    with opened_root(config.root, config.databases, context.stopping) as root:
        measured = measure_root(root, config, context, {})
        history = load_history(context.state, root.path, now, hours=max(period + _EXTRA_HOURS, WINDOW_HOURS))
        backups = measure_backups(root, threads_for(config.maintenance.threads), context)
        largest = _search(root, config, measured, context) if search else {}
        removal = removal_now(root, config, measured, now, context.stopping)
        transitions, removals, last_runs = _recorded(context.state, root.path, problems)
    if removal is None:
        problems.append("the next cleanup is unknown: the scratch sessions could not be judged")
    verdicts = judge_all(scopes_of(config, measured), history.alerts, rules_of(config), now, vanished=())
    scopes = scope_reports(verdicts, history, period)
    sessions, cleanup = _sessions(config, measured, removal, scopes, now)
    return Report(
        now=now,
        days=days,
        host=context.host,
        root=str(root.path),
        older_than_days=config.older_than_days,
        level=worst(scope.level for scope in scopes.values()),
        total=scopes[TOTAL],
        workstreams=_workstreams(config, measured, scopes, history.hour, largest),
        filesystems=tuple(scope for name, scope in scopes.items() if is_of_filesystem(name)),
        filesystem=measured.filesystem,
        not_counted=measured.not_counted,
        trash=size_in(config, measured.trash),
        foreign=sum(size_in(config, usage) for usage in measured.foreign.values()),
        sessions=sessions,
        orphans=_orphans(config, root.layout, measured, removal.decisions if removal else ()),
        own_scope=scopes.get(OWN_FILES),
        own_files=_directory(config, measured.own_files),
        backups=_directory(config, backups),
        cleanup=cleanup,
        transitions=tuple(transition for transition in transitions if transition.time >= now - days * DAY),
        removals=tuple(removal for removal in reversed(removals) if removal.removed_at >= now - days * DAY),
        alerts=open_alerts(scopes, transitions),
        jobs=tuple(JobReport(job, last_runs.get(job), (next_runs or {}).get(job)) for job in JobName),
        problems=(*_failures(measured), *problems),
    )


def _failures(measured: Measurements) -> Iterator[str]:
    """Yield the failures to measure, as sentences."""
    yield from map(str, measured.failures)
    if more := measured.failure_count - len(measured.failures):
        yield f"and {more:,} more failures"


def _recorded(state: State, root: Path, problems: list[str]) -> tuple[list[Transition], list[Removal], dict[JobName, Run | None]]:
    """Return the changes of level (newest first), the removals (oldest first) and the last runs."""
    try:
        last_runs = {job: runs.read(state, job, root) for job in JobName}
        return read_transitions(state, root, TRANSITIONS_KEPT), read_removals(state, root), last_runs
    except StateUnavailableError as error:
        problems.append(f"earlier usage, alerts and removals are unknown: {error}")
        return [], [], {}


def _search(root: Root, config: Config, measured: Measurements, context: RunContext) -> dict[str, Largest | None]:
    """Return the largest parts of the largest workstreams, by id; None if they are not found."""
    by_size = sorted(measured.workstreams, key=lambda tree: size_in(config, tree.total), reverse=True)
    threads = threads_for(config.maintenance.threads)
    return {
        tree.row.id: largest_in(root, tree.row.id, measured.not_counted, lambda usage: size_in(config, usage), threads, context)
        for tree in by_size[:MAX_WORKSTREAMS]
    }


def scope_reports(verdicts: Iterable[Verdict], history: CheckHistory, hours: int) -> dict[str, ScopeReport]:
    """Return each scope with its usage over the last hours, without sessions that are ok."""
    return {
        verdict.usage.scope: ScopeReport(
            usage=verdict.usage,
            level=verdict.level,
            trend=history.trend(verdict.usage, hours),
            growth=history.growth(verdict.usage),
            next_limit=history.next_limit(verdict.usage),
            forecast_days=history.forecast(verdict.usage),
            outlook=history.outlook(verdict.usage),
        )
        for verdict in verdicts
        if not verdict.is_ok_session
    }


def with_unknown_limit(scope: str, name: str, used: int, hour: int, *, complete: bool) -> ScopeReport:
    """Return a workstream whose limit is unknown, because its title is, without the database."""
    return ScopeReport(ScopeUsage(scope, name, used, 0, 0, complete), Level.UNKNOWN, ((hour, used),), None, None, None)


def alerts_of(scopes: Iterable[ScopeReport]) -> list[ScopeReport]:
    """Return the scopes above their limit, the worst first."""
    alerts = [scope for scope in scopes if reaches(scope.level, Level.WARNING)]
    return sorted(alerts, key=lambda scope: worst_first(scope.usage, scope.level))


def open_alerts(scopes: Mapping[str, ScopeReport], transitions: Sequence[Transition]) -> tuple[OpenAlert, ...]:
    """Return the open alerts, the worst first. `transitions` are the newest first."""
    since = {transition.scope: transition.time for transition in reversed(transitions) if not reaches(transition.before, Level.WARNING)}
    return tuple(OpenAlert(scope, since.get(scope.usage.scope)) for scope in alerts_of(scopes.values()))


def _workstreams(
    config: Config, measured: Measurements, scopes: Mapping[str, ScopeReport], hour: int, largest: Mapping[str, Largest | None]
) -> tuple[WorkstreamReport, ...]:
    found = []
    for tree in measured.workstreams:
        name = scope_of(tree.row.id)
        total, production, work, other = (size_in(config, part) for part in (tree.total, tree.production, tree.work, tree.other))
        scope = scopes.get(name) or with_unknown_limit(name, tree.row.title, total, hour, complete=tree.total.complete)
        found.append(WorkstreamReport(tree.row.id, scope, production, work, other, largest.get(tree.row.id)))
    return tuple(sorted(found, key=lambda workstream: worst_first(workstream.scope.usage, workstream.scope.level)))


def _orphans(config: Config, layout: Layout, measured: Measurements, decisions: Sequence[Decision]) -> tuple[Orphan, ...]:
    """Return the entries that no cleanup covers. One inside another is not listed again."""
    found = []
    for tree in measured.workstreams:
        path = f"{WORKSTREAMS}/{tree.row.id}"
        if tree.row.is_scratch:
            continue
        if tree.row.archived or tree.has_row is False:
            kind = OrphanKind.ARCHIVED if tree.row.archived else OrphanKind.NO_ROW
            found.append((kind, path, tree.row.title, tree.total))
        elif tree.sessions:
            found.append((OrphanKind.SESSIONS, f"{path}/{SESSIONS}", tree.row.title, combined(tree.sessions.values())))
    for decision in decisions:
        session = decision.session
        if session.evidence.is_attached:
            path = "/".join((WORKSTREAMS, *layout.sessions, session.name))
            found.append((OrphanKind.ATTACHED, path, session.name, measured.sessions.get(session.name, Usage())))
    orphans = [Orphan(kind, path, title, size_in(config, usage), usage.complete) for kind, path, title, usage in found]
    return tuple(sorted(orphans, key=lambda orphan: orphan.size, reverse=True))


def _directory(config: Config, files: OwnFiles | None) -> DirectoryReport | None:
    if files is None:
        return None
    sizes = sorted(((name, size_in(config, usage)) for name, usage in files.entries.items()), key=itemgetter(1), reverse=True)
    return DirectoryReport(str(files.directory), tuple(sizes), size_in(config, files.total), files.total.complete)


def _sessions(
    config: Config, measured: Measurements, removal: NextRemoval | None, scopes: Mapping[str, ScopeReport], now: int
) -> tuple[tuple[SessionReport, ...], NextCleanup | None]:
    """Return every scratch session, and the next cleanup as far as it is known."""
    levels = {scope.removeprefix(SESSION): report.level for scope, report in scopes.items() if scope.startswith(SESSION)}
    if removal is None:
        return tuple(
            SessionReport(name, levels.get(name, Level.OK), size_in(config, usage), usage.newest_mtime, Reason.ACTIVITY_UNKNOWN, None)
            for name, usage in measured.sessions.items()
        ), None
    sessions = []
    for decision in removal.decisions:
        session, reason, activity = decision.session, decision.reason, decision.session.last_activity
        if decision.is_removal and session.name not in removal.removed:
            reason = Reason.REMOVAL_LIMIT if removal.is_over_limit else Reason.IN_USE
        if reason not in NO_SESSION:
            used = size_in(config, session.usage) if session.usage else 0
            due = activity + config.older_than_days * DAY if reason in IN_RECENT_USE and activity is not None else None
            sessions.append(SessionReport(session.name, levels.get(session.name, Level.OK), used, activity, reason, due))
    return tuple(sessions), NextCleanup(
        removed=tuple(_by_age([session for session in sessions if session.reason in REMOVED_FOR])),
        trashed=size_in(config, removal.trashed),
        trash_until=now + config.maintenance.cleanup.trash_days * DAY if removal.trashed.directories else None,
        freed=freed_in(config, removal.freed),
        later=tuple(_by_age([session for session in sessions if session.due is not None])),
        over_removal_limit=removal.is_over_limit,
    )
