"""Resolve relative paths of the configuration, and `~` in them."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.errors import ConfigurationError


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
            if b"maintenance" not in own.read_bytes():
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
