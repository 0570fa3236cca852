"""Write and remove the files of a schedule, and detect edits by others.

The first line of each file holds the hash of the rest, so that an edited file is never overwritten
or removed unasked.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.command_events import Condition
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.fs.files import write_atomic
from arawn_cli.fs.openat import open_directory
from arawn_cli.fs.permissions import Login, way_to
from arawn_cli.schedule.places import read_installed

_HEADER = re.compile(r"# arawn-cli schedule sha256=([0-9a-f]{64})[^\n]*\n", re.ASCII)


class ScheduleError(ArawnCliError):
    """A step failed; earlier steps are done."""

    exit_code = ExitCode.PARTIAL


class SchedulerMissingError(ScheduleError):
    """The scheduler does not exist on this machine; nothing was done."""

    exit_code = ExitCode.USAGE


class UsageError(ArawnCliError):
    """The command line asks for something that is not possible here; nothing was done."""

    exit_code = ExitCode.USAGE


def with_header(body: str) -> str:
    """Return a body with its first line, the hash of the body."""
    return f"# arawn-cli schedule sha256={hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def condition_of(text: str | None, body: str | None) -> Condition:
    """Compare an installed text with its body. Without a body, an unedited text is outdated."""
    if text is None:
        return Condition.MISSING
    header = _HEADER.match(text)
    if header is None:
        return Condition.FOREIGN
    installed = text[header.end() :]
    if installed == body:
        return Condition.CURRENT
    is_unedited = hashlib.sha256(installed.encode("utf-8", "surrogateescape")).hexdigest() == header[1]
    return Condition.OUTDATED if is_unedited else Condition.EDITED


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the whole text of a file or crontab; None means that it does not exist."""

    place: str
    name: str
    before: str | None
    after: str | None
    condition: Condition

    @property
    def is_of_others(self) -> bool:
        """Return whether it would overwrite or remove text that this tool did not write."""
        return self.condition in (Condition.EDITED, Condition.FOREIGN)

    def diff(self) -> Iterator[str]:
        """Yield the lines of a unified diff, without line ends."""
        before, after = (
            [line for line in (text or "").splitlines() if not line.startswith("# arawn-cli schedule sha256=")]
            for text in (self.before, self.after)
        )
        old = "/dev/null" if self.before is None else self.place
        new = "/dev/null" if self.after is None else self.place
        return difflib.unified_diff(before, after, old, new, lineterm="")


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """A directory with mode 0700 that this tool creates for the jobs, owned by this id."""

    path: Path
    user: int


@dataclass(frozen=True, slots=True)
class FileStore:
    """Files in one directory.

    Attributes:
        names: all files that this tool may have there.
        state: the directory to create with the files, if systemd does not.
    """

    directory: Path
    names: tuple[str, ...]
    state: StateDirectory | None = None

    def changes_to_install(self, bodies: Mapping[str, str]) -> list[Change]:
        """Return a change for each body that is not installed. `apply` adds the first line."""
        changes = [self._change(name, body) for name, body in bodies.items()]
        return [change for change in changes if change.condition is not Condition.CURRENT]

    def changes_to_remove(self) -> list[Change]:
        """Return a change for each installed file, except foreign ones."""
        changes = [self._change(name, None) for name in self.names]
        return [change for change in changes if change.condition not in (Condition.MISSING, Condition.FOREIGN)]

    def read(self, name: str) -> str | None:
        """Return the text of a file; see `read_installed`.

        Raises:
            ScheduleError: the file exists and is not readable.
        """
        path = self.directory / name
        try:
            return read_installed(path)
        except OSError as error:
            raise ScheduleError(f"cannot read {path}: {error.strerror}") from error

    def installed_at(self, name: str) -> int | None:
        """Return when a file was written; None if it does not exist."""
        try:
            return os.lstat(self.directory / name).st_mtime_ns
        except OSError:
            return None

    def apply(self, changes: Sequence[Change]) -> None:
        """Write and remove files. Directories that were created stay.

        Raises:
            ScheduleError: a file or directory cannot be changed, or a file has changed since the
                changes were computed.
        """
        for change in changes:
            if self.read(change.name) != change.before:
                raise ScheduleError(f"{change.place} was changed in the meantime, and is kept: run this again")
        try:
            for change in changes:
                if change.after is None:
                    os.unlink(change.place)
                    continue
                self._create_directories()
                if os.path.islink(change.place):  # a masked unit, which is replaced if the user agrees
                    os.unlink(change.place)
                write_atomic(Path(change.place), with_header(change.after))
        except OSError as error:
            raise ScheduleError(f"cannot change {error.filename}: {error.strerror}") from error

    def _change(self, name: str, body: str | None) -> Change:
        text = self.read(name)
        return Change(str(self.directory / name), name, text, body, condition_of(text, body))

    def _create_directories(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        if self.state:
            _create(self.state)


def _create(directory: StateDirectory) -> None:
    """Create a directory and its parents, as the account that controls the place.

    Raises:
        OSError: it cannot be created.
    """
    login = Login.of(directory.user)
    way = way_to(directory.path)
    if os.geteuid() != 0 or way.is_of_root:
        _create_by_descriptor(way.path, login)
        return
    if directory.user == 0:
        raise PermissionError(errno.EPERM, "another account decides about it", str(directory.path))
    with login.acting():
        _create_by_descriptor(way.path, login)


def _create_by_descriptor(path: Path, owner: Login) -> None:
    """Create the missing directories of a path without links, and give them to an account."""
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.parts[1:]:
            is_new = not os.path.lexists(f"/proc/self/fd/{directory}/{name}")
            if is_new:
                os.mkdir(name, 0o700, dir_fd=directory)
            below = open_directory(name, directory)
            os.close(directory)
            directory = below
            if is_new and os.geteuid() == 0:
                os.fchown(directory, owner.user, owner.group)
    finally:
        os.close(directory)
