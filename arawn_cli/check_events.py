"""The events of a disk check, from what was measured and judged."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.config import Config
from arawn_cli.disk_events import DiskCheck, DiskPressure, ForeignEntry, WorkstreamUsage
from arawn_cli.events import Level, megabytes, percent_of, report_failure
from arawn_cli.inspection import Inspection
from arawn_cli.inventory import WorkstreamTree
from arawn_cli.pressure import TOTAL, Verdict
from arawn_cli.scopes import limit_of, size_in
from arawn_cli.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class CheckEvents:
    """Makes the events of one check."""

    config: Config
    surroundings: Surroundings

    def usage(self, tree: WorkstreamTree, forecast_days: int | None) -> WorkstreamUsage:
        """What one workstream uses."""
        total = tree.total
        limit = limit_of(self.config, tree.row)
        production, work, other, everything = (size_in(self.config, part) for part in (tree.production, tree.work, tree.other, total))
        return WorkstreamUsage(
            timestamp=self.surroundings.timestamp(),
            host=self.surroundings.host,
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
            timestamp=self.surroundings.timestamp(),
            host=self.surroundings.host,
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

    def summary(self, inspection: Inspection, level: Level, pressure_events: int, forecast_days: int | None, duration_ms: int) -> DiskCheck:
        """The whole check; `forecast_days` is that of the total."""
        total = next(scope for scope in inspection.scopes if scope.scope == TOTAL)
        foreign = inspection.inventory.foreign
        return DiskCheck(
            timestamp=self.surroundings.timestamp(),
            host=self.surroundings.host,
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
