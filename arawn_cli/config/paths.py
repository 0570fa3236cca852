"""What paths of the configuration mean: where relative ones begin, and whose home `~` is."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Base:
    """Where the paths of one file begin.

    Attributes:
        directory: that of the file; without a file, where the account's own would be.
        home: what `~` stands for, or None for the home of the account that runs this.
    """

    directory: Path
    home: Path | None = None

    def path(self, value: str, source: str) -> Path:
        """A path of the file, absolute if the directory is.

        Raises:
            ConfigurationError: it begins with the home directory of nobody; `source` says where the path stands.
        """
        return self.directory / expanded(self._of_home(value), source)

    def normal(self, value: str) -> str:
        """A path of the file as it is compared: absolute, and by its letters alone, since the disk of another root may not answer."""
        return os.path.normpath(self.directory / os.path.expanduser(self._of_home(value)))

    def _of_home(self, value: str) -> str:
        return f"{self.home}{value[1:]}" if self.home is not None and value.partition("/")[0] == "~" else value


def base_of(file: Path) -> Base:
    """Where the paths of a file begin: `~` in the file of another account is the home of that one, as it is to the server that reads it.

    A file of root's is for all accounts, and `~` is the home of the one that reads it.
    """
    try:
        owner = file.stat().st_uid
        home = None if owner in (0, os.geteuid()) else Path(pwd.getpwuid(owner).pw_dir)
    except (OSError, KeyError):  # reading the file tells; an account without an entry has no home
        home = None
    return Base(file.parent, home)


def unread(root: Path, read: Path | None, *, on_purpose: bool = False) -> str | None:
    """Says that the account that owns a root has a configuration, by which its Arawn goes, and that another file was read, or none.

    An account that names another file `on_purpose` knows its own; for the root of another account a name proves nothing.
    """
    own = unread_file(root, read)
    if own is None or (on_purpose and root.stat().st_uid == os.geteuid()):
        return None
    return f"{own} of the account that owns {root} is not read, and its days and limits do not count: name it with --config"


def unread_file(root: Path, read: Path | None) -> Path | None:
    """The configuration of the account that owns a root, unless it is the file that was read."""
    try:
        own = Path(pwd.getpwuid(root.stat().st_uid).pw_dir, ".config", "arawn", "config.toml")
        if read is not None and own.samefile(read):
            return None
        own.stat()
    except (OSError, KeyError):  # there is none, or none that this account may see
        return None
    return own


def expanded(value: str, source: str) -> Path:
    """A path with its `~` followed.

    Raises:
        ConfigurationError: it begins with the home directory of nobody; `source` says where the path stands.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{source}: nobody's home directory is known by the name in {value!r}") from error
