"""Define the keys of the configuration file: type, allowed values, default and description.

`[paths]`, `[workstream]` and `[storage]` are Arawn's tables and mean what they mean to Arawn. They
may have more keys, which Arawn reads. A value of a type that Arawn does not expect makes Arawn drop
the whole file, so these types are checked strictly. `[maintenance]` belongs to this tool. An
unknown key in it is an error, because a misspelt key would silently mean the default.

The descriptions appear in the file that `config init` writes, in the JSON Schema and in the docs.
The serialized tables are for people: sizes as they were written, and addresses to ping, which are
secret, only with their host.
"""

# Without `from __future__ import annotations`, which would make pydantic evaluate the text of each
# annotation at every start.

from collections.abc import Callable, Iterator
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from arawn_cli.config import relay_url
from arawn_cli.names import ID_ALPHABETS, can_match, nearest_pattern
from arawn_cli.units import CALENDAR_WORDS, DURATION_PATTERN, SIZE_PATTERN, WrittenSize, bytes_of, seconds_of

ROOT_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"

_SIZE_MAX = 2**63


def _check_duration(value: str) -> str:
    seconds_of(value)
    return value


def _check_interval(value: str) -> str:
    if value in CALENDAR_WORDS:
        return value
    try:
        is_positive = seconds_of(value) > 0
    except ValueError:
        is_positive = False
    if not is_positive:
        raise ValueError(f"a duration such as 5m or 1h30m, or one of {', '.join(CALENDAR_WORDS)}")
    return value


def _bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else ""
    return WrittenSize(bytes_of(text), text)


def _as_written(size: int) -> int | str:
    return size.text if isinstance(size, WrittenSize) else size


def _size(value: object) -> int:
    number = _bytes(value)
    if not 0 < number < _SIZE_MAX:
        raise ValueError("a size above zero and below 8EiB")
    return number


def _size_or_zero(value: object) -> int:
    number = _bytes(value)
    if not 0 <= number < _SIZE_MAX:
        raise ValueError('a size below 8EiB, or "0" for no limit')
    return number


class _CheckedSize:
    """The schema of a size, built at once: pydantic would inspect each function for each key."""

    def __init__(self, check: Callable[[object], int]) -> None:
        self._check = check

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(_as_written)
        return core_schema.no_info_plain_validator_function(self._check, serialization=written)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "pattern": f"^{SIZE_PATTERN}$"}, {"type": "integer", "minimum": 0}]}


def _check_relay_url(value: str) -> str:
    if value:
        relay_url.parse(value)
    return value


def _check_ping_url(value: str) -> str:
    if value:
        try:
            is_possible = not relay_url.parse(value).is_websocket
        except ValueError:
            is_possible = False
        if not is_possible:
            raise ValueError("an address such as https://hc.example/uuid, with http or https")
    return value


def _check_session_pattern(value: str) -> str:
    if not can_match(value, ID_ALPHABETS):
        near = nearest_pattern(value)
        allowed = "a pattern that a session id can match, which has only ASCII letters, digits, - and _, and does not begin with -"
        raise ValueError(allowed if near is None else f"{allowed}, such as {near!r}")
    return value


def _check_database(value: str) -> str:
    return _check_fixed_path(value) if value else value


def _check_fixed_path(value: str) -> str:
    if not value.startswith(("/", "~")):
        raise ValueError("an absolute path, or one that begins with ~")
    return value


