"""Define the events that the commands write, and the values that their keys can have.

An event is one JSON object on one line. Times are RFC 3339 in UTC. Tests pin the keys. The docs and
the JSON Schema take the descriptions of the keys from here.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, dataclass_transform
from uuid import uuid4

from arawn_cli import timestamps
from arawn_cli.errors import Failure
from arawn_cli.names import escape


class Level(StrEnum):
    """How full a scope is.

    `unknown` is for a whole check: no scope exceeds its limit, but not everything could be read.
    """

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Unit(StrEnum):
    """What the usage of a scope counts."""

    BYTES = "bytes"
    INODES = "inodes"


class Action(StrEnum):
    """What a cleanup did with a session."""

    DELETED = "deleted"
    TRASHED = "trashed"
    RESTORED = "restored"
    WOULD_DELETE = "would_delete"
    WOULD_TRASH = "would_trash"
    WOULD_RESTORE = "would_restore"
    KEPT = "kept"
    FAILED = "failed"

    @property
    def is_removal(self) -> bool:
        """Whether the session is (in a dry run: would be) deleted or moved to the trash."""
        return self in (Action.DELETED, Action.TRASHED, Action.WOULD_DELETE, Action.WOULD_TRASH)


class Reason(StrEnum):
    """Why a session was removed or kept."""

    ACTIVE = "active"
    RECENT_FILES = "recent_files"
    KEPT_LAST = "kept_last"
    PROTECTED = "protected"
    ATTACHED = "attached"
    LOCKED = "locked"
    IN_USE = "in_use"
    MOUNT_INSIDE = "mount_inside"
    NOT_A_DIRECTORY = "not_a_directory"
    FOREIGN_NAME = "foreign_name"
    ACTIVITY_UNKNOWN = "activity_unknown"
    FUTURE_TIMESTAMP = "future_timestamp"
    NOT_PERMITTED = "not_permitted"
    CANNOT_MOVE = "cannot_move"
    CHANGED_SINCE_PLAN = "changed_since_plan"
    REMOVAL_LIMIT = "removal_limit"
    EXPIRED = "expired"
    OVER_BUDGET = "over_budget"
    IO_ERROR = "io_error"


class ChatResult(StrEnum):
    """What a removal means for the chats of the sessions."""

    KEPT = "kept"
    WITHOUT_FILES = "without_files"
    DELETED = "deleted"


IN_RECENT_USE = frozenset({Reason.ACTIVE, Reason.RECENT_FILES})
"""The reasons of sessions that are not old enough."""

REMOVED_FOR = frozenset({Reason.EXPIRED, Reason.OVER_BUDGET})
"""The reasons of sessions that are due. A removal limit can keep one that is over budget."""

UNRESOLVED = frozenset({Reason.ACTIVITY_UNKNOWN, Reason.NOT_PERMITTED, Reason.CANNOT_MOVE, Reason.IO_ERROR})
"""The reasons of sessions that stay for ever if nobody does anything: the run has exit code 1."""

NO_SESSION = frozenset({Reason.FOREIGN_NAME, Reason.NOT_A_DIRECTORY})
"""The reasons of entries beside the sessions that are not sessions."""


class TrashAction(StrEnum):
    """What happened to an entry of the trash."""

    LISTED = "listed"
    RESTORED = "restored"
    PURGED = "purged"
    WOULD_PURGE = "would_purge"
    BEING_PURGED = "being_purged"
    FAILED = "failed"


class JobName(StrEnum):
    """A job that a scheduler runs, by the name of its command."""

    SCRATCH_CLEANUP = "scratch-cleanup"
    DISK_CHECK = "disk-check"


class RunResult(StrEnum):
    """How the last run of a scheduled job ended."""

    SUCCESS = "success"
    FAILED = "failed"
    LOCKED = "locked"


class Condition(StrEnum):
    """The state of an installed file of this tool."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"
    EDITED = "edited"
    FOREIGN = "foreign"

    @property
    def is_ours(self) -> bool:
        """Whether the tool wrote all of the file, so that it can be replaced or removed."""
        return self in (Condition.CURRENT, Condition.OUTDATED)


