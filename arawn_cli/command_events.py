"""Define the events of `schedule`, `doctor` and `config`, and the values of their keys."""

from __future__ import annotations

from enum import StrEnum

from arawn_cli.events import Event, JobName, doc, event


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


class Status(StrEnum):
    """The result of one check of `doctor`. With `fail` a job does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


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
