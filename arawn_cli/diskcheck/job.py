"""Run `disk-check`: measure, compare with limits, store, report."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arawn_cli import runs
from arawn_cli.arawn.layout import SCRATCH
from arawn_cli.arawn.root import Root, opened_root
from arawn_cli.check_events import DiskCheck, DiskPressure, ForeignEntry, WorkstreamUsage
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.history import CheckHistory, load_history, read_alerts, store_alerts, store_samples
from arawn_cli.diskcheck.levels import (
    TOTAL,
    Rules,
    ScopeUsage,
    Verdict,
    can_cleanup_help,
    freed_in,
    judge_all,
    level_of,
    limit_of,
    reaches,
    rules_of,
    scope_of,
    scope_of_sessions,
    scopes_of,
    size_in,
    unchanged,
    vanished_scopes,
    worst,
)
from arawn_cli.diskcheck.measuring import Measurements, WorkstreamTree, measure_root
from arawn_cli.errors import ExitCode, StateUnavailableError
from arawn_cli.events import JobName, Level, Unit, report_failure
from arawn_cli.fs.usage import Usage
from arawn_cli.locks import lock_file, run_lock
from arawn_cli.problems import STATE, persistent
from arawn_cli.runs import Run
from arawn_cli.units import size

if TYPE_CHECKING:
    from arawn_cli.diskcheck.size_cache import ReusedSizes

log = logging.getLogger(__name__)

_PERCENT_MAX = 255  # Arawn's client reads it into one byte

levels_log = logging.getLogger(f"{__name__}.levels")
"""Logs changes of level. An output that shows them, too, can turn it down."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    Attributes:
        summary: its last event.
        measurements: everything that was measured.
        workstreams: the usage of each workstream.
        verdicts: the level of each scope.
        history: the history before this check.
        reclaimable: bytes that a cleanup would free, in the configured measure; None if unknown, or
            if no scope needs it.
        starts_cleanup: whether to start a cleanup now.
        fail_on: the level from which on the check counts as failed, or None.
    """

    summary: DiskCheck
    measurements: Measurements
    workstreams: tuple[WorkstreamUsage, ...]
    verdicts: tuple[Verdict, ...]
    history: CheckHistory
    reclaimable: int | None
    starts_cleanup: bool = False
    fail_on: Level | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Return 3 if the level is reached, else 1 if something could not be read, else 0."""
        if self.fail_on is not None and reaches(self.summary.level, self.fail_on):
            return ExitCode.LEVEL_REACHED
        return ExitCode.DONE if self.summary.complete else ExitCode.PARTIAL


@dataclass(frozen=True, slots=True)
class _Findings:
    """Everything that a check found, before levels are judged.

    Attributes:
        now: when it began, in nanoseconds.
        scopes: the usage of each scope by its name.
        vanished: scopes with a stored alert that do not exist any more.
        reclaimable: the usage that a cleanup would free, or None if unknown.
    """

    now: int
    root: Path
    measurements: Measurements
    scopes: Mapping[str, ScopeUsage]
    history: CheckHistory
    vanished: Collection[str]
    reclaimable: Usage | None
    reused: ReusedSizes | None

    @property
    def total(self) -> ScopeUsage:
        return self.scopes[TOTAL]

    def forecast(self, scope: str) -> int | None:
        """Return the days until a scope reaches its next limit, or None if it is unknown."""
        return self.history.forecast(self.scopes[scope]) if scope in self.scopes else None