class Status(StrEnum):
    """The result of one check of `doctor`. With `fail` a job does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


def doc(description: str, **default: Any) -> Any:  # noqa: ANN401 - mypy checks its uses as those of field()
    """Return a field of a dataclass with a description, which pydantic copies into the schema."""
    return field(metadata={"description": description}, **default)


Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(doc,))
def part(cls: type[Class]) -> type[Class]:
    """Make a dataclass of an object inside events."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(doc,))
def event(cls: type[Class]) -> type[Class]:
    """Make a dataclass of an event, which has its own id and is never compared.

    Without the methods for that, and for printing, a start is 3 ms faster.
    """
    return dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)(cls)


@event
class Event:
    """The keys of every event."""

    type: str = doc("type of the event")
    id: str = doc("a random UUID; an event that is sent to a relay again keeps its id", default_factory=lambda: str(uuid4()))
    timestamp: str = doc("time of the event")
    host: str = doc("name of the machine, as hostname(1) prints it")
    root: str | None = doc("name of the root in `[[maintenance.roots]]`; null for the main root")
    dry_run: bool = doc("whether this was a dry run, in which actions are only what would have been done")


@part
class FailureReport:
    """An operation that failed. The run continued with the rest."""

    session_id: str | None = doc("the session concerned; null for none or several")
    operation: str = doc(
        "what failed: to `open`, `list`, `read`, `rename` or `delete` a file or directory, to `measure` its size and time, to `parse` a "
        "time, to `query` Arawn's database, or to `check` whether a session may be removed"
    )
    path: str = doc("path of the file, relative to the root; bytes that do not print are escaped as `\\xNN`")
    errno: int = doc("number of the error, as in errno(3)")
    message: str = doc("the error in words")


@part
class Filesystem:
    """A filesystem, for an ordinary user: blocks reserved for root are not free."""

    mountpoint: str = doc("where it is mounted; bytes that do not print are escaped as `\\xNN`")
    total_bytes: int = doc("its size in bytes; 0 if it is not known")
    used_bytes: int = doc("bytes that are used")
    free_bytes: int = doc("bytes that an ordinary user can still use")
    total_inodes: int = doc("its inodes; 0 if it has no limit of them, or the number is not known")
    used_inodes: int = doc("inodes that are used")
    free_inodes: int = doc("inodes that an ordinary user can still use")


@part
class ForeignEntry:
    """An entry of `workstreams/` that is not Arawn's. It counts in the total."""

    name: str = doc("its name; bytes that do not print are escaped as `\\xNN`")
    bytes: int = doc("its size in bytes, by the configured `measure`")


@event
class DiskPressure(Event):
    """A scope exceeds its limit, or has fallen below it again."""

    type: str = doc("type of the event", default="disk_pressure")
    level: Level = doc("current level of the scope: `ok` after it has recovered; never `unknown`")
    scope: str = doc(
        "the scope: `total`, `own_files`, `filesystem`, `inodes`, `session:` and the id of a scratch session, or the id of a workstream "
        "(after `workstream:` if the id is one of these words)"
    )
    usage_mb: float = doc("`usage_bytes` in millions, with up to three decimals")
    limit_mb: float = doc("`limit_bytes` in millions, with up to three decimals")
    workstream_id: str = doc(
        "the scope in the key by which Arawn's client tells alerts apart; for a named root after its name and `/`, as in `lab/scratch`"
    )
    workstream_name: str = doc(
        "name of the scope for people, as Arawn's client shows it: the title of a workstream, `Scratch session` and the (shortened) id, "
        "`Filesystem` or `Inodes of` and the mount point, `all workstreams`, or `Arawn's own files`; for a named root it ends with its "
        "name in brackets"
    )
    usage_bytes: int = doc("usage of the scope in `unit`: bytes by the configured `measure`, or inodes")
    limit_bytes: int = doc("limit in `unit`; above it the level is `warning`")
    percent: int = doc("usage in percent of the limit, rounded down, at most 255")
    usage_percent: float | None = doc("usage in percent of the limit, to one decimal and without a maximum; null without a limit")
    unit: Unit = doc("unit of the keys that end in `_bytes`: `inodes` for the scope of that name, else `bytes`")
    complete: bool = doc("whether all of the scope could be read; if not, its usage is a lower bound")
    reclaimable_bytes: int | None = doc(
        "bytes that a cleanup would free now, by deleting sessions and by purging entries of the trash whose time is over; null if "
        "unknown, or if a cleanup does not affect the scope"
    )
    forecast_days: int | None = doc(
        "days until the scope reaches its next limit (warning, or critical above that) at the growth rate of the last week; null if "
        "unknown, not growing, more than a year away, or already exceeded"
    )
    sample_age_secs: int = doc("age in seconds of the oldest measurement in it; 0 if all were made in this check")


