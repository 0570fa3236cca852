"""Run `disk-check`: measure, compare with limits, store, report."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.filesize import decimal

from arawn_cli import runs
from arawn_cli.arawn.layout import SCRATCH, Root, opened_root
from arawn_cli.config.loader import Config, database_of
from arawn_cli.context import RunContext
from arawn_cli.diskcheck import alerts, history
from arawn_cli.diskcheck.history import CheckHistory, load_history
from arawn_cli.diskcheck.inspection import Measurements, gone, inspect
from arawn_cli.diskcheck.levels import FILESYSTEM, TOTAL, Rules, Verdict, judge_all, level_of, reaches, unjudged, worst
from arawn_cli.diskcheck.limits import freed_in, limit_of, rules_of, scope_of, size_in
from arawn_cli.diskcheck.measuring import WorkstreamTree
from arawn_cli.errors import ExitCode, LockedError
from arawn_cli.events import (
    DiskCheck,
    DiskPressure,
    ForeignEntry,
    JobName,
    Level,
    Unit,
    WorkstreamUsage,
    megabytes,
    percent_of,
    report_failure,
)
from arawn_cli.fs.measure import Usage
from arawn_cli.locks import try_lock, unlock
from arawn_cli.runs import Run

if TYPE_CHECKING:
    from arawn_cli.diskcheck.size_cache import Reuse

log = logging.getLogger(__name__)


@contextmanager
def check_lock(root: Root, *, hold: bool) -> Iterator[None]:
    """Lock a root against other checks, with the BSD lock of its directory; a dry run only tests the lock.

    The lock needs no space on a full disk, and a cleanup does not take it. If the filesystem does not
    support flock, the check runs without the lock.

    Raises:
        LockedError: another check of this root is in progress.
    """
    descriptor = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            locked = try_lock(descriptor, shared=not hold)
        except OSError as error:
            log.info("cannot lock the root, so checks may overlap: %s", error.strerror)
        else:
            if not locked:
                raise LockedError(f"another check of {root.path} is in progress: nothing done; run it again later")
            if not hold:
                unlock(descriptor)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class CheckEvents:
    """Makes the events of one check."""

    config: Config
    context: RunContext

    def usage(self, tree: WorkstreamTree, forecast_days: int | None) -> WorkstreamUsage:
        """What one workstream uses."""
        total = tree.total
        limit = limit_of(self.config, tree.row)
        production, work, other, everything = (size_in(self.config, part) for part in (tree.production, tree.work, tree.other, total))
        return WorkstreamUsage(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            workstream_id=tree.row.id,
            workstream_name=tree.row.title,
            is_scratch=tree.row.is_scratch,
            production_bytes=production,
            work_bytes=work,
            total_bytes=everything,
            limit_bytes=limit,
            percent=percent_of(everything, limit),
            other_bytes=other,
            allocated_bytes=total.allocated_bytes,
            largest_file_bytes=total.largest_file_bytes,
            files=total.files,
            sessions=len(tree.sessions) if tree.row.is_scratch else tree.row.sessions,
            complete=total.complete,
            forecast_days=forecast_days,
            sample_age_secs=total.sample_age_secs,
        )

    def pressure(self, verdict: Verdict, reclaimable_bytes: int | None, forecast_days: int | None) -> DiskPressure:
        """That a scope is above its limit, or back below it."""
        scope = verdict.usage
        return DiskPressure(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            level=verdict.level,
            scope=scope.scope,
            usage_mb=megabytes(scope.usage),
            limit_mb=megabytes(scope.limit),
            workstream_id=scope.scope,
            workstream_name=scope.name,
            usage_bytes=scope.usage,
            limit_bytes=scope.limit,
            percent=percent_of(scope.usage, scope.limit),
            unit=scope.unit,
            complete=scope.complete,
            reclaimable_bytes=reclaimable_bytes,
            forecast_days=forecast_days,
            sample_age_secs=scope.sample_age_secs,
        )

    def summary(
        self, inspection: Measurements, level: Level, pressure_events: int, forecast_days: int | None, duration_ms: int
    ) -> DiskCheck:
        """The whole check; `forecast_days` is that of the total."""
        total = next(scope for scope in inspection.scopes if scope.scope == TOTAL)
        foreign = inspection.inventory.foreign
        return DiskCheck(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            level=level,
            total_usage_bytes=total.usage,
            limit_bytes=total.limit,
            percent=percent_of(total.usage, total.limit),
            workstreams=len(inspection.inventory.workstreams),
            pressure_events=pressure_events,
            filesystem=inspection.filesystem,
            trash_bytes=size_in(self.config, inspection.inventory.trash),
            sample_age_secs=total.sample_age_secs,
            complete=not inspection.failures,
            duration_ms=duration_ms,
            forecast_days=forecast_days,
            foreign=tuple(ForeignEntry(name=name, bytes=size_in(self.config, usage)) for name, usage in foreign.items()),
            failures=tuple(report_failure(failure) for failure in inspection.failures),
        )


levels_log = logging.getLogger(f"{__name__}.levels")
"""Gets the changes of level. Where the output shows them to the reader of the log too, it can be turned down alone."""


# What a cleanup frees, it frees for these; in the measure of trees and in bytes.
_HELPED = frozenset({SCRATCH, TOTAL, FILESYSTEM})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check: its last event, the measurements, and the level of each scope."""

    summary: DiskCheck
    inspection: Measurements
    verdicts: tuple[Verdict, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 if something could not be read, else 0."""
        return ExitCode.DONE if self.summary.complete else ExitCode.PARTIAL


def check(config: Config, context: RunContext) -> CheckResult:
    """Measure a root, compare it with its limits, and report what exceeds them.

    Emit `workstream_usage` for each workstream, `disk_pressure` for each level to report, and `disk_check` at the end.
    Levels, history and `disk_pressure` events are stored in one transaction. If the state file is not
    writable, the check still runs, but levels are not remembered.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
        LockedError: another check of this root is in progress.
        StoppedError: a signal asked the run to end.
    """
    started = context.monotonic()
    now = context.clock()
    with opened_root(config.root) as root, check_lock(root, hold=not config.dry_run):
        reuse = _reuse(root, config, context, now)
        inspection = inspect(root, config, context, reuse.usages if reuse else {})
        remembered = load_history(context.state, root.path, now)
        helped = _reclaimable(root, config, inspection, remembered, now)
        missing = gone(root, remembered.alerts, inspection)
        check_ = _Check(config, context, root, inspection, reuse, remembered, helped, missing, now)
        for tree in inspection.inventory.workstreams:
            context.emit(check_.events.usage(tree, check_.forecasts.get(scope_of(tree.row.id))))
        verdicts = check_.settle()
        _log_levels(verdicts)
        told = sum(verdict.told for verdict in verdicts)
        level = worst(verdict.level for verdict in verdicts)
        if inspection.failures and level is Level.OK:
            level = Level.UNKNOWN
        duration = (context.monotonic() - started) // 1_000_000
        summary = check_.events.summary(inspection, level, told, check_.forecasts[TOTAL], duration)
        context.emit(summary)
        return CheckResult(summary, inspection, tuple(verdicts))


class _Check:
    """One check, measured and not judged yet."""

    def __init__(
        self,
        config: Config,
        context: RunContext,
        root: Root,
        inspection: Measurements,
        reuse: Reuse | None,
        remembered: CheckHistory,
        helped: Usage | None,
        missing: set[str],
        now: int,
    ) -> None:
        self.events = CheckEvents(config, context)
        self.forecasts = {scope.scope: remembered.forecast(scope) for scope in inspection.scopes}
        self._config = config
        self._context = context
        self._root = root.path
        self._inspection = inspection
        self._reuse = reuse
        self._remembered = remembered
        self._helped = helped
        self._missing = missing
        self._now = now
        self._rules = rules_of(config)
        self._verdicts: list[Verdict] = []

    def settle(self) -> list[Verdict]:
        """Judges every scope, and stores and emits what is to be told."""
        if self._config.dry_run or not self._config.remembers:
            self._judge(self._remembered, self._rules)
        elif self._context.commit(self._change):
            return self._verdicts
        else:
            # Checks in a row cannot be counted: rather an early alert than none on a disk that is full.
            self._judge(self._remembered, replace(self._rules, for_checks=1))
        for event in self._pressure_events():
            self._context.emit(event)
        return self._verdicts

    def _change(self, connection: sqlite3.Connection) -> Sequence[DiskPressure]:
        """The part of a check that is kept together or not at all."""
        before = alerts.load(connection, self._root)
        if runs.has_ended_since(connection, JobName.DISK_CHECK, self._root, self._now, self._context.clock()):
            log.info("another check measured later and ended earlier: this one changes no level")
            self._verdicts = unjudged(self._inspection.scopes, before)
            return []
        self._judge(replace(self._remembered, alerts=before), self._rules)
        alerts.store(connection, self._root, self._verdicts, self._now)
        history.store(connection, self._root, self._inspection.scopes, self._remembered.hour)
        if self._reuse:
            self._reuse.store(connection, self._root, self._inspection.sessions)
        runs.store(connection, JobName.DISK_CHECK, self._root, Run(self._now, None if self._inspection.failures else self._now, 0, 0))
        return self._pressure_events()

    def _judge(self, remembered: CheckHistory, rules: Rules) -> None:
        self._verdicts = judge_all(self._inspection.scopes, remembered.alerts, rules, self._now, gone=self._missing)

    def _pressure_events(self) -> list[DiskPressure]:
        return [self._pressure_event(verdict) for verdict in self._verdicts if verdict.told]

    def _pressure_event(self, verdict: Verdict) -> DiskPressure:
        scope = verdict.usage.scope
        freed: int | None = None
        if self._helped is not None and scope in _HELPED:
            # A filesystem gets back blocks, whatever the measure of trees is.
            freed = self._helped.freed_allocated_bytes if scope == FILESYSTEM else freed_in(self._config, self._helped)
        return self.events.pressure(verdict, freed, self.forecasts.get(scope))


def _reuse(root: Root, config: Config, context: RunContext, now: int) -> Reuse | None:
    hours = config.maintenance.pressure.remeasure_hours
    if hours == 0:
        return None
    from arawn_cli.diskcheck.size_cache import reusable

    return reusable(root, database_of(config, root), context.state, hours, now)


def _reclaimable(root: Root, config: Config, inspection: Measurements, remembered: CheckHistory, now: int) -> Usage | None:
    """What a cleanup would free; found out only when one of the scopes that it helps has, or had, too much."""
    asked = any(
        scope.scope in _HELPED and (level_of(scope) is not Level.OK or scope.scope in remembered.alerts) for scope in inspection.scopes
    )
    if not asked:
        return None
    from arawn_cli.diskcheck.reclaimable import decisions_now, reclaimable

    return reclaimable(config, decisions_now(root, config, inspection.sessions, now), inspection.inventory.trash)


def _log_levels(verdicts: Sequence[Verdict]) -> None:
    """A level that rises is trouble, and the one thing that cron mails of a check; what repeats or falls is not."""
    for verdict in verdicts:
        scope = verdict.usage
        size = (
            f"{scope.usage:,} of {scope.limit:,} inodes"
            if scope.unit is Unit.INODES
            else f"{decimal(scope.usage)} of {decimal(scope.limit)}"
        )
        if verdict.level is not verdict.before:
            rises = reaches(verdict.level, verdict.before)
            verb = "rises" if rises else "falls"
            levels_log.log(
                logging.WARNING if rises else logging.INFO,
                "%s %s from %s to %s: %s",
                scope.scope,
                verb,
                verdict.before,
                verdict.level,
                size,
            )
        elif verdict.level is not Level.OK or level_of(scope) is not Level.OK:
            levels_log.info("%s stays at %s: %s", scope.scope, verdict.level, size)
