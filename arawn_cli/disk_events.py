"""The events of `disk-check`.

`disk_pressure` carries the fields of both of Arawn's message types, the server's and the terminal client's, which read it with
extra fields ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.events import Event, FailureReport, Level
from arawn_cli.vocabulary import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPressure(Event):
    """A scope is above its limit, or back below it."""

    type: str = "disk_pressure"
    level: Level
    """the level that the scope is at now: `ok` once it is over, never `unknown`"""
    scope: str
    """what is watched: `total`, `filesystem`, `inodes`, the id of a workstream (behind `workstream:` if it is one of these words), or
    `session:` and the id of a scratch session"""
    usage_mb: int
    """`usage_bytes` in millions, rounded down"""
    limit_mb: int
    """`limit_bytes` in millions, rounded down"""
    workstream_id: str
    """the same as `scope`, under the name that Arawn's client reads"""
    workstream_name: str
    """the scope for people: a workstream's title (for a session that of scratch), a mount point, or `all workstreams`"""
    usage_bytes: int
    """what the scope uses, in `unit`: bytes in the configured `measure` of trees, or inodes"""
    limit_bytes: int
    """the limit above which the level is `warning`, in `unit`"""
    percent: int
    """usage in percent of that limit, rounded down, and never more than 255"""
    unit: Unit
    """what the fields named after bytes count: `inodes` for the scope of that name, else `bytes`"""
    complete: bool
    """whether all of the scope could be read; if not, its usage is a lower bound"""
    reclaimable_bytes: int | None
    """bytes that a cleanup now would give back, with all of the trash; null for a scope that a cleanup does not help, or where it is
    not known"""
    forecast_days: int | None
    """days until the scope is at its next limit (that of a warning, or above it the critical one) at the growth rate of the last week;
    null where that is unknown, without a trend, more than a year off, or already exceeded"""
    sample_age_secs: int
    """age in seconds of the oldest measurement in it; 0 where all was measured in this check"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkstreamUsage(Event):
    """What one workstream uses."""

    type: str = "workstream_usage"
    workstream_id: str
    """its id in Arawn's database, or the name of its directory"""
    workstream_name: str
    """its title in Arawn's database, or the id where it has none there"""
    is_scratch: bool
    """whether it is the workstream of sessions that have none"""
    production_bytes: int
    """bytes of `production/`, in the configured `measure`"""
    work_bytes: int
    """bytes of `work/` and `sessions/` together, in the configured `measure`"""
    total_bytes: int
    """bytes of all of it, in the configured `measure`, a file linked from several areas counted once"""
    limit_bytes: int
    """bytes above which it is at `warning`"""
    percent: int
    """`total_bytes` in percent of that limit, rounded down, and never more than 255"""
    other_bytes: int
    """bytes of the rest, messages and trash among it, in the configured `measure`"""
    allocated_bytes: int
    """bytes of the blocks that all of it takes on the disk, directories included"""
    largest_file_bytes: int
    """apparent size in bytes of its largest file, 0 without one; where that comes near the total, one file fills the workstream"""
    files: int
    """regular files, each inode once"""
    sessions: int
    """of scratch the session directories, of any other workstream its sessions in the database"""
    complete: bool
    """whether all of it could be read; if not, sizes and counts are lower bounds"""
    forecast_days: int | None
    """days until it is at its next limit, as in `disk_pressure`; null for the same reasons"""
    sample_age_secs: int
    """age in seconds of the oldest measurement in it; 0 where all was measured in this check"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """The filesystem that holds the root, as an ordinary user sees it: blocks kept for root are not free."""

    mountpoint: str
    """where it is mounted; what does not print is escaped as `\\xNN`"""
    total_bytes: int
    """its size in bytes"""
    used_bytes: int
    """bytes that are used"""
    free_bytes: int
    """bytes that an ordinary user can still use"""
    total_inodes: int
    """its inodes; 0 where it does not count them"""
    used_inodes: int
    """inodes that are used"""
    free_inodes: int
    """inodes that an ordinary user can still use"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEntry:
    """Something under `workstreams/` that is not Arawn's; it counts in the total."""

    name: str
    """its name; what does not print is escaped as `\\xNN`"""
    bytes: int
    """bytes that it uses, in the configured `measure`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCheck(Event):
    """The end of a disk check."""

    type: str = "disk_check"
    level: Level
    """the worst level of all scopes; `unknown` where none is above its limit and not everything could be read"""
    total_usage_bytes: int
    """bytes of all workstreams together and of what else is beside them, in the configured `measure`"""
    limit_bytes: int
    """bytes above which the total is at `warning`"""
    percent: int
    """`total_usage_bytes` in percent of that limit, rounded down, and never more than 255"""
    workstreams: int
    """workstreams that were found, in the database or on disk"""
    pressure_events: int
    """`disk_pressure` events of this check"""
    filesystem: Filesystem
    """the filesystem that holds the root"""
    trash_bytes: int
    """bytes of removed sessions that wait in the trash, in the configured `measure`; they count in the total too"""
    sample_age_secs: int
    """age in seconds of the oldest measurement in the total; 0 where all was measured in this check"""
    complete: bool
    """whether everything could be read"""
    duration_ms: int
    """milliseconds that the check took"""
    forecast_days: int | None
    """days until the total is at its next limit, as in `disk_pressure`; null for the same reasons"""
    foreign: tuple[ForeignEntry, ...]
    """what lies under `workstreams/` and is not Arawn's"""
    failures: tuple[FailureReport, ...]
    """what could not be read"""
