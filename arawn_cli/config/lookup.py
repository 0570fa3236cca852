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
from arawn_cli.arawn.root import is_candidate, may_exist, newest_message
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
    """What the paths of one file are relative to.

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


def ignored_owner_config(root: Path, used: Path | None) -> Path | None:
    """Return the configuration file of the account that owns a root, unless it is in use.

    The file of Arawn's main branch always exists. It counts only if it has settings of this tool.
    """
    try:
        home = Path(pwd.getpwuid(root.stat().st_uid).pw_dir)
        own = home / ".config" / "arawn" / "config.toml"
        if not own.exists():
            own = home / ".arawn" / "arawn.toml"
            if b"maintenance" not in read_small_file(own, MAX_CONFIG_BYTES):
                return None
        if used is not None and own.samefile(used):
            return None
    except (OSError, KeyError):
        return None
    return own


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
    """There is no root, or it is unclear which one is meant."""


class NoRootError(RootNotFoundError):
    """No main root is named, and no place has one."""


@dataclass(frozen=True, slots=True)
class FoundRoot:
    """The root of a run.

    Attributes:
        path: its absolute path; it may not exist.
        source: what names it: an option, `$VARIABLE`, the path of the file, or `default`.
        databases: the places where its database can be, first match first.
    """

    path: Path
    source: str
    databases: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a root and its database can be named.

    Attributes:
        environment: the environment variables.
        file: the configuration file, or None for defaults.
        tables: the tables of the file; of a named root, with its own path and database.
        base: what the paths of the file are relative to.
    """

    environment: Mapping[str, str]
    file: Path | None
    tables: ConfigFile
    base: PathBase


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory that an Arawn server can use as its root. `source` is as in `FoundRoot`."""

    path: Path
    source: str


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
    if of_main := environment.get("ARAWN_DATA_DIR"):
        others = [expand_user(of_main, "ARAWN_DATA_DIR").absolute() / CONFIG_MAIN]
    elif environment.get("ARAWN_CONFIG_DIR"):
        others = []
    else:
        others = [*(home / _DIRECTORY_MAIN / CONFIG_MAIN for home in (home_directory(),) if home), system_file]
    return next((path for path in others if may_exist(path)), None)


def default_config_path(environment: Mapping[str, str]) -> Path:
    """Return the path of the current account's configuration file. It may not exist.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    if named := environment.get("ARAWN_CONFIG"):
        return expand_user(named, "ARAWN_CONFIG").absolute()
    return default_directory(environment) / CONFIG


def default_directory(environment: Mapping[str, str]) -> Path:
    """Return the configuration directory of Arawn 0.0. `XDG_CONFIG_HOME` does not move it.

    Raises:
        ConfigurationError: the account has no home directory.
    """
    if named := environment.get("ARAWN_CONFIG_DIR"):
        return expand_user(named, "ARAWN_CONFIG_DIR").absolute()
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


def find_root(base_path: str | None, root_name: str | None, sources: Sources) -> FoundRoot:
    """Return the root that an option, the environment or the file names, else the only one.

    `root_name` is the name of a root in `[[maintenance.roots]]`.

    Raises:
        NoRootError: no place has a root.
        RootNotFoundError: several places have one.
        ConfigurationError: the configured database is missing.
        RefusedError: the path is empty.
    """
    maintenance, base = sources.tables.maintenance, sources.base
    if root_name is not None:
        path = _named_root(maintenance.root, f"path of the root {root_name}", base)
        return FoundRoot(path, str(sources.file), _configured(path, f"database of the root {root_name}", maintenance.database, base))
    if base_path is not None:
        path, source = _named_root(base_path, "--base-path", PathBase(Path())), "--base-path"
    elif "ARAWN_BASE_PATH" in sources.environment:
        path, source = _named_root(sources.environment["ARAWN_BASE_PATH"], "ARAWN_BASE_PATH", PathBase(Path())), "$ARAWN_BASE_PATH"
    elif maintenance.root:
        path, source = _named_root(maintenance.root, "[maintenance] root", base), str(sources.file)
    else:
        only = _only_candidate(sources)
        path, source = only.path, only.source
    return FoundRoot(path, source, _databases(path, sources))


def _named_root(value: str, source: str, base: PathBase) -> Path:
    if not value.strip():
        raise RefusedError(f"{source} is empty: refused, since cleanup would not know where the root is")
    return base.path(value, source)