def check(config: Config, context: RunContext, *, fail_on: Level | None = None) -> CheckResult:
    """Measure a root, compare it with its limits, and report the scopes that exceed them.

    Emit `disk_pressure` for each level to report, `workstream_usage` for each workstream, and
    `disk_check` at the end. Levels, history and `disk_pressure` events are stored in one
    transaction before anything is shown. If the state file is not writable, the check still runs,
    but levels are not remembered.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
        LockedError, LongLockedError: another check of this root is in progress.
        StoppedError: a signal asked the run to end.
    """
    started, now = context.monotonic(), context.clock()
    with opened_root(config.root, config.databases, context.stopping) as root, check_lock(root, context, hold=not config.dry_run):
        if not config.dry_run:
            context.started()
        if not config.dry_run and config.remembers:
            with suppress(StateUnavailableError):  # logged when the levels cannot be stored
                context.state.open()  # reading a copy first would check the file twice
        found = _find(root, config, context, now)
        verdicts, is_remembered = _judge(config, context, found)
        _log_levels(verdicts, is_remembered=is_remembered)
        workstreams = _usage_events(config, context, found, verdicts)
        summary = _summary(config, context, found, verdicts, started)
        for event in (*workstreams, summary):
            context.emit(event)
        is_wanted = config.maintenance.cleanup.cleanup_on == "critical" and config.remembers and not config.dry_run
        return CheckResult(
            summary,
            found.measurements,
            workstreams,
            tuple(verdicts),
            found.history,
            None if found.reclaimable is None else freed_in(config, found.reclaimable),
            is_wanted and any(map(_needs_cleanup, verdicts)),
            fail_on,
        )


def _find(root: Root, config: Config, context: RunContext, now: int) -> _Findings:
    """Measure a root, and compare it with its history."""
    reused = _reused_sizes(root, config, context, now)
    measurements = measure_root(root, config, context, reused.usages if reused else {})
    scopes = {usage.scope: usage for usage in scopes_of(config, measurements)}
    history = load_history(context.state, root.path, now)
    return _Findings(
        now=now,
        root=root.path,
        measurements=measurements,
        scopes=scopes,
        history=history,
        vanished=vanished_scopes(root, history.alerts, scopes, measurements.filesystems),
        reclaimable=_reclaimable(root, config, context, measurements, scopes, history),
        reused=reused,
    )


def _summary(config: Config, context: RunContext, found: _Findings, verdicts: Sequence[Verdict], started: int) -> DiskCheck:
    measurements, total = found.measurements, found.total
    level = worst(verdict.level for verdict in verdicts)
    return DiskCheck(
        timestamp=context.timestamp(),
        host=context.host,
        root=config.root_name,
        dry_run=config.dry_run,
        level=Level.UNKNOWN if measurements.failures and level is Level.OK else level,
        total_usage_bytes=total.usage,
        limit_bytes=total.limit,
        percent=percent_of(total.usage, total.limit),
        usage_percent=usage_percent_of(total.usage, total.limit),
        workstreams=len(measurements.workstreams),
        pressure_events=sum(verdict.notify for verdict in verdicts),
        filesystem=measurements.filesystem,
        mounted=tuple(filesystem for path, filesystem in measurements.filesystems.items() if path),
        not_counted=measurements.not_counted,
        own_files_bytes=size_in(config, measurements.own_files.total) if measurements.own_files else None,
        trash_bytes=size_in(config, measurements.trash),
        sample_age_secs=total.sample_age_secs,
        complete=not measurements.failures,
        duration_ms=(context.monotonic() - started) // 1_000_000,
        forecast_days=found.forecast(TOTAL),
        foreign=tuple(ForeignEntry(name=name, bytes=size_in(config, usage)) for name, usage in measurements.largest_foreign()),
        foreign_count=len(measurements.foreign),
        foreign_bytes=sum(size_in(config, usage) for usage in measurements.foreign.values()),
        failures=tuple(report_failure(failure) for failure in measurements.failures),
        failure_count=measurements.failure_count,
    )


def _needs_cleanup(verdict: Verdict) -> bool:
    """Whether a scope that a cleanup can help has just turned critical."""
    return can_cleanup_help(verdict.usage.scope) and verdict.level is Level.CRITICAL and verdict.before is not Level.CRITICAL


@contextmanager
def check_lock(root: Root, context: RunContext, *, hold: bool) -> Iterator[None]:
    """Lock a root against other checks; a dry run only tests it, a cleanup ignores it.

    If the lock cannot be taken, the check runs without it: levels are judged in one transaction.

    Raises:
        LockedError, LongLockedError: another check of this root is in progress.
    """
    with ExitStack() as stack:
        try:
            path = lock_file(context.state.directory, JobName.DISK_CHECK, root.path)
            stack.enter_context(run_lock(path, f"another check of {root.path} is in progress", context.clock(), hold=hold))
        except OSError as error:
            log.info("cannot lock the root, so checks may overlap: %s", error.strerror)
        yield


