"""The events of `schedule status`, `doctor` and `config show`."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.events import Event
from arawn_cli.vocabulary import Condition, JobName, RunResult, Status


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
    mend: str | None
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