Duration = Annotated[str, AfterValidator(_check_duration), Field(json_schema_extra={"pattern": f"^(?:{DURATION_PATTERN})$"})]
Interval = Annotated[
    str,
    AfterValidator(_check_interval),
    Field(json_schema_extra={"pattern": f"^(?:{'|'.join(CALENDAR_WORDS)}|(?=.*[1-9]){DURATION_PATTERN})$"}),
]
FilePath = Annotated[str, Field(pattern=r"^[^\x00]*$")]
ArawnPath = Annotated[FilePath, Field(min_length=1)]
FixedPath = Annotated[FilePath, AfterValidator(_check_fixed_path)]
FixedDatabase = Annotated[FilePath, AfterValidator(_check_database)]
SessionPattern = Annotated[str, AfterValidator(_check_session_pattern)]
PingUrl = Annotated[str, AfterValidator(_check_ping_url), PlainSerializer(relay_url.redact_path)]
Size = Annotated[int, _CheckedSize(_size)]
SizeOrZero = Annotated[int, _CheckedSize(_size_or_zero)]
Percent = Annotated[int, Field(ge=1, le=100)]
Amount = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Occasion = Literal["level", "failed", "cleaned", "expiring"]
EventType = Literal["disk_pressure", "workstream_usage", "disk_check", "scratch_session", "scratch_cleanup"]


class _Table(BaseModel):
    # The validator of the whole file contains those of its tables. Building each table's own
    # validator as well would double the time that pydantic takes at every start.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class _ArawnTable(_Table):
    """A table of Arawn's, which may have keys that this tool does not read."""

    model_config = ConfigDict(extra="ignore")


class UsageLimits(_ArawnTable):
    """`[paths.usage]`: limits for the level warning, in the binary units that Arawn uses."""

    total_warning_gb: Amount = Field(default=10, description="GiB that all workstreams together may use; 0 turns the limit off")
    workstream_warning_gb: Amount = Field(default=1, description="GiB that one workstream may use; 0 turns the limit off")
    session_warning_mb: Amount = Field(default=200, description="MiB that one scratch session may use; 0 turns the limit off")


class CleanupDefaults(_ArawnTable):
    """`[paths.cleanup]`."""

    scratch_cleanup_days: Days = Field(default=7, description="days without use after which a scratch session is inactive, at least 1")
    dry_run: bool = Field(default=False, description="only show what scratch-cleanup would do")


class Paths(_ArawnTable):
    """`[paths]`."""

    base_path: ArawnPath | None = Field(
        default=None,
        examples=["~/.arawn"],
        description="a place to look for Arawn's root, which Arawn's documents name; its server does not read it",
    )
    usage: UsageLimits = UsageLimits.model_construct()
    cleanup: CleanupDefaults = CleanupDefaults.model_construct()


class WorkstreamStore(_ArawnTable):
    """`[workstream]`: the database and the data directory of Arawn 0.0."""

    database: ArawnPath | None = Field(
        default=None,
        examples=["workstreams.db"],
        description="database of Arawn 0.0, relative to the folder of this file",
    )
    data_dir: ArawnPath | None = Field(
        default=None,
        examples=["workstreams"],
        description="root of Arawn 0.0, relative to the folder of this file",
    )


class Storage(_ArawnTable):
    """`[storage]` of Arawn's main branch."""

    data_dir: ArawnPath | None = Field(
        default=None,
        examples=["/srv/arawn"],
        description="data directory of Arawn's main branch, relative to the folder of this file",
    )


class Cleanup(_Table):
    """`[maintenance.cleanup]`."""

    protect: tuple[SessionPattern, ...] = Field(
        default=(), strict=False, description="shell patterns of session ids that are never removed; one that no id can match is an error"
    )
    keep_chats: bool | None = Field(
        default=None,
        examples=[True],
        description="remove the files of a session but leave what its chat needs to go on; else true on Arawn's main branch, false on 0.0",
    )
    trash_days: int = Field(
        default=3,
        ge=0,
        le=36_500,
        description="days to keep a removed session in the trash, less if the space is needed; 0 deletes it at once",
    )
    max_sessions: int = Field(
        default=0,
        ge=0,
        description="removal limit: if more sessions are due in one run, it removes none unless --force is given; 0 turns the limit off",
    )
    max_percent: Percent = Field(default=100, description="removal limit as a percentage of all scratch sessions")
    keep_last: int = Field(default=0, ge=0, description="number of the most recently used sessions that are never removed")
    max_total: SizeOrZero = Field(
        default=0,
        examples=["20GiB"],
        description="budget for the disk blocks of workstreams/, with the trash: above it, cleanup purges the trash and then removes the "
        "sessions that were not used for the longest time, until less than 95 % of it is used; 0 turns the budget off",
    )
    min_free_percent: int = Field(
        default=0,
        ge=0,
        le=99,
        description="budget for the filesystem of the sessions: the percentage of its space for ordinary users that is to stay free; what "
        "is used beyond is freed as with max_total; 0 turns the budget off",
    )
    min_age_days: Days = Field(default=1, description="a budget removes no session that was used in the last days, at least 1")
    cleanup_on: Literal["never", "critical"] = Field(
        default="never",
        description="critical: a disk-check in which the total, the filesystem, its inodes, scratch or a scratch session turns critical "
        "starts scratch-cleanup once; after a change run schedule install again if systemd starts the jobs",
    )


