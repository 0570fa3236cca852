"""Find the configuration file, Arawn's root and Arawn's database.

Arawn 0.0 writes to `[workstream] data_dir`, by default `workstreams/` in its configuration
directory. Its main branch writes to its data directory, by default `~/.arawn`. A server that
discards a broken configuration writes to the default place. So several of these directories can
exist, and cleanup must not guess which one is meant.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli import timestamps
from arawn_cli.arawn.layout import DATABASE_MAIN, DATABASE_V0, WORKSTREAMS
from arawn_cli.arawn.root import is_candidate, may_exist
from arawn_cli.config.schema import ConfigFile
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.fs.files import read_small_file
from arawn_cli.names import escape

SYSTEM_FILE = Path("/etc/arawn/config.toml")
CONFIG = "config.toml"
CONFIG_MAIN = "arawn.toml"
DEFAULT = "default"

MAX_CONFIG_BYTES = 128 * 1024
"""The size of a configuration file that is read: tomllib needs minutes for some of a megabyte."""

_DIRECTORY_V0 = Path(".config", "arawn")
_DIRECTORY_MAIN = Path(".arawn")


@dataclass(frozen=True, slots=True)
class PathBase:
    """The directories to which the paths of one file are relative.

    Attributes:
        directory: the directory of the file; without a file, that of the account's own.
        home: the directory that `~` means, or None for the home of the current account.
    """

    directory: Path
    home: Path | None = None

    @classmethod
    def of_file(cls, file: Path) -> PathBase:
        """Return the base of a file.

        In a file of another account `~` is the home of that account, as for its server.

        A file that root owns is for all accounts, so there `~` is the home of the current one.
        """
        try:
            owner = file.stat().st_uid
            home = None if owner in (0, os.geteuid()) else Path(pwd.getpwuid(owner).pw_dir)
        except (OSError, KeyError):  # reading the file reports it; an account may have no entry
            home = None
        return cls(file.parent, home)

    def path(self, value: str, source: str) -> Path:
        """Return a path of the file, absolute if the directory is.

        Raises:
            ConfigurationError: it begins with the home of an unknown account. `source` names the
                key.
        """
        return self.directory / expand_user(self._with_home(value), source)

    def path_if_set(self, value: str | None, source: str) -> Path | None:
        """Return a path of the file, or None if the value is None or empty. It raises as `path`."""
        return self.path(value, source) if value else None

    def normal(self, value: str) -> str:
        """Return a path of the file as absolute text, since another root's disk may not respond."""
        return os.path.normpath(self.directory / os.path.expanduser(self._with_home(value)))

    def _with_home(self, value: str) -> str:
        return f"{self.home}{value[1:]}" if self.home is not None and value.partition("/")[0] == "~" else value


def expand_user(value: str, source: str) -> Path:
    """Return a path with its `~` replaced by a home directory.

    Raises:
        ConfigurationError: it begins with the home of an unknown account. `source` names the key.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{source}: no home directory is known for {value!r}: write the path out") from error


def _named_by(environment: Mapping[str, str], variable: str) -> Path | None:
    """Return the absolute path in a variable, or None without one. It raises as `expand_user`."""
    value = environment.get(variable)
    return expand_user(value, variable).absolute() if value else None


def ignored_owner_config(root: Path, used: Path | None) -> Path | None:
    """Return the configuration file of the account that owns a root, unless it is in use.

    The file of Arawn's main branch always exists. It counts only if it has settings of this tool.
    """
    try:
        home = Path(pwd.getpwuid(root.stat().st_uid).pw_dir)
        own = home / _DIRECTORY_V0 / CONFIG
        if not own.exists():
            own = home / _DIRECTORY_MAIN / CONFIG_MAIN
            if b"maintenance" not in read_small_file(own, MAX_CONFIG_BYTES):
                return None
        return None if used is not None and own.samefile(used) else own
    except (OSError, KeyError):
        return None


def ignored_config_warning(root: Path, used: Path | None, *, on_purpose: bool = False) -> str | None:
    """Return a warning if the configuration file of the account that owns a root is not in use.

    With `on_purpose` (`--config`) there is none for the current account's own root. For the root of
    another account, a file that is named proves nothing.
    """
    own = ignored_owner_config(root, used)
    if own is None or (on_purpose and root.stat().st_uid == os.geteuid()):
        return None
    return f"{own} of the account that owns {root} is not read, so its days and limits do not apply: name it with --config"


class RootNotFoundError(ConfigurationError):
    """No root is found, or it is unclear which one is meant."""


class NoRootError(RootNotFoundError):
    """No main root is named, and no place has one."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a root and its database can be named.

    Attributes:
        environment: the environment variables.
        file: the configuration file, or None for defaults.
        base: the base of the relative paths in the file.
        tables: the tables of the file; of a named root, with its own path and database.
    """

    environment: Mapping[str, str]
    file: Path | None
    base: PathBase
    tables: ConfigFile


def find_config(named: Path | None, environment: Mapping[str, str], system_file: Path) -> Path | None:
    """Return the file to read, or None for built-in defaults.

    A file that an option or variable names is returned even if it is missing, so that reading it
    fails. A directory that a variable names may have no file: Arawn then uses its defaults.

    Raises:
        ConfigurationError: its path begins with the home of an unknown account, or the account has
            no home.
    """
    if named is not None:
        return expand_user(str(named), "--config").absolute()
    own = default_config_path(environment)
    if environment.get("ARAWN_CONFIG") or may_exist(own):
        return own
    if of_main := _named_by(environment, "ARAWN_DATA_DIR"):
        others = [of_main / CONFIG_MAIN]
    elif environment.get("ARAWN_CONFIG_DIR"):
        others = []
    else:
        others = [Path.home() / _DIRECTORY_MAIN / CONFIG_MAIN, system_file]
    return next((path for path in others if may_exist(path)), None)


def default_config_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the current account's configuration file. It may not exist.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    return _named_by(environment, "ARAWN_CONFIG") or default_directory(environment) / CONFIG


def default_directory(environment: Mapping[str, str]) -> Path:
    """Return the configuration directory of Arawn 0.0. `XDG_CONFIG_HOME` does not move it.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    if named := _named_by(environment, "ARAWN_CONFIG_DIR"):
        return named
    home = home_directory()
    if home is None:
        raise ConfigurationError("this account has no home directory: name the configuration with --config")
    return home / _DIRECTORY_V0


