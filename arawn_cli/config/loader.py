"""Read the configuration file and combine it with flags and environment into a `Config`.

A flag takes precedence over the environment, the environment over the file, the file over defaults.
`settings_of` names the source of each value.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from arawn_cli.config import relay_url
from arawn_cli.config.lookup import (
    DEFAULT,
    MAX_CONFIG_BYTES,
    SYSTEM_FILE,
    NoRootError,
    PathBase,
    Sources,
    default_directory,
    find_config,
    find_root,
    home_directory,
)
from arawn_cli.config.relay_url import Address, redact_value
from arawn_cli.config.schema import ConfigFile, Maintenance, Ping, Relay, Storage, WorkstreamStore, with_value
from arawn_cli.config.validation import describe_errors, find_conflicts, find_misspellings, nearest, refuse_other_root
from arawn_cli.errors import ArawnCliError, ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.fs.files import read_small_file
from arawn_cli.names import cut, escape
from arawn_cli.units import WrittenSize, count

_ERRORS_MAX = 50  # that are shown

# The time that tomllib needs for a dotted key grows with the cube of its length.
_LONG_KEY = re.compile(rb"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){100}""")

_UNIT_BYTES = {"GiB": 1024**3, "MiB": 1024**2}

_USAGE = {"total_warning_gb": "total", "workstream_warning_gb": "workstream", "session_warning_mb": "session"}
"""The limits of `[paths.usage]`, and the keys of `[maintenance.pressure]` that replace them."""

_GENERAL_KEYS = {
    "path": "maintenance.root",
    "database": "maintenance.database",
    "scratch_cleanup_days": "paths.cleanup.scratch_cleanup_days",
    **{key: f"paths.usage.{key}" for key in _USAGE},
    **{key: f"maintenance.pressure.{key}" for key in (*_USAGE.values(), "own_files", "limits")},
    **{key: f"maintenance.cleanup.{key}" for key in ("keep_last", "max_total", "min_free_percent", "min_age_days", "protect")},
    **{key: f"maintenance.ping.{key}" for key in Ping.model_fields},
}
"""The keys of a named root, and the general keys for which they give the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of the command line that concern the configuration.

    None is an option that was not given.

    `root` takes precedence over `base_path`. `sudo` are the words with which the person started
    this program through sudo(8), and needs to start another command.
    """

    config: Path | None = None
    base_path: str | None = None
    older_than_days: int | None = None
    dry_run: bool | None = None
    force: bool = False
    plan_out: Path | None = None
    apply: Path | None = None
    relay_url: str | None = None
    no_relay: bool = False
    root: str | None = None
    sudo: tuple[str, ...] = ()

    def typed(self, line: str) -> str:
        """Return a command line, or a comment, for the shell that the person types in."""
        return line if not self.sudo or line.startswith(("sudo ", "#")) else f"{shlex.join(self.sudo)} {line}"

    def command(self, *words: str) -> str:
        """Return a command line of this program for the same configuration and root."""
        return self.typed(shlex.join(("arawn-cli", *words, *self.located)))

    @property
    def named(self) -> tuple[str, ...]:
        """The arguments that select a named root, for another command."""
        return () if self.root is None else ("--root", self.root)

    @property
    def located(self) -> tuple[str, ...]:
        """The arguments that select configuration and root, for another command."""
        config = ("--config", str(self.config)) if self.config is not None else ()
        if self.root is not None or self.base_path is None:
            return (*config, *self.named)
        return (*config, "--base-path", self.base_path)


