"""The tables of the configuration file: every key with its type, range and default, and in the line below it its meaning with the unit.

The lines are for people and for `reference.meanings`, which reads them from this source: to a run they cost nothing.

`[paths]` and `[workstream]` are Arawn's own, with Arawn's meaning; `[maintenance]` is this tool's.
A key that these tables do not know is an error, because a typo must never quietly
mean the default of a deletion threshold. `[workstream]` alone may hold more: the rest of it is Arawn's.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator

from arawn_cli.config import relay_url

ROOT_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"


MIB = 1024**2


GIB = 1024**3


_DURATION = re.compile(r"(\d+)(s|m|h|d)", re.ASCII)


_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


_CALENDAR_WORDS = ("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "semiannually", "yearly", "annually")


def seconds_of(duration: str) -> int:
    """Whole seconds of a duration such as `90s`, `5m`, `24h` or `7d`.

    Raises:
        ValueError: the text is no such duration.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError("a duration such as 90s, 5m, 24h or 7d")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _duration(value: str) -> str:
    seconds_of(value)
    return value


def _interval(value: str) -> str:
    if value in _CALENDAR_WORDS:
        return value
    try:
        positive = seconds_of(value) > 0
    except ValueError:
        positive = False
    if not positive:
        raise ValueError(f"a duration such as 5m or 24h, or one of {', '.join(_CALENDAR_WORDS)}")
    return value


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or (isinstance(value, int) and value > _SIZE_MAX):
        raise ValueError('a size such as "5GiB", or a number of bytes')
    return value


def _positive_size(value: ByteSize) -> ByteSize:
    if not 0 < value < _SIZE_MAX:
        raise ValueError("a size above zero and below 8EiB")
    return value


def _relay_url(value: str) -> str:
    if value:
        relay_url.parse(value)
    return value


def _fixed_path(value: str) -> str:
    if not value.startswith(("/", "~")):
        raise ValueError("an absolute path, or one that begins with ~")
    return value


Duration = Annotated[str, AfterValidator(_duration), Field(json_schema_extra={"pattern": f"^(?:{_DURATION.pattern})$"})]


FilePath = Annotated[str, Field(pattern=r"^[^\x00]*$")]


FixedPath = Annotated[FilePath, AfterValidator(_fixed_path)]


Interval = Annotated[
    str,
    AfterValidator(_interval),
    Field(json_schema_extra={"pattern": f"^(?:{'|'.join(_CALENDAR_WORDS)}|0*[1-9]{_DURATION.pattern.replace('+', '*')})$"}),
]


Size = Annotated[ByteSize, BeforeValidator(_size), AfterValidator(_positive_size)]


Percent = Annotated[int, Field(ge=1, le=100)]


Amount = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


Seconds = Annotated[float, Field(gt=0, le=3600)]


Days = Annotated[int, Field(ge=1, le=36_500)]


_SIZE_MAX = 2**63


class _Table(BaseModel):
    # The validator of the whole file holds those of its tables: building each by itself too would double what a start pays.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class UsageLimits(_Table):
    """`[paths.usage]`: warning limits, in the binary units that Arawn counts in."""

    total_warning_gb: Amount = 10.0
    """GiB that all workstreams together may use"""
    workstream_warning_gb: Amount = 1.0
    """GiB that one workstream may use"""
    session_warning_mb: Amount = 200.0
    """MiB that one scratch session may use"""


class CleanupDefaults(_Table):
    """`[paths.cleanup]`."""

    scratch_cleanup_days: Days = 7
    """age in days from which a scratch session is inactive, 1 or more"""
    dry_run: bool = False
    """scratch-cleanup changes nothing and says what it would do"""


class Paths(_Table):
    """`[paths]`."""

    base_path: Annotated[str, Field(min_length=1)] | None = None
    """Arawn's root; else [workstream] data_dir, else ~/.arawn or workstreams/ beside this file"""
    usage: UsageLimits = UsageLimits.model_construct()
    cleanup: CleanupDefaults = CleanupDefaults.model_construct()


class WorkstreamStore(_Table):
    """`[workstream]`: where Arawn keeps its database and its tree."""

    model_config = ConfigDict(extra="ignore")

    database: Annotated[str, Field(min_length=1)] | None = None
    """Arawn's database, relative to the folder of this file; else workstreams.db in the root, if it exists"""
    data_dir: Annotated[str, Field(min_length=1)] | None = None
    """Arawn's root, relative to the folder of this file, where paths.base_path is not set"""


class Cleanup(_Table):
    """`[maintenance.cleanup]`."""

    protect: tuple[str, ...] = Field(default=(), strict=False)
    """shell patterns of session ids that are never removed"""
    trash_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """days that a removed session stays in the trash; 0 frees its space at once"""
    max_sessions: Annotated[int, Field(ge=0)] = 0
    """most sessions that one run may remove; if there are more, it removes none without --force; 0 is no limit"""
    max_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """the same, as a percentage of all scratch sessions"""


