"""Events: one JSON object per line, pinned keys, times in RFC 3339 UTC.

The string below a field documents it; the docs and the schema repeat it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from uuid import uuid4

from arawn_cli import timestamps
from arawn_cli.errors import Failure
from arawn_cli.names import escape


class Unit(StrEnum):
    """What the usage of a scope counts."""

    BYTES = "bytes"
    INODES = "inodes"


class JobName(StrEnum):
    """A job that a scheduler runs, by the name of its command."""

    SCRATCH_CLEANUP = "scratch-cleanup"
    DISK_CHECK = "disk-check"


class TrashAction(StrEnum):
    """What is told of an entry of the trash."""

    LISTED = "listed"
    RESTORED = "restored"
    PURGED = "purged"
    WOULD_PURGE = "would_purge"
    BEING_PURGED = "being_purged"
    FAILED = "failed"


class Status(StrEnum):
    """How a check came out; only `fail` keeps a job from being done."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class RunResult(StrEnum):
    """How the last run of a scheduled job ended."""

    SUCCESS = "success"
    FAILED = "failed"
    LOCKED = "locked"


class Condition(StrEnum):
    """What is found where a file of the tool's belongs."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"
    EDITED = "edited"
    FOREIGN = "foreign"

    @property
    def is_ours(self) -> bool:
        """Whether the tool wrote all of it, so that nothing of anybody's is lost with it."""
        return self in (Condition.CURRENT, Condition.OUTDATED)


class Reason(StrEnum):
    """Why a session goes or stays."""

    ACTIVE = "active"
    RECENT_FILES = "recent_files"
    PROTECTED = "protected"
    LOCKED = "locked"
    IN_USE = "in_use"
    MOUNT_INSIDE = "mount_inside"
    NOT_A_DIRECTORY = "not_a_directory"
    FOREIGN_NAME = "foreign_name"
    ACTIVITY_UNKNOWN = "activity_unknown"
    FUTURE_TIMESTAMP = "future_timestamp"
    CHANGED_SINCE_PLAN = "changed_since_plan"
    REMOVAL_LIMIT = "removal_limit"
    EXPIRED = "expired"
    IO_ERROR = "io_error"


NO_SESSION = frozenset({Reason.FOREIGN_NAME, Reason.NOT_A_DIRECTORY})
"""The reasons for entries beside the sessions that are not sessions."""

IN_RECENT_USE = frozenset({Reason.ACTIVE, Reason.RECENT_FILES})
"""The reasons for sessions that are simply not old enough."""


class Action(StrEnum):
    """What was done with a session."""

    DELETED = "deleted"
    WOULD_DELETE = "would_delete"
    KEPT = "kept"
    FAILED = "failed"


PERCENT_MAX = 255


