"""The use case `disk-check`: measure, evaluate, report."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from rich.filesize import decimal

from arawn_cli.config import Config
from arawn_cli.database import DatabaseUnreadableError, workstream_rows
from arawn_cli.events import (
    DiskCheck,
    DiskPressure,
    ForeignEntry,
    Level,
    WorkstreamUsage,
    megabytes,
    percent_of,
    report_failure,
)
from arawn_cli.filesystem import filesystem_of
from arawn_cli.inventory import Inventory, WorkstreamTree, take
from arawn_cli.layout import Root, database_of, opened_root
from arawn_cli.leftovers import trash_usage
from arawn_cli.model import Failure, Usage, WorkstreamRow
from arawn_cli.pressure import TOTAL, ScopeUsage, level_of, limit_for, unmatched_limits, worst
from arawn_cli.surroundings import Surroundings
from arawn_cli.usage import threads_for

log = logging.getLogger(__name__)


def check(config: Config, surroundings: Surroundings) -> DiskCheck:
    """Measures a root, emits the usage of each workstream and the pressure of each scope, and returns the last event.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe.
    """
    started = surroundings.monotonic()
    with opened_root(config.root) as root:
        rows, database_failures = _rows(config, root)
        threads = threads_for(config.maintenance.threads)
        inventory = take(root, rows, threads, surroundings)
        trash = trash_usage(root)
        filesystem = filesystem_of(root.path)
    check = _Check(config, surroundings)
    failures = (*database_failures, *inventory.total.failures)
    _log_findings(inventory, failures, config)
    for tree in inventory.workstreams:
        surroundings.emit(check.usage_event(tree))
    scopes = list(check.scopes(inventory))
    levels = [check.pressure(scope) for scope in scopes]
    worst_level = worst(levels)
    summary = DiskCheck(
        timestamp=surroundings.timestamp(),
        host=surroundings.host,
        dry_run=config.dry_run,
        level=Level.UNKNOWN if failures and worst_level is Level.OK else worst_level,
        total_usage_bytes=check.size(inventory.total),
        workstreams=len(inventory.workstreams),
        pressure_events=sum(level is not Level.OK for level in levels),
        filesystem=filesystem,
        trash_bytes=check.size(trash),
        sample_age_secs=0,
        complete=not failures,
        duration_ms=(surroundings.monotonic() - started) // 1_000_000,
        foreign=tuple(ForeignEntry(name=name, bytes=check.size(usage)) for name, usage in inventory.foreign.items()),
        failures=tuple(report_failure(failure) for failure in failures),
    )
    surroundings.emit(summary)
    return summary


def _rows(config: Config, root: Root) -> tuple[list[WorkstreamRow], tuple[Failure, ...]]:
    path = database_of(config, root)
    if path is None:
        return [], ()
    try:
        return workstream_rows(path), ()
    except DatabaseUnreadableError as error:
        return [], (Failure("sqlite3", path.name, errno.EIO, str(error)),)


def _log_findings(inventory: Inventory, failures: tuple[Failure, ...], config: Config) -> None:
    for failure in failures:
        log.error("%s", failure)
    for name, usage in inventory.foreign.items():
        log.info("workstreams/%s is not Arawn's: %s", name, decimal(usage.apparent_bytes))
    for path in inventory.total.other_filesystems:
        log.info("workstreams/%s is another filesystem: not counted", path)
    for key in unmatched_limits((tree.row for tree in inventory.workstreams), config.maintenance.pressure.limits):
        log.warning("[maintenance.pressure.limits] %r is neither the id nor the title of a workstream", key)


@dataclass(frozen=True, slots=True)
class _Check:
    """The measure and the limits of one run."""

    config: Config
    surroundings: Surroundings

    def size(self, usage: Usage) -> int:
        """What a tree uses, in the configured measure."""
        apparent = self.config.maintenance.pressure.measure == "apparent"
        return usage.apparent_bytes if apparent else usage.allocated_bytes

    def limit(self, row: WorkstreamRow) -> int:
        """The warning limit of a workstream."""
        return limit_for(row, self.config.maintenance.pressure.limits, self.config.workstream_limit_bytes)

    def scopes(self, inventory: Inventory) -> Iterator[ScopeUsage]:
        """The total, every workstream, every scratch session."""
        total = inventory.total
        yield ScopeUsage(TOTAL, "all workstreams", self.size(total), self.config.total_limit_bytes, total.complete)
        for tree in inventory.workstreams:
            usage = tree.total
            yield ScopeUsage(tree.row.id, tree.row.title, self.size(usage), self.limit(tree.row), usage.complete)
        for tree in (tree for tree in inventory.workstreams if tree.row.is_scratch):
            for session, usage in tree.sessions.items():
                size = self.size(usage)
                yield ScopeUsage(f"session:{session}", tree.row.title, size, self.config.session_limit_bytes, usage.complete)

    def pressure(self, scope: ScopeUsage) -> Level:
        """Emits the pressure of a scope, if there is any, and answers its level."""
        level = level_of(scope, self.config.maintenance.pressure.critical_ratio)
        if level is not Level.OK:
            log.info("%s: %s uses %s of %s", level, scope.scope, decimal(scope.usage_bytes), decimal(scope.limit_bytes))
            self.surroundings.emit(self._pressure_event(scope, level))
        return level

    def usage_event(self, tree: WorkstreamTree) -> WorkstreamUsage:
        """What one workstream uses, as an event."""
        total = tree.total
        limit = self.limit(tree.row)
        return WorkstreamUsage(
            timestamp=self.surroundings.timestamp(),
            host=self.surroundings.host,
            dry_run=self.config.dry_run,
            workstream_id=tree.row.id,
            workstream_name=tree.row.title,
            is_scratch=tree.row.is_scratch,
            production_bytes=self.size(tree.production),
            work_bytes=self.size(tree.work),
            total_bytes=self.size(total),
            limit_bytes=limit,
            percent=percent_of(self.size(total), limit),
            other_bytes=self.size(tree.other),
            allocated_bytes=total.allocated_bytes,
            files=total.files,
            sessions=len(tree.sessions) if tree.row.is_scratch else tree.row.sessions,
            complete=total.complete,
        )

    def _pressure_event(self, scope: ScopeUsage, level: Level) -> DiskPressure:
        return DiskPressure(
            timestamp=self.surroundings.timestamp(),
            host=self.surroundings.host,
            dry_run=self.config.dry_run,
            level=level,
            scope=scope.scope,
            usage_mb=megabytes(scope.usage_bytes),
            limit_mb=megabytes(scope.limit_bytes),
            workstream_id=scope.scope,
            workstream_name=scope.name,
            usage_bytes=scope.usage_bytes,
            limit_bytes=scope.limit_bytes,
            percent=percent_of(scope.usage_bytes, scope.limit_bytes),
            complete=scope.complete,
            reclaimable_bytes=None,
            forecast_days=None,
        )