class RelayTarget(NamedTuple):
    """The relay and its files, as absolute paths. `from_flag` is true if `--relay-url` names it."""

    address: Address
    token_file: Path | None
    ca_file: Path | None
    from_flag: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration of one run.

    Attributes:
        file: the configuration file, or None if built-in defaults apply.
        root: the absolute path of Arawn's root. It may not exist.
        root_source: its source: an option, `$VARIABLE`, the path of the file, or `default`.
        databases: the places where Arawn's database can be, first match first; none if the file
            says that there is none.
        older_than_days: days without use after which a scratch session is inactive.
        plan_out: file to write the plan to.
        apply: plan to carry out, and nothing else.
        total_limit_bytes: limit of all workstreams together, 0 for none; the same for the next two.
        force: run in spite of the removal limit or a clock that cannot be trusted.
        state_directory: directory of the state file. It may not exist.
        relay: None if events are sent to no relay.
        notify_urls: the file with the addresses of notifications, or None if none are sent.
        remembers: false with `--relay-url` or `--no-relay`. A check that changed levels in such a
            run would hide a change from the readers of the configured relay.
        metrics_directory: directory of the files for Prometheus' node_exporter.
        pings: the addresses by job that a real run pings, which are secret.
        tables: the tables of the file, with the values of options and of the named root in place of
            the general ones.
        sources: the sources of these values, by their keys.
        root_name: the name in `[[maintenance.roots]]`, or None for the main root.
    """

    file: Path | None
    root: Path
    root_source: str
    databases: tuple[Path, ...]
    older_than_days: int
    dry_run: bool
    force: bool
    plan_out: Path | None
    apply: Path | None
    total_limit_bytes: int
    workstream_limit_bytes: int
    session_limit_bytes: int
    maintenance: Maintenance
    state_directory: Path
    relay: RelayTarget | None
    tables: ConfigFile
    sources: Mapping[str, str]
    pings: Mapping[str, str] = field(default_factory=dict, repr=False)
    notify_urls: Path | None = None
    metrics_directory: Path | None = None
    remembers: bool = True
    root_name: str | None = None


def load(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Config:
    """Return the configuration for a command.

    Raises:
        ConfigurationError: the file is unreadable or has errors (all of them are listed), or no
            root or no database is found.
        RefusedError: the path of the root is empty.

    """
    found_file = _read(flags.config, environment, system_file)
    of_file, file, base = found_file.tables, found_file.file, found_file.base
    values = ({} if flags.root is None else _values_of_root(of_file, flags.root, file)) | _values_of(flags)
    tables = of_file
    for key, (value, _) in values.items():
        tables = with_value(tables, key, value)
    usage, maintenance = tables.paths.usage, tables.maintenance
    pressure, dry_run = maintenance.pressure, tables.paths.cleanup.dry_run
    pings = _pings(maintenance)
    with failing_pings({} if dry_run else pings):
        root, root_source, databases = find_root(flags.base_path, flags.root, replace(found_file, tables=tables))
        refuse_other_root(root, flags.root, of_file, base)
    return Config(
        file=file,
        root=root,
        root_source=root_source,
        databases=databases,
        older_than_days=tables.paths.cleanup.scratch_cleanup_days,
        dry_run=dry_run,
        force=flags.force,
        plan_out=flags.plan_out,
        apply=flags.apply,
        total_limit_bytes=_limit(pressure.total, usage.total_warning_gb, "GiB"),
        workstream_limit_bytes=_limit(pressure.workstream, usage.workstream_warning_gb, "GiB"),
        session_limit_bytes=_limit(pressure.session, usage.session_warning_mb, "MiB"),
        maintenance=maintenance,
        state_directory=state_directory(file, tables, environment),
        relay=None if flags.no_relay else _relay(maintenance.relay, base, from_flag=flags.relay_url is not None),
        remembers=flags.relay_url is None and not (flags.no_relay and maintenance.relay.url),
        notify_urls=base.path_if_set(maintenance.notify.urls_file, "[maintenance.notify] urls_file"),
        metrics_directory=base.path_if_set(maintenance.metrics.textfile_dir, "[maintenance.metrics] textfile_dir"),
        root_name=flags.root,
        tables=tables,
        sources={key: source for key, (_, source) in values.items()},
        pings=pings,
    )


def _values_of(flags: Flags) -> dict[str, tuple[object, str]]:
    """Return the values of options by the keys that they replace, with the options."""
    values: dict[str, tuple[object, str]] = {
        "paths.cleanup.scratch_cleanup_days": (flags.older_than_days, "--older-than-days"),
        "paths.cleanup.dry_run": (flags.dry_run, "--dry-run"),
        "maintenance.relay.url": (flags.relay_url, "--relay-url"),
    }
    return {key: each for key, each in values.items() if each[0] is not None}


def _values_of_root(tables: ConfigFile, name: str, file: Path | None) -> dict[str, tuple[object, str]]:
    """Return the values of a named root by the general keys that they replace, with their sources.

    Its limits and protected patterns are added to the general ones.

    Raises:
        ConfigurationError: the file has no root of this name.
    """
    index = next((index for index, entry in enumerate(tables.maintenance.roots) if entry.name == name), None)
    if index is None:
        raise ConfigurationError(_unknown_root(tables, name, file))
    entry, maintenance = tables.maintenance.roots[index], tables.maintenance
    added = {
        "protect": (*maintenance.cleanup.protect, *entry.protect),
        "limits": {**maintenance.pressure.limits, **entry.limits},
    }
    own = [key for key in _GENERAL_KEYS if key in entry.model_fields_set]
    values: dict[str, tuple[object, str]] = {
        "workstream": (WorkstreamStore.model_construct(), DEFAULT),
        "storage": (Storage.model_construct(), DEFAULT),
        "maintenance.database": (None, DEFAULT),
        # A general ping would say that this job ran if only that of another root did.
        "maintenance.ping": (Ping.model_construct(), DEFAULT),
        # A limit of this root in whole GiB takes precedence over a general one of any size.
        **{f"maintenance.pressure.{size}": (None, DEFAULT) for key, size in _USAGE.items() if key in own},
    }
    for key in own:
        general = _GENERAL_KEYS[key]
        source = f"{file}: {f'{general} and ' if key in added else ''}maintenance.roots[{index}].{key}"
        values[general] = (added.get(key, getattr(entry, key)), source)
    return values


def _unknown_root(tables: ConfigFile, name: str, file: Path | None) -> str:
    option = f"--root {escape(name)}: "
    if not tables.maintenance.roots:
        return f"{option}{f'{file} has no' if file else 'there is no configuration file with'} [[maintenance.roots]]"
    near = nearest(name, (entry.name for entry in tables.maintenance.roots))
    return f"{option}{file} has no root of this name; it has {tables.maintenance.root_names}" + (f"; the nearest is {near}" if near else "")


def _pings(maintenance: Maintenance) -> dict[str, str]:
    ping = maintenance.ping
    return {job: url for job, url in ((JobName.SCRATCH_CLEANUP, ping.scratch_cleanup), (JobName.DISK_CHECK, ping.disk_check)) if url}


@contextmanager
def failing_pings(pings: Mapping[str, str]) -> Iterator[None]:
    """Add the addresses to ping to an error that ends the run before it has its configuration."""
    try:
        yield
    except ArawnCliError as error:
        error.pings = pings
        raise


def load_all(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> list[Config]:
    """Return the configuration of the main root, if there is one, and of each named root.

    Raises:
        ConfigurationError, RefusedError: as `load`, for any of them.
    """
    names = named_roots(flags, environment, system_file=system_file)
    found = []
    try:
        found.append(load(flags, environment, system_file=system_file))
    except NoRootError:
        if not names:
            raise
    return [*found, *(load(replace(flags, root=name, base_path=None), environment, system_file=system_file) for name in names)]


def named_roots(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> list[str]:
    """Return the names in `[[maintenance.roots]]`.

    Raises:
        ConfigurationError: the file is unreadable or has errors.
    """
    return [entry.name for entry in _read(flags.config, environment, system_file).tables.maintenance.roots]


def _limit(size: int | None, number: int, unit: str) -> int:
    """Return a limit of `[maintenance.pressure]`, else that of `[paths.usage]` with its unit."""
    return WrittenSize(number * _UNIT_BYTES[unit], f"{number} {unit}") if size is None else size


def _read(named: Path | None, environment: Mapping[str, str], system_file: Path) -> Sources:
    path = find_config(named, environment, system_file)
    if path is None:
        return Sources(environment, None, PathBase(default_directory(environment)), ConfigFile.model_construct())
    base = PathBase.of_file(path)
    try:
        content = read_small_file(path, MAX_CONFIG_BYTES)
        if _LONG_KEY.search(content):
            raise ConfigurationError(f"{path} has a key of more than 100 parts")
        document = tomllib.loads(content.decode("utf-8-sig"))  # editors of Windows begin a file with a byte order mark
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # also of int(), for thousands of digits
        raise ConfigurationError(f"{path} is not valid TOML: {cut(escape(str(error)))}") from error
    errors = find_misspellings(document) + find_conflicts(document, base)
    number = len(errors)
    try:
        tables = ConfigFile.model_validate(document)
    except ValidationError as error:
        errors += describe_errors(error, _ERRORS_MAX)
        number += error.error_count()
        tables = ConfigFile()
    if errors:
        more = [f"  and {number - _ERRORS_MAX:,} more"] if number > _ERRORS_MAX else []
        lines = [f"{path}: {count(number, 'error')}", *(f"  {cut(line)}" for line in errors[:_ERRORS_MAX]), *more]
        raise ConfigurationError("\n".join(lines))
    return Sources(environment, path, base, tables)


def state_directory(file: Path | None, tables: ConfigFile, environment: Mapping[str, str]) -> Path:
    """Return the configured directory, else systemd's (systemd.exec(5)), else the account's.

    Raises:
        ConfigurationError: the account has no home.
    """
    if file is not None and tables.maintenance.state_dir:
        return PathBase.of_file(file).path(tables.maintenance.state_dir, "[maintenance] state_dir")
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    # A relative path in this variable is invalid, and ignored (XDG base directory specification).
    if (named := environment.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(named, "arawn-cli")
    home = home_directory()
    if home is None:
        raise ConfigurationError("this account has no home directory for the state: set [maintenance] state_dir")
    return home / ".local" / "state" / "arawn-cli"


def _relay(relay: Relay, base: PathBase, *, from_flag: bool) -> RelayTarget | None:
    if not relay.url and not from_flag:
        return None
    try:
        address = relay_url.parse(relay.url)
    except ValueError as error:
        raise ConfigurationError(f"--relay-url: allowed: {error}") from error
    if from_flag and address.carries_password:
        raise ConfigurationError("--relay-url: every account can read a password on a command line; put it into [maintenance.relay] url")
    token_file, ca_file = (base.path_if_set(name, "[maintenance.relay]") for name in (relay.token_file, relay.ca_file))
    return RelayTarget(address, token_file, ca_file, from_flag)


class Setting(NamedTuple):
    """One value: its dotted key, the value as JSON, and its source.

    The source is a flag, `$VARIABLE`, the path of the file (with the key, for values of a named
    root) or `default`.
    """

    key: str
    value: object
    source: str


def settings_of(config: Config, environment: Mapping[str, str]) -> list[Setting]:
    """Return every key of the tables, in their order, with the value in effect."""
    effective = _effective(config, environment)
    found = []
    for key, value, is_set in _leaves(config.tables, config.tables.model_dump(mode="json"), ""):
        source = config.sources.get(key) or (str(config.file) if is_set and config.file else DEFAULT)
        found.append(Setting(key, *effective.get(key, (value, source))))
    return found


def _effective(config: Config, environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    """Return values that differ from those of the tables, with their source."""
    found: dict[str, tuple[object, str]] = {}
    if config.root_name is None:
        found["maintenance.root"] = (str(config.root), config.root_source)
    if config.maintenance.database is None:
        found["maintenance.database"] = (next((str(place) for place in config.databases if os.path.lexists(place)), None), DEFAULT)
    if config.maintenance.cleanup.keep_chats is None:
        found["maintenance.cleanup.keep_chats"] = ("true on Arawn's main branch, false on 0.0", DEFAULT)
    without_key = "$STATE_DIRECTORY" if environment.get("STATE_DIRECTORY") else DEFAULT
    found["maintenance.state_dir"] = (str(config.state_directory), str(config.file) if config.maintenance.state_dir else without_key)
    return found


def _leaves(table: BaseModel, values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object, bool]]:
    """Yield each dotted key, its value without secrets, and whether the file sets it."""
    for name, value in values.items():
        inner = getattr(table, name)
        if isinstance(inner, BaseModel) and isinstance(value, dict):
            yield from _leaves(inner, value, f"{prefix}{name}.")
        else:
            shown = redact_value(value) if isinstance(value, str) and "://" in value else value
            yield f"{prefix}{name}", shown, name in table.model_fields_set
