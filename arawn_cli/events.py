"""The events that leave the tool: one JSON object a line, keys pinned, times RFC 3339 UTC.

`disk_pressure` carries the fields of both of Arawn's message types, the server's and
the terminal client's, which read it with extra fields ignored. Sizes are whole
bytes; `*_mb` are millions of bytes, rounded down; a percentage fits in one byte.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from uuid import uuid4

from arawn_cli import instants
from arawn_cli.model import Action, Failure, Reason
from arawn_cli.names import escape
from arawn_cli.vocabulary import Condition, Status, TrashAction, Unit

PERCENT_MAX = 255


class Level(StrEnum):
    """How full a scope is. `unknown` is for a whole check: nothing is above its limit, but not all could be read."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields that every event has; `id` is a random UUID, `root` the name of one of several roots, null for the main one."""

    type: str
    id: str = field(default_factory=lambda: str(uuid4()))
    timestamp: str
    host: str
    root: str | None
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPressure(Event):
    """A scope is above its limit, or back below it.

    `unit` is `bytes`, or `inodes` for the scope that counts them: then the fields named after bytes hold inodes.
    `reclaimable_bytes` is what a cleanup now would remove, plus the trash, where that helps and is known.
    `forecast_days` is the number of days until the next limit (that of a warning, or above it the critical one) at the
    growth rate of the last week; null when that is unknown, without a trend, more than a year off, or already exceeded.
    """

    type: str = "disk_pressure"
    level: Level
    scope: str
    usage_mb: int
    limit_mb: int
    workstream_id: str
    workstream_name: str
    usage_bytes: int
    limit_bytes: int
    percent: int
    unit: Unit
    complete: bool
    reclaimable_bytes: int | None
    forecast_days: int | None
    sample_age_secs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkstreamUsage(Event):
    """What one workstream uses. `work_bytes` is `work/` and `sessions/` together; `sessions` counts session directories.

    `largest_file_bytes` is the apparent size of its largest file: where that comes near the total, one file fills it.
    """

    type: str = "workstream_usage"
    workstream_id: str
    workstream_name: str
    is_scratch: bool
    production_bytes: int
    work_bytes: int
    total_bytes: int
    limit_bytes: int
    percent: int
    other_bytes: int
    allocated_bytes: int
    largest_file_bytes: int
    files: int
    sessions: int
    complete: bool
    forecast_days: int | None
    sample_age_secs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """The filesystem that holds the root, as an ordinary user sees it: blocks kept for root are not free."""

    mountpoint: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    total_inodes: int
    used_inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEntry:
    """Something under `workstreams/` that is not Arawn's; it counts in the total."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """A system call that failed; `session_id` is null where it concerns no session."""

    session_id: str | None
    operation: str
    path: str
    errno: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskCheck(Event):
    """The end of a disk check. `level` is the worst of all scopes; limit, percentage and forecast are those of the total."""

    type: str = "disk_check"
    level: Level
    total_usage_bytes: int
    limit_bytes: int
    percent: int
    workstreams: int
    pressure_events: int
    filesystem: Filesystem
    trash_bytes: int
    sample_age_secs: int
    complete: bool
    duration_ms: int
    forecast_days: int | None
    foreign: tuple[ForeignEntry, ...]
    failures: tuple[FailureReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchSessionEvent(Event):
    """One scratch session: `action` is deleted, would_delete, kept, skipped or failed; the README has the reasons.

    `bytes` and `files` are null where the session did not have to be measured.
    `last_turn` is null when no message since the cutoff, or shortly before it, was found.
    """

    type: str = "scratch_session"
    session_id: str
    action: Action
    reason: Reason
    last_turn: str | None
    last_activity: str | None
    bytes: int | None
    files: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashEntryEvent(Event):
    """A removed session in the trash, and what became of it.

    `held` is true for one that an interrupted run had only begun to remove.
    """

    type: str = "trash_entry"
    session_id: str
    action: TrashAction
    removed_at: str
    held: bool
    bytes: int
    files: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchCleanup(Event):
    """The end of a cleanup.

    `sessions_checked` is `sessions_cleaned`, all of `sessions_skipped` and the sessions that failed, together.
    `bytes_reclaimed` is what the filesystem got back, leftovers of earlier runs included.
    """

    type: str = "scratch_cleanup"
    sessions_checked: int
    sessions_cleaned: int
    bytes_reclaimed: int
    cleaned_session_ids: tuple[str, ...]
    sessions_skipped: dict[str, int]
    failures: tuple[FailureReport, ...]
    trash_bytes: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus(Event):
    """How one job is scheduled. `installed` says what is found where its files belong.

    `result` is success, failed, or that another run was at work; null if not known.
    """

    type: str = "schedule_status"
    job: str
    scheduler: str
    scope: str
    installed: Condition
    enabled: bool
    next_run: str | None
    last_run: str | None
    result: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCheck(Event):
    """One finding of `doctor`: `mend` is how to fix it, for a shell, null when it is ok."""

    type: str = "doctor_check"
    check: str
    status: Status
    detail: str
    mend: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting(Event):
    """One value of the effective configuration as JSON text, and its source: an option, a variable, a path or `default`."""

    type: str = "effective_setting"
    key: str
    value: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSummary(Event):
    """The end of `doctor`: how many findings of each kind."""

    type: str = "doctor"
    ok: int
    warn: int
    fail: int


def to_json(event: Event) -> str:
    """The event as one line of JSON, ASCII only."""
    return json.dumps(asdict(event), separators=(",", ":"))


def report_failure(failure: Failure, session: str | None = None) -> FailureReport:
    """A failure as events write it, with the kernel's words for its number."""
    return FailureReport(
        session_id=None if session is None else escape(session),
        operation=failure.operation,
        path=failure.path,
        errno=failure.errno,
        message=failure.detail or os.strerror(failure.errno),
    )


def megabytes(size: int) -> int:
    """Whole millions of bytes, rounded down."""
    return size // 1_000_000


def percent_of(usage: int, limit: int) -> int:
    """Usage as a whole percentage of a limit, rounded down, in the one byte that Arawn's client has for it; a limit below 1 counts as 1."""
    return min(usage * 100 // max(limit, 1), PERCENT_MAX)


def rendered(instant: int | None) -> str | None:
    """An instant as the events write it, or None."""
    return None if instant is None else instants.render(instant)