def _reused_sizes(root: Root, config: Config, context: RunContext, now: int) -> ReusedSizes | None:
    hours = config.maintenance.pressure.remeasure_hours
    if hours == 0:
        return None
    from arawn_cli.diskcheck.size_cache import load_reusable

    return load_reusable(root, context, hours, now)


def _reclaimable(
    root: Root, config: Config, context: RunContext, measurements: Measurements, scopes: Mapping[str, ScopeUsage], history: CheckHistory
) -> Usage | None:
    """Return the usage that a cleanup would free if a scope that it reduces needs it, else None."""
    freed = _freed_by_cleanup(measurements)
    if not any(scope in scopes and (level_of(scopes[scope]) is not Level.OK or scope in history.alerts) for scope in freed):
        return None
    from arawn_cli.diskcheck.reclaimable import removal_now

    removal = removal_now(root, config, measurements, context.clock(), context.stopping)
    return removal.freed if removal else None


def _freed_by_cleanup(measurements: Measurements) -> frozenset[str]:
    """Return the scopes whose usage a cleanup reduces."""
    return frozenset({SCRATCH, TOTAL, scope_of_sessions(measurements)})


def _judge(config: Config, context: RunContext, found: _Findings) -> tuple[list[Verdict], bool]:
    """Judge every scope, emit its event, and return whether the levels are stored."""
    rules = rules_of(config)
    if not config.dry_run and config.remembers:
        try:
            return _judge_and_store(config, context, found, rules), True
        except StateUnavailableError as error:
            log.warning("%s: levels are reported as measured, and not remembered", error, extra=STATE)
            # Checks in a row cannot be counted. An early alert is better than none on a full disk.
            rules = rules._replace(for_checks=1)
    verdicts = judge_all(found.scopes.values(), found.history.alerts, rules, found.now, vanished=found.vanished)
    for event in _pressure_events(config, context, found, verdicts):
        context.emit(event)
    return verdicts, False


def _judge_and_store(config: Config, context: RunContext, found: _Findings, rules: Rules) -> list[Verdict]:
    """Judge every scope, store levels, history and events in one transaction, and show the events.

    Raises:
        StateUnavailableError: nothing is stored or shown.
    """
    with context.state.transaction() as connection:
        before = read_alerts(context.state, found.root)
        if runs.has_ended_since(connection, JobName.DISK_CHECK, found.root, found.now, context.clock()):
            log.info("another check measured later and ended earlier: this one changes no level")
            return unchanged(found.scopes.values(), before)
        verdicts = judge_all(found.scopes.values(), before, rules, found.now, vanished=found.vanished)
        store_alerts(connection, found.root, verdicts, before, found.now)
        store_samples(connection, found.root, found.scopes.values(), found.history.hour)
        if found.reused:
            found.reused.store(connection, found.root, found.measurements.sessions)
        last_success = None if found.measurements.failures else found.now
        runs.store(connection, JobName.DISK_CHECK, found.root, Run(found.now, last_success, 0, 0))
        events = _pressure_events(config, context, found, verdicts)
        for outbox in context.outboxes:
            outbox.add(connection, events)
    for event in events:
        context.show(event)
    return verdicts


def _log_levels(verdicts: Sequence[Verdict], *, is_remembered: bool) -> None:
    """Log a level that rises as a warning, which cron mails, and other changes as information.

    A level that is not remembered rises in each run.
    """
    for verdict in verdicts:
        usage = verdict.usage
        if usage.unit is Unit.INODES:
            amounts = f"{usage.usage:,} of {usage.limit:,} inodes"
        else:
            amounts = f"{size(usage.usage)} of {size(usage.limit)}"
        if verdict.level is not verdict.before:
            rises = reaches(verdict.level, verdict.before)
            priority, verb = (logging.WARNING, "rises") if rises else (logging.INFO, "falls")
            repeated = None if is_remembered else persistent(f"level {usage.scope} {verdict.level}")
            levels_log.log(priority, "%s %s from %s to %s: %s", usage.scope, verb, verdict.before, verdict.level, amounts, extra=repeated)
        elif verdict.level is not Level.OK or level_of(usage) is not Level.OK:
            levels_log.info("%s stays at %s: %s", usage.scope, verdict.level, amounts)