class Level(StrEnum):
    """How full a scope is. `unknown` is for a whole check: nothing is above its limit, but not all could be read."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields that every event has."""

    type: str
    """the kind of event"""
    id: str = field(default_factory=lambda: str(uuid4()))
    """a random UUID; an event that is sent to a relay again keeps it"""
    timestamp: str
    """when the event was made"""
    host: str
    """name of the machine, as hostname(1) prints it"""
    root: str | None
    """name of the one of `[[maintenance.roots]]` that it is about; null for the main root"""
    dry_run: bool
    """whether the run was to change nothing: what is told as done is then what it would have done"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """A system call that failed, and the rest went on."""

    session_id: str | None
    """the session that it concerns; null where it concerns none, or several"""
    operation: str
    """the system call, or `sqlite3` for the database"""
    path: str
    """what it was called on, relative to the root; what does not print is escaped as `\\xNN`"""
    errno: int
    """the number of the error, as in errno(3)"""
    message: str
    """the error in words"""


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
    return None if instant is None else timestamps.render(instant)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchSessionEvent(Event):
    """One scratch session, and what a cleanup did with it."""

    type: str = "scratch_session"
    session_id: str
    """its id, that is the name of its directory; what does not print is escaped as `\\xNN`"""
    action: Action
    """what was done: `kept` leaves it in place, for the reason given"""
    reason: Reason
    """why it went or stayed; the README has them all"""
    last_turn: str | None
    """when its last message was written; null where none since the cutoff, or shortly before it, was found"""
    last_activity: str | None
    """the newest of its last turn, its row in the database and the files in it, as far as they were looked at; null where none was
    found"""
    bytes: int | None
    """apparent bytes of its files; null where it did not have to be measured"""
    files: int | None
    """regular files in it, each inode once; null where it did not have to be measured"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashEntryEvent(Event):
    """A removed session in the trash, and what became of it."""

    type: str = "trash_entry"
    session_id: str
    """the id that it had; one that is too long for the trash is cut, and ends with `+`"""
    action: TrashAction
    """what was done; `being_purged` is taken apart in part, and finished by the next cleanup"""
    removed_at: str
    """when it was removed, to the second"""
    held: bool
    """whether an interrupted run had only begun to remove it: the next cleanup puts it back and judges it anew"""
    bytes: int
    """apparent bytes of its files; after `purge`, those that the filesystem got back"""
    files: int
    """regular files in it, each inode once"""
    path: str
    """where it lies or lay in the trash, relative to the root"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchCleanup(Event):
    """The end of a cleanup."""

    type: str = "scratch_cleanup"
    sessions_checked: int
    """sessions that were looked at: `sessions_cleaned`, all of `sessions_kept`, and those that failed"""
    sessions_cleaned: int
    """sessions that were removed, or in a dry run would be"""
    bytes_reclaimed: int
    """apparent bytes that the filesystem got back, or in a dry run would, leftovers of earlier runs included; what waits in the trash
    is not among them"""
    cleaned_session_ids: tuple[str, ...]
    """ids of the sessions that `sessions_cleaned` counts"""
    sessions_kept: dict[str, int]
    """how many sessions stayed, by reason"""
    failures: tuple[FailureReport, ...]
    """what could not be read or removed"""
    trash_bytes: int
    """apparent bytes of removed sessions that wait in the trash when the run ends"""
    duration_ms: int
    """milliseconds that the run took"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus(Event):
    """How one job is scheduled."""

    type: str = "schedule_status"
    job: JobName
    """the job, by the name of its command"""
    scheduler: str
    """what starts it: `systemd`, `cron` or `cloacina`"""
    scope: str
    """whose timers: `system` or `user`; with Cloacina the database, `sqlite` or `postgresql`"""
    installed: Condition
    """what is found where its files belong: `outdated` is the tool's and not what the configuration says now, `edited` was changed by
    hand, `foreign` is somebody else's"""
    enabled: bool
    """whether the scheduler will start it"""
    next_run: str | None
    """when it is due next; null if it is not, or that is not known"""
    last_run: str | None
    """when it last ran; null if it never did, or that is not known"""
    result: RunResult | None
    """how that run ended; null if not known"""
    problems: tuple[str, ...]
    """what keeps it from doing its work, each in one sentence that ends with what to do"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCheck(Event):
    """One finding of `doctor`."""

    type: str = "doctor_check"
    check: str
    """what was looked at"""
    status: Status
    """how it is"""
    detail: str
    """what was found, in one sentence"""
    fix: str | None
    """what to do: a command for a shell, or a line that begins with `#` where no command does it; null when it is `ok`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting(Event):
    """One value of the effective configuration."""

    type: str = "effective_setting"
    key: str
    """the key with its tables, joined by dots"""
    value: str
    """the value as JSON text, without the password of a URL"""
    source: str
    """where it comes from: an option, `$` and a variable, the path of the file (for what a root has of its own with the key there), or
    `default`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSummary(Event):
    """The end of `doctor`."""

    type: str = "doctor"
    ok: int
    """findings that are `ok`"""
    warn: int
    """findings that are `warn`"""
    fail: int
    """findings that are `fail`"""