class Pressure(_Table):
    """`[maintenance.pressure]`."""

    total: SizeOrZero | None = Field(
        default=None, examples=["10GiB"], description="replaces paths.usage.total_warning_gb by any size; 0 turns the limit off"
    )
    workstream: SizeOrZero | None = Field(
        default=None, examples=["1GiB"], description="replaces paths.usage.workstream_warning_gb by any size; 0 turns the limit off"
    )
    session: SizeOrZero | None = Field(
        default=None, examples=["200MiB"], description="replaces paths.usage.session_warning_mb by any size; 0 turns the limit off"
    )
    own_files: SizeOrZero | None = Field(
        default=None,
        examples=["20GiB"],
        description="limit of Arawn's own files, which are all files in its directory except the workstreams; else they have no level",
    )
    measure: Literal["apparent", "allocated"] = Field(
        default="apparent", description="how to count bytes: apparent size, as Arawn does, or allocated blocks"
    )
    critical_ratio: float = Field(default=2.0, ge=1, allow_inf_nan=False, description="critical above this multiple of the limit")
    filesystem_warning_percent: Percent = Field(default=85, description="warning above this percentage of the space for ordinary users")
    filesystem_critical_percent: Percent = Field(default=95, description="critical above this percentage of that space")
    inode_warning_percent: Percent = Field(default=85, description="warning above this percentage of the inodes for ordinary users")
    inode_critical_percent: Percent = Field(default=95, description="critical above this percentage of those inodes")
    recover_percent: int = Field(
        default=5, ge=0, le=99, description="a level is lowered only when usage is this percentage below the limit"
    )
    for_checks: int = Field(default=1, ge=1, description="consecutive checks that must exceed a limit before the level is raised")
    repeat_interval: Duration = Field(
        default="0s", description="time before an unchanged level is reported again, such as 6h; 0s reports it at every check"
    )
    remeasure_hours: int = Field(
        default=0,
        ge=0,
        description="hours for which disk-check may reuse the measured size of an unchanged session of Arawn 0.0; 0 measures always",
    )
    limits: dict[str, Size] = Field(
        default={}, examples=[{"my-blog": "5GiB"}], description="limit of a workstream for the level warning, by id or title"
    )

    @model_validator(mode="after")
    def _critical_is_not_below_warning(self) -> Self:
        for kind in ("filesystem", "inode"):
            if getattr(self, f"{kind}_critical_percent") < getattr(self, f"{kind}_warning_percent"):
                raise ValueError(f"{kind}_critical_percent at or above {kind}_warning_percent")
        return self


