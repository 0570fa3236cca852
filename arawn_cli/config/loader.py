"""The configuration file: where it is found, and its text as checked tables. / From files, environment and flags to one frozen `Config`.

Search order and precedence are those of Arawn's own file, which is read as it is.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from arawn_cli.arawn.layout import DATABASE, WORKSTREAMS, Root
from arawn_cli.config import relay_url
from arawn_cli.config.paths import Base, base_of, expanded
from arawn_cli.config.relay_url import Address
from arawn_cli.config.roots import as_named, clashes, names_of, refuse_another
from arawn_cli.config.schema import GIB, MIB, ConfigFile, Maintenance
from arawn_cli.config.validation import near_misses, problems_of
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.names import escape

SYSTEM_FILE = Path("/etc/arawn/config.toml")


@dataclass(frozen=True, slots=True)
class Given:
    """What the file says.

    Attributes:
        path: the file, or None where there is none and built-in defaults hold.
        base: where the paths in it begin.
        tables: its tables.
    """

    path: Path | None
    base: Base
    tables: ConfigFile


def read(named: Path | None, environment: Mapping[str, str], system_file: Path) -> Given:
    """The file that `--config` names, else the environment, else the account's own, else the system's.

    Raises:
        ConfigurationError: it cannot be read or is wrong, with every fault at once.
    """
    path = find(named, environment, system_file)
    if path is None:
        return Given(None, Base(_default_directory(environment)), ConfigFile())
    base = base_of(path)
    return Given(path, base, _parse(path, base))


def own_file(environment: Mapping[str, str]) -> Path:
    """The file that an account's configuration belongs in, be it there or not.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    if named := environment.get("ARAWN_CONFIG"):
        return expanded(named, "ARAWN_CONFIG").absolute()
    return _default_directory(environment).absolute() / "config.toml"


def find(named: Path | None, environment: Mapping[str, str], system_file: Path) -> Path | None:
    """The file to read, or None for built-in defaults. One that was asked for counts even when it is missing, so that reading it tells.

    Raises:
        ConfigurationError: it stands in the home directory of nobody.
    """
    if named is not None:
        return expanded(str(named), "--config").absolute()
    own = own_file(environment)
    if environment.get("ARAWN_CONFIG") or environment.get("ARAWN_CONFIG_DIR") or _is_there(own):
        return own
    return system_file if _is_there(system_file) else None


def _is_there(path: Path) -> bool:
    """Whether something stands at the path; a path that may not be looked at counts, so that reading it tells."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _default_directory(environment: Mapping[str, str]) -> Path:
    named = environment.get("ARAWN_CONFIG_DIR")
    if named:
        return expanded(named, "ARAWN_CONFIG_DIR")
    try:
        return platformdirs.user_config_path("arawn")
    except RuntimeError as error:
        raise ConfigurationError("this account has no home directory: name the configuration with --config") from error


def _parse(path: Path, base: Base) -> ConfigFile:
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {escape(str(error))}") from error
    problems = near_misses(document) + clashes(document, base)
    try:
        tables = ConfigFile.model_validate(document)
    except ValidationError as error:
        problems += problems_of(error)
        tables = ConfigFile()
    if problems:
        raise ConfigurationError("\n".join([f"{path}: {len(problems)} wrong", *(f"  {line}" for line in problems)]))
    return tables


_RELAY = "[maintenance.relay]"


class NoRootError(ConfigurationError):
    """Nothing names a main root, and none is where it is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says about the configuration; None where it says nothing. `root` outweighs `base_path`."""

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
        """The words that named a root of the file."""
        return () if self.root is None else ("--root", self.root)

    @property
    def located(self) -> tuple[str, ...]:
        """The words that said where configuration and root are, for another command of the same shell."""
        config = ("--config", str(self.config)) if self.config is not None else ()
        if self.root is not None or self.base_path is None:
            return (*config, *self.named)
        return (*config, "--base-path", self.base_path)


@dataclass(frozen=True, slots=True)
class RelayTarget:
    """Where events go, and the files that this takes, as absolute paths; `from_flag` when the command line names it."""

    address: Address
    token_file: Path | None
    ca_file: Path | None
    from_flag: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration of one run.

    Attributes:
        file: the configuration file that was read, or None for built-in defaults.
        root: the absolute path of Arawn's root; it has not been looked at yet.
        database: the configured database, or None for `<root>/workstreams.db` if that is there.
        older_than_days: age in days from which a scratch session is inactive.
        plan_out: file to write the plan to.
        apply: plan that alone may be carried out.
        force: goes on where only a suspicion stops a run: the removal limit, a clock that ran backwards.
        state_directory: where state is kept from run to run; it need not be there yet.
        relay: None when events go to no relay.
        remembers: whether a check may change levels: one whose events do not go where they always go must not, or
            those who are told by the others would miss a change.
        metrics_directory: where files for Prometheus' node_exporter go, if anywhere.
        tables: the file's tables with which keys it sets; what a named root has of its own stands in the place of the rest.
        root_name: which of `[[maintenance.roots]]` this is, or None for the main root.
    """

    file: Path | None
    root: Path
    database: Path | None
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
    """The configuration that a command runs with.

    Raises:
        ConfigurationError: a file that cannot be read or is wrong, with every fault at once; no root; no database.
        RefusedError: the root is named, and empty.
    """
    given = read(flags.config, environment, system_file)
    base = given.base
    tables = given.tables if flags.root is None else as_named(given.tables, flags.root, given.path)
    root = _root(flags, environment, tables, base)
    refuse_another(root, flags.root, given.tables, base)
    return Config(
        file=given.path,
        root=root,
        database=_database(tables, base, "[workstream] database" if flags.root is None else f"database of the root {flags.root}"),
        older_than_days=tables.paths.cleanup.scratch_cleanup_days if flags.older_than_days is None else flags.older_than_days,
        dry_run=tables.paths.cleanup.dry_run if flags.dry_run is None else flags.dry_run,
        force=flags.force,
        plan_out=flags.plan_out,
        apply=flags.apply,
        total_limit_bytes=_bytes(tables.paths.usage.total_warning_gb, GIB),
        workstream_limit_bytes=_bytes(tables.paths.usage.workstream_warning_gb, GIB),
        session_limit_bytes=_bytes(tables.paths.usage.session_warning_mb, MIB),
        maintenance=tables.maintenance,
        state_directory=_state_directory(environment, tables, base),
        relay=None if flags.no_relay else _relay(flags, tables, base),
        remembers=flags.relay_url is None and not (flags.no_relay and tables.maintenance.relay.url),
        metrics_directory=_beside(base, tables.maintenance.metrics.textfile_dir, "[maintenance.metrics] textfile_dir"),
        root_name=flags.root,
        tables=tables,
    )