def _only_candidate(sources: Sources) -> _Place:
    """Return the one place that has a root.

    Raises:
        NoRootError: there is none.
        RootNotFoundError: there are several.
    """
    found, roots = _candidates(sources), sources.tables.maintenance.roots
    if not found:
        raise NoRootError(
            f"no Arawn root found: no {WORKSTREAMS}/ in any of {', '.join(escape(str(place.path)) for place in _places(sources))}; "
            f"name the folder that holds {WORKSTREAMS}/ with --base-path, ARAWN_BASE_PATH or [maintenance] root"
            + (f", or select a root of the file with --root: {sources.tables.maintenance.root_names}" if roots else "")
            + "; arawn-cli demo shows all commands on a sample root"
        )
    if len(found) > 1:
        raise RootNotFoundError(
            f"{len(found)} folders can be Arawn's root: name the one that your server uses with --base-path, ARAWN_BASE_PATH or "
            "[maintenance] root" + "".join(f"\n  {escape(str(place.path))}: {_newest(place.path)}" for place in found)
        )
    return found[0]


def _newest(root: Path) -> str:
    newest = newest_message(root)
    return "no message" if newest is None else f"newest message {timestamps.render(newest)}"


def _candidates(sources: Sources) -> list[_Place]:
    """Return the places that have a root, without the roots that have a name."""
    named = {sources.base.normal(entry.path) for entry in sources.tables.maintenance.roots}
    return [
        place
        for place in _places(sources)
        if named.isdisjoint((os.path.normpath(place.path), os.path.realpath(place.path)))
        and is_candidate(place.path, (*_beside(place.path), *_of_server(place.path, sources)))
    ]


def _places(sources: Sources) -> list[_Place]:
    """Return every directory to which an Arawn server can write, without repetitions.

    In a file of another account, the home is that of the other account.
    """
    tables, base, environment, of_file = sources.tables, sources.base, sources.environment, str(sources.file)
    home = base.home or home_directory()
    found = [
        _Place(base.path(value, key), of_file)
        for value, key in ((tables.workstream.data_dir, "[workstream] data_dir"), (tables.paths.base_path, "[paths] base_path"))
        if value is not None
    ]
    if (default := _default_of_v0(sources)) is not None:
        found.append(_Place(default, DEFAULT))
    if named := environment.get("ARAWN_CONFIG_DIR"):
        found.append(_Place(expand_user(named, "ARAWN_CONFIG_DIR").absolute() / WORKSTREAMS, "$ARAWN_CONFIG_DIR"))
    elif home is not None:
        found.append(_Place(home / _DIRECTORY_V0 / WORKSTREAMS, DEFAULT))
    if named := environment.get("ARAWN_DATA_DIR"):
        found.append(_Place(expand_user(named, "ARAWN_DATA_DIR").absolute(), "$ARAWN_DATA_DIR"))
    if tables.storage.data_dir is not None:
        found.append(_Place(base.path(tables.storage.data_dir, "[storage] data_dir"), of_file))
    if home is not None:
        found.append(_Place(home / _DIRECTORY_MAIN, DEFAULT))
    unique: dict[str, _Place] = {}
    for place in found:
        unique.setdefault(os.path.realpath(place.path), place)
    return list(unique.values())


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
        mains = [place.path for place in _candidates(sources)]
        if tables.maintenance.root:
            mains = [base.path(tables.maintenance.root, "[maintenance] root")]
        if len(mains) == 1 and _is_same(root, mains[0]):
            return _configured(root, "[maintenance] database", tables.maintenance.database, base)
    if tables.workstream.database is not None and _is_root_of_server(root, sources):
        return _configured(root, "[workstream] database", tables.workstream.database, base)
    return (*_beside(root), *_of_server(root, sources))


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
    """Return the database of the Arawn 0.0 that reads this file, if it uses this root."""
    if not _is_root_of_server(root, sources):
        return ()
    return (sources.base.path(sources.tables.workstream.database or DATABASE_V0, "[workstream] database"),)


def _is_root_of_server(root: Path, sources: Sources) -> bool:
    """Return whether the Arawn 0.0 that reads this file uses this root.

    It has one root and one database, so at most one root has this database: evidence of one server
    must not decide about the sessions of another.
    """
    tables, base = sources.tables, sources.base
    if tables.workstream.data_dir is not None:
        return _is_same(root, base.path(tables.workstream.data_dir, "[workstream] data_dir"))
    default = _default_of_v0(sources)
    if default is None:
        return False
    if is_candidate(default, (base.directory / DATABASE_V0,)):
        return _is_same(root, default)
    named = next(filter(None, (tables.paths.base_path, tables.maintenance.root)), None)
    return named is not None and _is_same(root, base.path(named, "[paths] base_path"))


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
