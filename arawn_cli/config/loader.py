"""Read the configuration file and combine it with flags and environment into a `Config`.

A flag takes precedence over the environment, the environment over the file, the file over defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from arawn_cli.arawn.layout import DATABASE_MAIN, DATABASE_V0, WORKSTREAMS
from arawn_cli.config import relay_url
from arawn_cli.config.paths import PathBase, expand_user
from arawn_cli.config.relay_url import Address
from arawn_cli.config.roots import find_conflicts, names_of, refuse_other_root, tables_of_root
from arawn_cli.config.schema import ConfigFile, Maintenance
from arawn_cli.config.validation import describe_errors, find_misspellings
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.names import escape
from arawn_cli.units import GIB, MIB

SYSTEM_FILE = Path("/etc/arawn/config.toml")

_RELAY = "[maintenance.relay]"


class NoRootError(ConfigurationError):
    """No main root is named, and none is in a default place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of the command line that concern the configuration.

    None is an option that was not given.

    `root` takes precedence over `base_path`.
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


@dataclass(frozen=True, slots=True)
class RelayTarget:
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
        database: the configured database, or None for `<root>/workstreams.db` if that exists.
        older_than_days: days without use after which a scratch session is inactive.
        plan_out: file to write the plan to.
        apply: plan to carry out, and nothing else.
        force: run in spite of the removal limit or a clock that went back.
        state_directory: directory of the state file. It may not exist.
        relay: None if events are sent to no relay.
        remembers: false with `--relay-url` or `--no-relay`. A check that changed levels in such a
            run would hide a change from the readers of the configured relay.
        metrics_directory: directory of the files for Prometheus' node_exporter.
        tables: the tables of the file, with the values of the named root in place of the general
            ones.
        root_name: the name in `[[maintenance.roots]]`, or None for the main root.

    """

    file: Path | None
    root: Path
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
    metrics_directory: Path | None = None
    remembers: bool = True
    root_name: str | None = None


def load(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Config:
    """Return the configuration for a command.

    Raises:
        ConfigurationError: the file is unreadable or has errors (all of them are listed), or there
            is no root or no database.
        RefusedError: the path of the root is empty.

    """
    file, base, file_tables = _read(flags.config, environment, system_file)
    tables = file_tables if flags.root is None else tables_of_root(file_tables, flags.root, file)
    usage, maintenance = tables.paths.usage, tables.maintenance
    root = _root(flags, environment, tables, base)
    refuse_other_root(root, flags.root, file_tables, base)
    return Config(
        file=file,
        root=root,
        databases=_databases(flags, environment, tables, base, root),
        older_than_days=tables.paths.cleanup.scratch_cleanup_days if flags.older_than_days is None else flags.older_than_days,
        dry_run=tables.paths.cleanup.dry_run if flags.dry_run is None else flags.dry_run,
        force=flags.force,
        plan_out=flags.plan_out,
        apply=flags.apply,
        total_limit_bytes=max(int(usage.total_warning_gb * GIB), 1),
        workstream_limit_bytes=max(int(usage.workstream_warning_gb * GIB), 1),
        session_limit_bytes=max(int(usage.session_warning_mb * MIB), 1),
        maintenance=maintenance,
        state_directory=_state_directory(environment, tables, base),
        relay=None if flags.no_relay else _relay(flags, tables, base),
        remembers=flags.relay_url is None and not (flags.no_relay and maintenance.relay.url),
        metrics_directory=_optional_path(base, maintenance.metrics.textfile_dir, "[maintenance.metrics] textfile_dir"),
        root_name=flags.root,
        tables=tables,
    )


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
    _, _, tables = _read(flags.config, environment, system_file)
    return [entry.name for entry in tables.maintenance.roots]


def find_config(named: Path | None, environment: Mapping[str, str], system_file: Path) -> Path | None:
    """Return the file to read, or None for built-in defaults.

    A file that an option or variable names is returned even if it is missing, so that reading it
    fails.

    Raises:
        ConfigurationError: its path begins with the home of an unknown account.

    """
    if named is not None:
        return expand_user(str(named), "--config").absolute()
    own = default_config_path(environment)
    if environment.get("ARAWN_CONFIG") or environment.get("ARAWN_CONFIG_DIR") or _exists(own):
        return own
    return system_file if _exists(system_file) else None


def default_config_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the current account's configuration file. It may not exist.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    if named := environment.get("ARAWN_CONFIG"):
        return expand_user(named, "ARAWN_CONFIG").absolute()
    return _default_directory(environment).absolute() / "config.toml"


def _exists(path: Path) -> bool:
    """Return whether a path exists.

    One that this account may not see counts, so that reading it fails.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _default_directory(environment: Mapping[str, str]) -> Path:
    if named := environment.get("ARAWN_CONFIG_DIR"):
        return expand_user(named, "ARAWN_CONFIG_DIR")
    try:
        return platformdirs.user_config_path("arawn")
    except RuntimeError as error:
        raise ConfigurationError("this account has no home directory: name the configuration with --config") from error