def home_directory() -> Path | None:
    """Return the home of the current account: `$HOME`, else the one in passwd(5), else None."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def find_root(base_path: str | None, root_name: str | None, sources: Sources) -> tuple[Path, str, tuple[Path, ...]]:
    """Return the root that an option, the environment or the file names, else the only one.

    The result has its path, which may not exist, its source (an option, `$VARIABLE`, the path of
    the file or `default`) and the places where its database can be, first match first. `root_name`
    is the name of a root in `[[maintenance.roots]]`.

    Raises:
        NoRootError: no place has a root.
        RootNotFoundError: several places have one.
        ConfigurationError: the configured database is missing.
        RefusedError: the path is empty.
    """
    maintenance, base = sources.tables.maintenance, sources.base
    if root_name is not None:
        path = _named_root(maintenance.root, f"path of the root {root_name}", base)
        return path, str(sources.file), _configured(path, f"database of the root {root_name}", maintenance.database, base)
    if base_path is not None:
        path, source = _named_root(base_path, "--base-path", PathBase(Path())), "--base-path"
    elif "ARAWN_BASE_PATH" in sources.environment:
        path, source = _named_root(sources.environment["ARAWN_BASE_PATH"], "ARAWN_BASE_PATH", PathBase(Path())), "$ARAWN_BASE_PATH"
    elif maintenance.root:
        path, source = _named_root(maintenance.root, "[maintenance] root", base), str(sources.file)
    else:
        path, source = _only_candidate(sources)
    return path, source, _databases(path, sources)


def _named_root(value: str, source: str, base: PathBase) -> Path:
    if not value.strip():
        raise RefusedError(f"{source} is empty: refused, since cleanup would not know where the root is")
    return base.path(value, source)


def _only_candidate(sources: Sources) -> tuple[Path, str]:
    """Return the one place that has a root, and its source.

    Raises:
        NoRootError: there is none.
        RootNotFoundError: there are several.
    """
    found, maintenance = _candidates(sources), sources.tables.maintenance
    if not found:
        raise NoRootError(
            f"no Arawn root found: no {WORKSTREAMS}/ in any of {', '.join(escape(str(path)) for path in _places(sources))}; "
            f"name the folder that holds {WORKSTREAMS}/ with --base-path, ARAWN_BASE_PATH or [maintenance] root"
            + (f", or select a root of the file with --root: {maintenance.root_names}" if maintenance.roots else "")
            + "; arawn-cli demo shows all commands on a sample root"
        )
    if len(found) > 1:
        raise RootNotFoundError(
            f"{len(found)} folders can be Arawn's root: name the one that your server uses with --base-path, ARAWN_BASE_PATH or "
            "[maintenance] root" + "".join(f"\n  {escape(str(path))}: {_newest(path)}" for path in found)
        )
    return next(iter(found.items()))


def _newest(root: Path) -> str:
    from arawn_cli.arawn.turns import newest_message  # only an error lists roots

    newest = newest_message(root)
    return "no message" if newest is None else f"newest message {timestamps.render(newest)}"


def _candidates(sources: Sources) -> dict[Path, str]:
    """Return the places that have a root, without the roots that have a name."""
    named = {sources.base.normal(entry.path) for entry in sources.tables.maintenance.roots}
    return {
        path: source
        for path, source in _places(sources).items()
        if named.isdisjoint((os.path.normpath(path), os.path.realpath(path)))
        and is_candidate(path, (*_beside(path), *_of_server(path, sources)))
    }


def _places(sources: Sources) -> dict[Path, str]:
    """Return every directory to which an Arawn server can write, with its source.

    In a file of another account, the home is that of the other account.
    """
    tables, base, of_file = sources.tables, sources.base, str(sources.file)
    home = base.home or home_directory()
    config_directory, data_directory = (_named_by(sources.environment, name) for name in ("ARAWN_CONFIG_DIR", "ARAWN_DATA_DIR"))
    places = (
        (base.path_if_set(tables.workstream.data_dir, "[workstream] data_dir"), of_file),
        (base.path_if_set(tables.paths.base_path, "[paths] base_path"), of_file),
        (_default_of_v0(sources), DEFAULT),
        (config_directory and config_directory / WORKSTREAMS, "$ARAWN_CONFIG_DIR"),
        (None if config_directory or home is None else home / _DIRECTORY_V0 / WORKSTREAMS, DEFAULT),
        (data_directory, "$ARAWN_DATA_DIR"),
        (base.path_if_set(tables.storage.data_dir, "[storage] data_dir"), of_file),
        (home and home / _DIRECTORY_MAIN, DEFAULT),
    )
    unique: dict[str, tuple[Path, str]] = {}
    for path, source in places:
        if path is not None:
            unique.setdefault(os.path.realpath(path), (path, source))
    return dict(unique.values())


def _default_of_v0(sources: Sources) -> Path | None:
    """Return the default root of an Arawn 0.0 with this file, or None if only main reads it."""
    if sources.file is not None and sources.file.name == CONFIG_MAIN:
        return None
    return sources.base.directory / WORKSTREAMS


def _databases(root: Path, sources: Sources) -> tuple[Path, ...]:
    """Return the places where the database of the main root can be, first match first.

    `[maintenance] database` belongs to `[maintenance] root`, else to the only candidate.

    Raises:
        ConfigurationError: the configured database is missing.
    """
    tables, base = sources.tables, sources.base
    if tables.maintenance.database is not None:
        named = base.path_if_set(tables.maintenance.root, "[maintenance] root")
        mains = list(_candidates(sources)) if named is None else [named]
        if len(mains) == 1 and _is_same(root, mains[0]):
            return _configured(root, "[maintenance] database", tables.maintenance.database, base)
    of_server = _of_server(root, sources)
    if of_server and tables.workstream.database is not None:
        return _configured(root, "[workstream] database", tables.workstream.database, base)
    return (*_beside(root), *of_server)


def _configured(root: Path, source: str, configured: str | None, base: PathBase) -> tuple[Path, ...]:
    """Return the configured database, else the places in and beside the root.

    Raises:
        ConfigurationError: the configured database is missing.
    """
    if configured is None:
        return _beside(root)
    if not configured:
        return ()
    path = base.path(configured, source)
    if not os.path.isfile(path):
        raise ConfigurationError(f"{source}: {path} does not exist, or is not a file")
    return (path,)


def _beside(root: Path) -> tuple[Path, ...]:
    return (root / DATABASE_V0, root / DATABASE_MAIN, root.parent / DATABASE_V0)


def _of_server(root: Path, sources: Sources) -> tuple[Path, ...]:
    """Return the database of the Arawn 0.0 that reads this file, if it uses this root.

    It has one root and one database, so at most one root has this database: evidence of one server
    must not decide about the sessions of another.
    """
    server = _root_of_server(sources)
    if server is None or not _is_same(root, server):
        return ()
    return (sources.base.path(sources.tables.workstream.database or DATABASE_V0, "[workstream] database"),)


def _root_of_server(sources: Sources) -> Path | None:
    """Return the root of the Arawn 0.0 that reads this file, or None if it is unknown."""
    tables, base, default = sources.tables, sources.base, _default_of_v0(sources)
    named = base.path_if_set(tables.workstream.data_dir, "[workstream] data_dir")
    if named is not None or default is None:
        return named
    if is_candidate(default, (base.directory / DATABASE_V0,)):
        return default
    return base.path_if_set(tables.paths.base_path or tables.maintenance.root, "[paths] base_path")


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