@event
class WorkstreamUsage(Event):
    """The disk usage of one workstream."""

    type: str = doc("type of the event", default="workstream_usage")
    workstream_id: str = doc(
        "the name of its directory: its id in Arawn's database, on Arawn's main branch its name; for a named root after its name and `/`, "
        "as in `disk_pressure`"
    )
    workstream_name: str = doc(
        "its title in Arawn's database, on Arawn's main branch its display name; its id if it has no title; for a named root it ends with "
        "its name in brackets"
    )
    is_scratch: bool = doc("whether it is the workstream of the scratch sessions")
    level: Level = doc("its level after this check; `unknown` if its limit is not known, because the database cannot be read")
    production_bytes: int = doc(
        "bytes of `production/`, by the configured `measure`; 0 on Arawn's main branch, which has no such directory"
    )
    work_bytes: int = doc(
        "bytes of `work/` and `sessions/` together, by the configured `measure`; on Arawn's main branch, of the agent's files and the "
        "session directories"
    )
    total_bytes: int = doc("bytes of all of it, by the configured `measure`; a file that is linked from several areas counts once")
    limit_bytes: int = doc("limit in bytes; above it the level is `warning`")
    percent: int = doc("`total_bytes` in percent of the limit, rounded down, at most 255")
    usage_percent: float | None = doc("`total_bytes` in percent of the limit, to one decimal and without a maximum; null without a limit")
    other_bytes: int = doc("bytes of everything else, such as messages, `memory.db` and trash, by the configured `measure`")
    allocated_bytes: int = doc("bytes of the disk blocks of all of it, including directories")
    largest_file_bytes: int = doc("apparent size in bytes of its largest file, 0 if it has none")
    files: int = doc("number of regular files, each inode once")
    sessions: int = doc("for scratch the number of session directories, else of sessions in the database")
    complete: bool = doc("whether all of it could be read; if not, sizes and counts are lower bounds")
    forecast_days: int | None = doc("days until it reaches its next limit, or null, as in `disk_pressure`")
    sample_age_secs: int = doc("age in seconds of the oldest measurement in it; 0 if all were made in this check")


@event
class DiskCheck(Event):
    """The summary of a disk check, its last event."""

    type: str = doc("type of the event", default="disk_check")
    level: Level = doc("worst level of all scopes; `unknown` if none exceeds its limit and not everything could be read")
    total_usage_bytes: int = doc("bytes of everything in `workstreams/`, by the configured `measure`")
    limit_bytes: int = doc("limit of the total in bytes; above it the level is `warning`")
    percent: int = doc("`total_usage_bytes` in percent of the limit, rounded down, at most 255")
    usage_percent: float | None = doc(
        "`total_usage_bytes` in percent of the limit, to one decimal and without a maximum; null without a limit"
    )
    workstreams: int = doc("number of workstreams in the database or on disk")
    pressure_events: int = doc("number of `disk_pressure` events of this check")
    own_files_bytes: int | None = doc(
        "bytes of Arawn's own files, by the configured `measure`: everything in its directory except the workstreams, so they are not in "
        "the total; null if the directory is not known, or not Arawn's alone"
    )
    filesystem: Filesystem = doc("the filesystem of the root")
    mounted: tuple[Filesystem, ...] = doc(
        "other filesystems that are mounted at `workstreams/`, `scratch/` or `sessions/`; each is a scope as well"
    )
    not_counted: tuple[str, ...] = doc(
        "other mounts in the tree by their path below the root; what they hold is neither counted nor removed"
    )
    trash_bytes: int = doc("bytes of removed sessions in the trash, by the configured `measure`; part of the total")
    sample_age_secs: int = doc("age in seconds of the oldest measurement in the total; 0 if all were made in this check")
    complete: bool = doc("whether everything could be read")
    duration_ms: int = doc("duration of the check in milliseconds")
    forecast_days: int | None = doc("days until the total reaches its next limit, or null, as in `disk_pressure`")
    foreign: tuple[ForeignEntry, ...] = doc("entries of `workstreams/` that are not Arawn's: the largest, at most 50")
    foreign_count: int = doc("number of all such entries")
    foreign_bytes: int = doc("bytes of all such entries, by the configured `measure`")
    failures: tuple[FailureReport, ...] = doc("what could not be read, at most 20")
    failure_count: int = doc("number of all failures, also of those that `failures` leaves out")


