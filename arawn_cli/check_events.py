"""Define the events of `disk-check`."""

from __future__ import annotations

from arawn_cli.events import Event, FailureReport, Filesystem, Level, Unit, doc, event, part


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
