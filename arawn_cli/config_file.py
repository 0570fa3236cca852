"""The configuration file: where it is found, and its text as checked tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from arawn_cli.config_paths import Base, base_of, expanded
from arawn_cli.config_problems import near_misses, problems_of
from arawn_cli.config_roots import clashes
from arawn_cli.config_tables import ConfigFile
from arawn_cli.errors import ConfigurationError
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