@event
class ScratchSessionEvent(Event):
    """One scratch session, and what a cleanup did with it."""

    type: str = doc("type of the event", default="scratch_session")
    session_id: str = doc("its id, which is the name of its directory; bytes that do not print are escaped as `\\xNN`")
    action: Action = doc("what was done with it")
    reason: Reason = doc("why it was removed or kept; docs/reasons.md explains each reason")
    detail: str | None = doc("the object behind the reason, such as the newest file, the process, the mount point or the owner; else null")
    last_turn: str | None = doc(
        "time of its last message; null without one, or if no session was due by rows and files, so that no messages were read"
    )
    last_activity: str | None = doc(
        "newest of its last turn, its database row and its files, as far as they were examined; null if none was found"
    )
    bytes: int | None = doc("apparent size of its files in bytes; null if it was not measured")
    files: int | None = doc("number of its regular files, each inode once; null if it was not measured")


@part
class ExpiringSession:
    """A session that a cleanup removes soon if nobody uses it."""

    session_id: str = doc("its id")
    expires: str = doc("when it becomes due: its last activity and the days of the cutoff")


@event
class ScratchCleanup(Event):
    """The summary of a cleanup, its last event."""

    type: str = doc("type of the event", default="scratch_cleanup")
    sessions_checked: int = doc(
        "number of sessions: `sessions_cleaned`, `sessions_restored`, all of `sessions_kept`, and those that failed"
    )
    sessions_cleaned: int = doc("number of sessions that were removed, or in a dry run would be")
    bytes_freed: int = doc(
        "apparent bytes that the filesystem got back, or in a dry run would get: of sessions that are deleted, and of purged entries of "
        "the trash"
    )
    bytes_trashed: int = doc("apparent bytes of the sessions that this run moved to the trash, or in a dry run would move; not freed yet")
    trash_until: str | None = doc("from when a run purges what this run moved to the trash; null if it moved nothing there")
    database_found: bool = doc(
        "whether there is a database of Arawn's; without one, a session counts as attached if one of its turns is in the messages of a "
        "workstream"
    )
    chats: ChatResult = doc(
        "what a removal means for the chat: it is `kept` (keep_chats), it goes on `without_files` and can never write one again (Arawn "
        "0.0), or it is `deleted` with its history (Arawn's main branch)"
    )
    over_budget_bytes: int = doc(
        "bytes by which a budget (`max_total`, `min_free_percent`) is still exceeded, or in a dry run would be; 0 if it is met"
    )
    expiring: tuple[ExpiringSession, ...] | None = doc(
        "sessions that become due within two days, the first ones first, at most 50; null unless `on` in `[maintenance.notify]` has "
        "`expiring`"
    )
    no_sessions: str | None = doc(
        "why there is no directory of scratch sessions (a new server, or an Arawn 0.0 that creates none), else null"
    )
    cleaned_session_ids: tuple[str, ...] = doc("ids of the sessions in `sessions_cleaned`")
    sessions_restored: int = doc(
        "number of sessions that were put back from the trash because their chat goes on, or in a dry run would be"
    )
    sessions_kept: dict[str, int] = doc("number of kept sessions, by reason")
    failures: tuple[FailureReport, ...] = doc("what could not be read or removed, at most 20")
    failure_count: int = doc("number of all failures, also of those that `failures` leaves out")
    trash_bytes: int | None = doc("apparent bytes of removed sessions in the trash at the end of the run; null if a signal ended it")
    duration_ms: int = doc("duration of the run in milliseconds")


