"""The tables of the configuration file: every key with its type, range, default and unit.

`[paths]` and `[workstream]` are Arawn's own, with Arawn's meaning; `[maintenance]` is this tool's.
A key that these tables do not know is an error, because a typo must never quietly
mean the default of a deletion threshold. `[workstream]` alone may hold more: the rest of it is Arawn's.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator

from arawn_cli import addresses

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
        addresses.parse(value)
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
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UsageLimits(_Table):
    """`[paths.usage]`: warning limits, in the binary units that Arawn counts in."""

    total_warning_gb: Amount = 10.0
    workstream_warning_gb: Amount = 1.0
    session_warning_mb: Amount = 200.0


class CleanupDefaults(_Table):
    """`[paths.cleanup]`."""

    scratch_cleanup_days: Days = 7
    dry_run: bool = False


class Paths(_Table):
    """`[paths]`."""

    base_path: Annotated[str, Field(min_length=1)] | None = None
    usage: UsageLimits = UsageLimits()
    cleanup: CleanupDefaults = CleanupDefaults()


class WorkstreamStore(_Table):
    """`[workstream]`: where Arawn keeps its database and its tree."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    database: Annotated[str, Field(min_length=1)] | None = None
    data_dir: Annotated[str, Field(min_length=1)] | None = None


class Cleanup(_Table):
    """`[maintenance.cleanup]`."""

    protect: tuple[str, ...] = Field(default=(), strict=False)
    trash_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    max_sessions: Annotated[int, Field(ge=0)] = 0
    max_percent: Annotated[int, Field(ge=1, le=100)] = 100


class Pressure(_Table):
    """`[maintenance.pressure]`."""

    measure: Literal["apparent", "allocated"] = "apparent"
    critical_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    filesystem_warning_percent: Percent = 85
    filesystem_critical_percent: Percent = 95
    inode_warning_percent: Percent = 85
    inode_critical_percent: Percent = 95
    recover_percent: Annotated[int, Field(ge=0, le=99)] = 5
    for_checks: Annotated[int, Field(ge=1)] = 1
    repeat_interval: Duration = "0s"
    remeasure_hours: Annotated[int, Field(ge=0)] = 0
    limits: dict[str, Size] = {}

    @model_validator(mode="after")
    def _critical_is_not_below_warning(self) -> Self:
        for kind in ("filesystem", "inode"):
            if getattr(self, f"{kind}_critical_percent") < getattr(self, f"{kind}_warning_percent"):
                raise ValueError(f"{kind}_critical_percent at or above {kind}_warning_percent")
        return self


class Relay(_Table):
    """`[maintenance.relay]`."""

    url: Annotated[str, AfterValidator(_relay_url)] = ""
    token_file: FilePath = ""
    ca_file: FilePath = ""
    origin: Annotated[str, Field(pattern=r"^[!-~]*$")] = ""
    allow_insecure: bool = False
    timeout_secs: Seconds = 5.0
    deadline_secs: Seconds = 30.0
    events: tuple[Literal["disk_pressure", "workstream_usage", "disk_check", "scratch_session", "scratch_cleanup"], ...] = Field(
        default=("disk_pressure",), strict=False
    )
    outbox_max_events: Annotated[int, Field(ge=1)] = 10_000


class Schedule(_Table):
    """`[maintenance.schedule]`."""

    scratch_cleanup: Interval = "daily"
    disk_check: Interval = "5m"


class NamedRoot(_Table):
    """One of `[[maintenance.roots]]`: a root, and what of the other tables is different for it; see `config_roots`.

    The name becomes part of the names of units, files and directories.
    """

    name: Annotated[str, Field(pattern=ROOT_NAME, max_length=64)]
    path: FixedPath
    database: FixedPath | None = None
    scratch_cleanup_days: Days | None = None
    total_warning_gb: Amount | None = None
    workstream_warning_gb: Amount | None = None
    session_warning_mb: Amount | None = None
    limits: dict[str, Size] = {}
    protect: tuple[str, ...] = Field(default=(), strict=False)


class Metrics(_Table):
    """`[maintenance.metrics]`."""

    textfile_dir: str = ""


class Maintenance(_Table):
    """`[maintenance]`."""

    state_dir: str = ""
    nice: Annotated[int, Field(ge=-20, le=19)] = 10
    io_class: Literal["idle", "best-effort", "none"] = "idle"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    cleanup: Cleanup = Cleanup()
    pressure: Pressure = Pressure()
    relay: Relay = Relay()
    schedule: Schedule = Schedule()
    roots: tuple[NamedRoot, ...] = Field(default=(), strict=False)
    metrics: Metrics = Metrics()


class ConfigFile(BaseModel):
    """A whole configuration file; tables that are not named here belong to Arawn."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    paths: Paths = Paths()
    workstream: WorkstreamStore = WorkstreamStore()
    maintenance: Maintenance = Maintenance()