def named_roots(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> list[str]:
    """The names of the roots that the configuration file has beside the main one.

    Raises:
        ConfigurationError: the file cannot be read or is wrong.
    """
    return [entry.name for entry in read(flags.config, environment, system_file).tables.maintenance.roots]


def load_all(flags: Flags, environment: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> list[Config]:
    """The configuration of the main root, if there is one, and of each root that the file names.

    Raises:
        ConfigurationError, RefusedError: as `load`, of any of them.
    """
    names = named_roots(flags, environment, system_file=system_file)
    found = []
    try:
        found.append(load(flags, environment, system_file=system_file))
    except NoRootError:
        if not names:
            raise
    return [*found, *(load(replace(flags, root=name, base_path=None), environment, system_file=system_file) for name in names)]


def _bytes(amount: float, unit: int) -> int:
    return max(int(amount * unit), 1)


def _root(flags: Flags, environment: Mapping[str, str], tables: ConfigFile, base: Base) -> Path:
    asked = ((flags.base_path, "--base-path"), (environment.get("ARAWN_BASE_PATH"), "ARAWN_BASE_PATH"))
    for value, source in asked if flags.root is None else ():
        if value is not None:
            return _named_root(value, source, Base(Path()))
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
        + f" is there; name the folder that holds {WORKSTREAMS}/ with --base-path, ARAWN_BASE_PATH or [paths] base_path"
        + (f", or one of the file's own with --root: {names_of(tables)}" if tables.maintenance.roots else "")
    )


def _named_root(value: str, source: str, base: Base) -> Path:
    if not value.strip():
        raise RefusedError(f"{source} is empty: an empty root is refused, because cleanup would not know where it stands")
    return base.path(value, source)


def _database(tables: ConfigFile, base: Base, source: str) -> Path | None:
    if tables.workstream.database is None:
        return None
    path = base.path(tables.workstream.database, source)
    if not path.is_file():
        raise ConfigurationError(f"{source}: {path} is not there, or is no file")
    return path


def _state_directory(environment: Mapping[str, str], tables: ConfigFile, base: Base) -> Path:
    """The configured one, else systemd's (the first of a list, systemd.exec(5)), else the user's."""
    if tables.maintenance.state_dir:
        return base.path(tables.maintenance.state_dir, "[maintenance] state_dir")
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    try:
        return platformdirs.user_state_path("arawn-cli")
    except RuntimeError as error:
        raise ConfigurationError("this account has no home directory: name one for the state with [maintenance] state_dir") from error


def _relay(flags: Flags, tables: ConfigFile, base: Base) -> RelayTarget | None:
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
    return RelayTarget(address, _beside(base, relay.token_file, _RELAY), _beside(base, relay.ca_file, _RELAY), flags.relay_url is not None)


def _beside(base: Base, name: str, source: str) -> Path | None:
    return base.path(name, source) if name else None


def database_of(config: Config, root: Root) -> Path | None:
    """Arawn's database: the configured one, else `<root>/workstreams.db` if there is one; its links are resolved."""
    path = config.database or root.path / DATABASE
    return path.resolve() if os.path.lexists(path) else None