@event
class TrashEntryEvent(Event):
    """A removed session in the trash, and what happened to it."""

    type: str = doc("type of the event", default="trash_entry")
    session_id: str = doc("its former id; one that is too long for the trash is cut and ends with `+`")
    action: TrashAction = doc("what was done; the next cleanup completes an entry that is `being_purged`")
    removed_at: str = doc("when it was removed, to the second")
    purged_from: str | None = doc(
        "from when a cleanup purges it; null if the next cleanup puts it back (`held`), or after it was restored or purged"
    )
    held: bool = doc("whether its removal was interrupted: the next cleanup puts it back and decides again")
    purged_at: str | None = doc("when it was deleted for good, for an earlier removal (`trash list --all`); else null")
    reason: str | None = doc("why it was removed, with the detail, as far as that is recorded (`trash list --all`); else null")
    bytes: int = doc("apparent size of its files in bytes; after a purge, bytes that were freed")
    files: int | None = doc("number of its regular files, each inode once; null if it was purged earlier")
    path: str | None = doc("its path in the trash, relative to the root; null if it was purged earlier")


@event
class ScheduleStatus(Event):
    """How one job is scheduled."""

    type: str = doc("type of the event", default="schedule_status")
    job: JobName = doc("the job, by the name of its command")
    scheduler: str = doc("what starts it: `systemd`, `cron` or `cloacina`")
    scope: str = doc("whose timers: `system` or `user`; for Cloacina the kind of database, `sqlite` or `postgresql`")
    installed: Condition = doc(
        "state of its files: `outdated` does not match the configuration, `edited` was changed by hand, `foreign` is another program's"
    )
    enabled: bool = doc("whether the scheduler will start it")
    next_run: str | None = doc("time of the next run; null if there is none, or it is unknown")
    last_run: str | None = doc("time of the last run; null if there was none, or it is unknown")
    result: RunResult | None = doc("how that run ended; null if unknown")
    problems: tuple[str, ...] = doc("what keeps it from working; each sentence ends with what to do")


@event
class DoctorCheck(Event):
    """One finding of `doctor`."""

    type: str = doc("type of the event", default="doctor_check")
    check: str = doc("name of the check")
    status: Status = doc("its result")
    detail: str = doc("what was found, in one sentence")
    fix: str | None = doc("what to do: a shell command, or a line that begins with `#` if there is none; null if `ok`")


@event
class DoctorSummary(Event):
    """The summary of `doctor`, its last event."""

    type: str = doc("type of the event", default="doctor")
    ok: int = doc("number of findings that are `ok`")
    warn: int = doc("number of findings that are `warn`")
    fail: int = doc("number of findings that are `fail`")


@event
class EffectiveSetting(Event):
    """One value of the effective configuration."""

    type: str = doc("type of the event", default="effective_setting")
    key: str = doc("the dotted key")
    value: object = doc("the value, without the password of a URL; a size as it is written in the file")
    source: str = doc(
        "where it comes from: an option, `$` and a variable, the path of the file (and the key, for a named root), or `default`"
    )


def to_json(event: Event) -> str:
    """Return the event as one line of JSON, in ASCII."""
    return json.dumps({name: getattr(event, name) for name in event.__dataclass_fields__}, default=asdict, separators=(",", ":"))


def report_failure(failure: Failure, session: str | None = None) -> FailureReport:
    """Return a failure as it appears in events."""
    return FailureReport(
        session_id=None if session is None else escape(session),
        operation=failure.operation,
        path=failure.path,
        errno=failure.errno,
        message=failure.detail or os.strerror(failure.errno),
    )


def rendered(instant: int | None) -> str | None:
    """Return a time in nanoseconds as RFC 3339 text, or None for None."""
    return None if instant is None else timestamps.render(instant)