class Relay(_Table):
    """`[maintenance.relay]`."""

    url: Annotated[str, AfterValidator(_check_relay_url)] = Field(
        default="", description="relay to send events to: http(s) sends POST requests, ws(s) text frames; empty sends none"
    )
    token_file: FilePath = Field(
        default="", description="file of mode 600 with the relay's token; else LoadCredential=relay-token:… or $ARAWN_RELAY_TOKEN"
    )
    ca_file: FilePath = Field(
        default="", description="PEM file of the certificate authorities to check the relay against, instead of the system's"
    )
    origin: str = Field(default="", pattern=r"^[!-~]*$", description="Origin header of a ws(s) connection")
    allow_insecure: bool = Field(default=False, description="allow sending the token unencrypted to another host")
    timeout_secs: Seconds = Field(default=5.0, description="seconds for one attempt")
    deadline_secs: Seconds = Field(default=30.0, description="seconds for all attempts of one run")
    events: tuple[EventType, ...] = Field(default=("disk_pressure",), strict=False, description="types of events to send")
    outbox_max_events: int = Field(
        default=10_000,
        ge=1,
        description="events that may be queued for the relay; above it, repeats of an unchanged level are dropped first, changes last",
    )


class Notify(_Table):
    """`[maintenance.notify]`."""

    urls_file: FilePath = Field(
        default="",
        examples=["/etc/arawn/notify.urls"],
        description="file of mode 600 with the addresses of people, one Apprise URL per line; else LoadCredential=notify-urls:…; "
        "needs the extra arawn-cli[notify]; empty sends no notifications",
    )
    on: tuple[Occasion, ...] = Field(
        default=("level", "failed"),
        strict=False,
        description="occasions: a level that changes or is to be repeated (repeat_interval), a job that failed or was refused, sessions "
        "that were cleaned, sessions that are expiring within two days",
    )


class Ping(_Table):
    """`[maintenance.ping]`: addresses of a dead man's switch such as healthchecks.io."""

    scratch_cleanup: PingUrl = Field(
        default="", description="secret address that scratch-cleanup pings when it begins and ends; empty pings none"
    )
    disk_check: PingUrl = Field(default="", description="secret address that disk-check pings when it begins and ends; empty pings none")


class Schedule(_Table):
    """`[maintenance.schedule]`."""

    scratch_cleanup: Interval = Field(
        default="daily", description="how often scratch-cleanup runs: a duration such as 24h, or a calendar word such as weekly"
    )
    disk_check: Interval = Field(default="5m", description="how often disk-check runs")


class NamedRoot(_Table):
    """One of `[[maintenance.roots]]`: a root, and its own values for keys of the other tables.

    The name becomes part of the names of units, files and directories.
    """

    name: str = Field(
        pattern=ROOT_NAME, max_length=64, examples=["lab"], description="ASCII letters, digits, - and _, not beginning with -, at most 64"
    )
    path: FixedPath = Field(examples=["/srv/lab/arawn"], description="the root: an absolute path, or one that begins with ~")
    database: FixedDatabase | None = Field(
        default=None,
        examples=["/srv/lab/workstreams.db"],
        description='its database: an absolute path, one that begins with ~, or "" if there is none; else the one in or beside the root',
    )
    scratch_cleanup_days: Days | None = Field(default=None, examples=[30], description="replaces paths.cleanup.scratch_cleanup_days")
    total_warning_gb: Amount | None = Field(default=None, examples=[100], description="replaces paths.usage.total_warning_gb")
    workstream_warning_gb: Amount | None = Field(default=None, examples=[10], description="replaces paths.usage.workstream_warning_gb")
    session_warning_mb: Amount | None = Field(default=None, examples=[500], description="replaces paths.usage.session_warning_mb")
    total: SizeOrZero | None = Field(default=None, examples=["100GiB"], description="replaces total_warning_gb by any size")
    workstream: SizeOrZero | None = Field(default=None, examples=["10GiB"], description="replaces workstream_warning_gb by any size")
    session: SizeOrZero | None = Field(default=None, examples=["500MiB"], description="replaces session_warning_mb by any size")
    own_files: SizeOrZero | None = Field(default=None, examples=["20GiB"], description="replaces maintenance.pressure.own_files")
    limits: dict[str, Size] = Field(
        default={},
        examples=[{"thesis": "50GiB"}],
        description="added to maintenance.pressure.limits; takes precedence for the same workstream",
    )
    protect: tuple[SessionPattern, ...] = Field(
        default=(), strict=False, examples=[["keep-*"]], description="added to maintenance.cleanup.protect"
    )
    keep_last: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[5], description="replaces maintenance.cleanup.keep_last")
    max_total: SizeOrZero | None = Field(default=None, examples=["200GiB"], description="replaces maintenance.cleanup.max_total")
    min_free_percent: Annotated[int, Field(ge=0, le=99)] | None = Field(
        default=None, examples=[15], description="replaces maintenance.cleanup.min_free_percent"
    )
    min_age_days: Days | None = Field(default=None, examples=[2], description="replaces maintenance.cleanup.min_age_days")
    scratch_cleanup: PingUrl | None = Field(
        default=None, examples=["https://hc.example/uuid"], description="as maintenance.ping.scratch_cleanup, which is not for this root"
    )
    disk_check: PingUrl | None = Field(
        default=None, examples=["https://hc.example/uuid"], description="as maintenance.ping.disk_check, which is not for this root"
    )