def _id_in(config: Config, scope: str) -> str:
    """Return an id that no other root of the file has. Arawn's client tells alerts apart by it."""
    return scope if config.root_name is None else f"{config.root_name}/{scope}"


def _name_in(config: Config, name: str) -> str:
    return name if config.root_name is None else f"{name} ({config.root_name})"


def _usage_events(config: Config, context: RunContext, found: _Findings, verdicts: Sequence[Verdict]) -> tuple[WorkstreamUsage, ...]:
    levels = {verdict.usage.scope: verdict.level for verdict in verdicts}
    return tuple(_usage_event(config, context, found, tree, levels) for tree in found.measurements.workstreams)


def _usage_event(
    config: Config, context: RunContext, found: _Findings, tree: WorkstreamTree, levels: Mapping[str, Level]
) -> WorkstreamUsage:
    total = tree.total
    used, limit, scope = size_in(config, total), limit_of(config, tree.row), scope_of(tree.row.id)
    return WorkstreamUsage(
        timestamp=context.timestamp(),
        host=context.host,
        root=config.root_name,
        dry_run=config.dry_run,
        workstream_id=_id_in(config, tree.row.id),
        workstream_name=_name_in(config, tree.row.title),
        is_scratch=tree.row.is_scratch,
        production_bytes=size_in(config, tree.production),
        work_bytes=size_in(config, tree.work),
        level=levels.get(scope, Level.UNKNOWN),
        total_bytes=used,
        limit_bytes=limit,
        percent=percent_of(used, limit),
        usage_percent=usage_percent_of(used, limit),
        other_bytes=size_in(config, tree.other),
        allocated_bytes=total.allocated_bytes,
        largest_file_bytes=total.largest_file_bytes,
        files=total.files,
        sessions=len(tree.sessions) if tree.row.is_scratch else tree.row.sessions,
        complete=total.complete,
        forecast_days=found.forecast(scope),
        sample_age_secs=total.sample_age_secs,
    )


def _pressure_events(config: Config, context: RunContext, found: _Findings, verdicts: Sequence[Verdict]) -> list[DiskPressure]:
    return [_pressure_event(config, context, found, verdict) for verdict in verdicts if verdict.notify]


def _pressure_event(config: Config, context: RunContext, found: _Findings, verdict: Verdict) -> DiskPressure:
    usage = verdict.usage
    freed: int | None = None
    if found.reclaimable is not None and usage.scope in _freed_by_cleanup(found.measurements):
        # A filesystem gets blocks back, also if trees are measured by apparent size.
        is_filesystem = usage.scope == scope_of_sessions(found.measurements)
        freed = found.reclaimable.freed_allocated_bytes if is_filesystem else freed_in(config, found.reclaimable)
    return DiskPressure(
        timestamp=context.timestamp(),
        host=context.host,
        root=config.root_name,
        dry_run=config.dry_run,
        level=verdict.level,
        scope=usage.scope,
        usage_mb=megabytes(usage.usage),
        limit_mb=megabytes(usage.limit),
        workstream_id=_id_in(config, usage.scope),
        workstream_name=_name_in(config, usage.name),
        usage_bytes=usage.usage,
        limit_bytes=usage.limit,
        percent=percent_of(usage.usage, usage.limit),
        usage_percent=usage_percent_of(usage.usage, usage.limit),
        unit=usage.unit,
        complete=usage.complete,
        reclaimable_bytes=freed,
        forecast_days=found.forecast(usage.scope),
        sample_age_secs=usage.sample_age_secs,
    )


def megabytes(size: int) -> float:
    """Return millions of bytes, rounded to three decimals."""
    return round(size / 1_000_000, 3)


def usage_percent_of(usage: int, limit: int) -> float | None:
    """Return usage in percent of a limit to one decimal, or None without a limit, which is 0."""
    return round(usage * 100 / limit, 1) if limit else None


def percent_of(usage: int, limit: int) -> int:
    """Return usage in percent of a limit, rounded down, at most 255; 0 without a limit."""
    return min(usage * 100 // limit, _PERCENT_MAX) if limit else 0