def _read(named: Path | None, environment: Mapping[str, str], system_file: Path) -> tuple[Path | None, PathBase, ConfigFile]:
    """Return the path of the file, the base of its paths, and its tables."""
    path = find_config(named, environment, system_file)
    if path is None:
        return None, PathBase(_default_directory(environment)), ConfigFile.model_construct()
    base = PathBase.of_file(path)
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {escape(str(error))}") from error
    errors = find_misspellings(document) + find_conflicts(document, base)
    try:
        tables = ConfigFile.model_validate(document)
    except ValidationError as error:
        errors += describe_errors(error)
        tables = ConfigFile()
    if errors:
        number = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise ConfigurationError("\n".join([f"{path}: {number}", *(f"  {line}" for line in errors)]))
    return path, base, tables


def _root(flags: Flags, environment: Mapping[str, str], tables: ConfigFile, base: PathBase) -> Path:
    if flags.root is None and flags.base_path is not None:
        return _named_root(flags.base_path, "--base-path", PathBase(Path()))
    if flags.root is None and "ARAWN_BASE_PATH" in environment:
        return _named_root(environment["ARAWN_BASE_PATH"], "ARAWN_BASE_PATH", PathBase(Path()))
    if tables.paths.base_path is not None:
        return _named_root(tables.paths.base_path, "[paths] base_path", base)
    if tables.workstream.data_dir is not None:
        return _named_root(tables.workstream.data_dir, "[workstream] data_dir", base)
    candidates = (base.path("~/.arawn", "the default root"), base.directory / WORKSTREAMS)
    for candidate in candidates:
        if (candidate / WORKSTREAMS).is_dir():
            return candidate
    raise NoRootError(
        "no Arawn root found: neither "
        + " nor ".join(f"{candidate / WORKSTREAMS}/" for candidate in candidates)
        + f" exists; name the folder that holds {WORKSTREAMS}/ with --base-path, ARAWN_BASE_PATH or [paths] base_path"
        + (f", or select a root of the file with --root: {names_of(tables)}" if tables.maintenance.roots else "")
    )


def _named_root(value: str, source: str, base: PathBase) -> Path:
    if not value.strip():
        raise RefusedError(f"{source} is empty: refused, since cleanup would not know where the root is")
    return base.path(value, source)


def _databases(flags: Flags, environment: Mapping[str, str], tables: ConfigFile, base: PathBase, root: Path) -> tuple[Path, ...]:
    """Return the places where the database of a root can be, first match first.

    A configured database belongs to the root of the same file or entry. One beside the configuration
    file belongs only to the root that this file configures.

    Raises:
        ConfigurationError: the configured database is missing.
    """
    by_option = flags.root is None and (flags.base_path is not None or environment.get("ARAWN_BASE_PATH") is not None)
    if tables.workstream.database is not None and not by_option:
        source = "[workstream] database" if flags.root is None else f"database of the root {flags.root}"
        path = base.path(tables.workstream.database, source)
        if not path.is_file():
            raise ConfigurationError(f"{source}: {path} does not exist, or is not a file")
        return (path,)
    places = [root / DATABASE_V0, root / DATABASE_MAIN, root.parent / DATABASE_V0]
    if flags.root is None and not by_option:
        places.append(base.directory / DATABASE_V0)
    return tuple(places)


def _state_directory(environment: Mapping[str, str], tables: ConfigFile, base: PathBase) -> Path:
    """Return the configured directory, else systemd's (systemd.exec(5)), else the account's."""
    if tables.maintenance.state_dir:
        return base.path(tables.maintenance.state_dir, "[maintenance] state_dir")
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    try:
        return platformdirs.user_state_path("arawn-cli")
    except RuntimeError as error:
        raise ConfigurationError("this account has no home directory: name one for the state with [maintenance] state_dir") from error


def _relay(flags: Flags, tables: ConfigFile, base: PathBase) -> RelayTarget | None:
    relay = tables.maintenance.relay
    url = relay.url if flags.relay_url is None else flags.relay_url
    if not url and flags.relay_url is None:
        return None
    try:
        address = relay_url.parse(url)
    except ValueError as error:
        raise ConfigurationError(f"--relay-url: allowed: {error}") from error
    if flags.relay_url is not None and address.carries_password:
        raise ConfigurationError("--relay-url: every account can read a password on a command line; put it into [maintenance.relay] url")
    token_file, ca_file = (_optional_path(base, name, _RELAY) for name in (relay.token_file, relay.ca_file))
    return RelayTarget(address, token_file, ca_file, flags.relay_url is not None)


def _optional_path(base: PathBase, value: str, source: str) -> Path | None:
    return base.path(value, source) if value else None