class Metrics(_Table):
    """`[maintenance.metrics]`."""

    textfile_dir: FilePath = Field(default="", description="folder of node_exporter's textfile collector; empty writes no metrics")


class Maintenance(_Table):
    """`[maintenance]`."""

    root: FilePath = Field(
        default="",
        examples=["/srv/arawn"],
        description="Arawn's root, the folder that holds workstreams/; needed if an Arawn server can write to several places",
    )
    database: FilePath | None = Field(
        default=None,
        examples=["workstreams.db"],
        description='Arawn\'s database, relative to the folder of this file; "" if there is none; else the one in or beside the root',
    )
    state_dir: FilePath = Field(
        default="", description="folder for levels, history and outbox; else $STATE_DIRECTORY, else ~/.local/state/arawn-cli"
    )
    use_proxy: bool = Field(
        default=True,
        description="connect through the proxy that $HTTPS_PROXY, $HTTP_PROXY or $ALL_PROXY names, except to the hosts in $NO_PROXY",
    )
    nice: int = Field(default=10, ge=-20, le=19, description="niceness to run at, unless it is higher already: -20 to 19")
    io_class: Literal["idle", "best-effort", "none"] = Field(
        default="idle", description="disk priority to run at: idle, best-effort, or none to leave it unchanged"
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="threads for measuring and removing; 0 is four for each processor, at most 16"
    )
    cleanup: Cleanup = Cleanup.model_construct()
    pressure: Pressure = Pressure.model_construct()
    relay: Relay = Relay.model_construct()
    notify: Notify = Notify.model_construct()
    ping: Ping = Ping.model_construct()
    schedule: Schedule = Schedule.model_construct()
    metrics: Metrics = Metrics.model_construct()
    # Last, so that in the file of `config init` its keys without its header repeat no key.
    roots: tuple[NamedRoot, ...] = Field(default=(), strict=False, description="more roots, each with a name")

    @property
    def root_names(self) -> str:
        """The names of all roots, with commas."""
        return ", ".join(entry.name for entry in self.roots)


class ConfigFile(_ArawnTable):
    """A configuration file. Tables that are not named here belong to Arawn."""

    paths: Paths = Paths.model_construct()
    workstream: WorkstreamStore = WorkstreamStore.model_construct()
    storage: Storage = Storage.model_construct()
    maintenance: Maintenance = Maintenance.model_construct()


Table = TypeVar("Table", bound=BaseModel)


def with_value(table: Table, key: str, value: object) -> Table:
    """Return a copy of a table with another value for a dotted key."""
    name, _, inner = key.partition(".")
    return table.model_copy(update={name: with_value(getattr(table, name), inner, value) if inner else value})


def tables_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the tables in the type of a key: the type itself, or that of the elements of a list."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


def fields_of(table: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of a table and of the tables in it.

    Keys whose values are tables have no description.
    """
    for name, field in table.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in tables_in(field.annotation):
            yield from fields_of(inner, f"{prefix}{name}.")