class Pressure(_Table):
    """`[maintenance.pressure]`."""

    measure: Literal["apparent", "allocated"] = "apparent"
    """apparent size, as Arawn counts, or allocated blocks"""
    critical_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """critical above this many times the limit"""
    filesystem_warning_percent: Percent = 85
    """warning above this percentage of the space that an ordinary user has"""
    filesystem_critical_percent: Percent = 95
    """critical above this percentage of it"""
    inode_warning_percent: Percent = 85
    """warning above this percentage of the inodes that an ordinary user has"""
    inode_critical_percent: Percent = 95
    """critical above this percentage of them"""
    recover_percent: Annotated[int, Field(ge=0, le=99)] = 5
    """a level ends only once usage is this many percent below its limit"""
    for_checks: Annotated[int, Field(ge=1)] = 1
    """checks in a row that must be above a limit before its level is raised"""
    repeat_interval: Duration = "0s"
    """time before an unchanged level is reported again, such as 6h; 0s reports it at every check"""
    remeasure_hours: Annotated[int, Field(ge=0)] = 0
    """hours for which disk-check may take the size of an unused session from an earlier check"""
    limits: dict[str, Size] = {}
    """warning limit of a workstream, by id or title"""

    @model_validator(mode="after")
    def _critical_is_not_below_warning(self) -> Self:
        for kind in ("filesystem", "inode"):
            if getattr(self, f"{kind}_critical_percent") < getattr(self, f"{kind}_warning_percent"):
                raise ValueError(f"{kind}_critical_percent at or above {kind}_warning_percent")
        return self


class Relay(_Table):
    """`[maintenance.relay]`."""

    url: Annotated[str, AfterValidator(_relay_url)] = ""
    """relay that gets the events: http(s) as POST requests, ws(s) as text frames; empty sends none"""
    token_file: FilePath = ""
    """file of mode 600 with the relay's token; else LoadCredential=relay-token:… or $ARAWN_RELAY_TOKEN"""
    ca_file: FilePath = ""
    """PEM file of certificate authorities that the relay is checked against, instead of the system's"""
    origin: Annotated[str, Field(pattern=r"^[!-~]*$")] = ""
    """Origin header of a ws(s) connection"""
    allow_insecure: bool = False
    """lets a token go over plain http or ws to another host"""
    timeout_secs: Seconds = 5.0
    """seconds that one attempt may take"""
    deadline_secs: Seconds = 30.0
    """seconds that all attempts of one run may take"""
    events: tuple[Literal["disk_pressure", "workstream_usage", "disk_check", "scratch_session", "scratch_cleanup"], ...] = Field(
        default=("disk_pressure",), strict=False
    )
    """types of events that the relay gets"""
    outbox_max_events: Annotated[int, Field(ge=1)] = 10_000
    """most events that wait for the relay; beyond it repeats of an unchanged level are dropped first, changes of level last"""


class Schedule(_Table):
    """`[maintenance.schedule]`."""

    scratch_cleanup: Interval = "daily"
    """how often scratch-cleanup runs: a duration such as 24h, or a calendar word such as weekly"""
    disk_check: Interval = "5m"
    """how often disk-check runs"""


class NamedRoot(_Table):
    """One of `[[maintenance.roots]]`: a root, and what of the other tables is different for it; see `config_roots`.

    The name becomes part of the names of units, files and directories.
    """

    name: Annotated[str, Field(pattern=ROOT_NAME, max_length=64)]
    """ASCII letters, digits, - and _, no - at the start, at most 64"""
    path: FixedPath
    """the root: an absolute path, or one that begins with ~"""
    database: FixedPath | None = None
    """its database: an absolute path, or one that begins with ~; else workstreams.db in the root, if it exists"""
    scratch_cleanup_days: Days | None = None
    """replaces paths.cleanup.scratch_cleanup_days"""
    total_warning_gb: Amount | None = None
    """replaces paths.usage.total_warning_gb"""
    workstream_warning_gb: Amount | None = None
    """replaces paths.usage.workstream_warning_gb"""
    session_warning_mb: Amount | None = None
    """replaces paths.usage.session_warning_mb"""
    limits: dict[str, Size] = {}
    """added to maintenance.pressure.limits, and wins for the same workstream"""
    protect: tuple[str, ...] = Field(default=(), strict=False)
    """added to maintenance.cleanup.protect"""


class Metrics(_Table):
    """`[maintenance.metrics]`."""

    textfile_dir: str = ""
    """folder of node_exporter's textfile collector; empty writes no metrics"""


class Maintenance(_Table):
    """`[maintenance]`."""

    state_dir: str = ""
    """where levels, history and outbox are kept; else $STATE_DIRECTORY, else ~/.local/state/arawn-cli"""
    nice: Annotated[int, Field(ge=-20, le=19)] = 10
    """niceness that the tool gives itself, if it is not higher already: -20 to 19"""
    io_class: Literal["idle", "best-effort", "none"] = "idle"
    """disk priority: idle, best-effort, or none to leave it"""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """threads that measure and remove; 0 is four for each processor, 16 at most, as most wait for the disk"""
    cleanup: Cleanup = Cleanup.model_construct()
    pressure: Pressure = Pressure.model_construct()
    relay: Relay = Relay.model_construct()
    schedule: Schedule = Schedule.model_construct()
    roots: tuple[NamedRoot, ...] = Field(default=(), strict=False)
    """more roots than the main one, each with a name"""
    metrics: Metrics = Metrics.model_construct()


class ConfigFile(_Table):
    """A whole configuration file; tables that are not named here belong to Arawn."""

    model_config = ConfigDict(extra="ignore")

    paths: Paths = Paths.model_construct()
    workstream: WorkstreamStore = WorkstreamStore.model_construct()
    maintenance: Maintenance = Maintenance.model_construct()
