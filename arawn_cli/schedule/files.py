"""Unit files and /etc/cron.d: written whole or not at all, and taken away with the directories that came with them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.schedule.changes import Change, ScheduleError
from arawn_cli.schedule.ownership import condition_of, made_with, sealed
from arawn_cli.vocabulary import Condition
from arawn_cli.whole_file import replace_whole


@dataclass(frozen=True, slots=True)
class OwnDirectory:
    """A directory that the jobs need and the tool makes: with the mode 0700, for an account by its numbers."""

    path: Path
    user: int
    group: int


@dataclass(frozen=True, slots=True)
class FileStore:
    """Files in one directory.

    Attributes:
        names: every file that the tool may have there.
        own: directories that are made with the files.
        watched: directories that another program makes on account of them, and that go with them when they are empty.
    """

    directory: Path
    names: Collection[str]
    own: tuple[OwnDirectory, ...] = ()
    watched: tuple[Path, ...] = ()

    def installing(self, bodies: Mapping[str, str]) -> list[Change]:
        """A change for each body whose file is not what it should be; the first line is added when it is written."""
        changes = []
        for name, body in bodies.items():
            found = self.text(name)
            condition = condition_of(found, body)
            if condition is not Condition.CURRENT:
                changes.append(Change(str(self.directory / name), name, found, body, condition))
        return changes

    def removing(self) -> list[Change]:
        """A change for each file of the tool's; what it did not write at all is none of its business."""
        found = [(name, self.text(name)) for name in self.names]
        changes = [Change(str(self.directory / name), name, text, None, condition_of(text, None)) for name, text in found]
        return [change for change in changes if change.condition not in (Condition.MISSING, Condition.FOREIGN)]

    def conditions(self, bodies: Mapping[str, str]) -> dict[str, Condition]:
        """What is found for each body."""
        return {name: condition_of(self.text(name), body) for name, body in bodies.items()}

    def text(self, name: str) -> str | None:
        """A file's text; a link, which masks a unit, shows as a text of its own.

        Raises:
            ScheduleError: it is there and cannot be read.
        """
        path = self.directory / name
        try:
            if path.is_symlink():
                return f"symbolic link to {os.readlink(path)}\n"
            return path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ScheduleError(f"cannot read {path}: {error.strerror}") from error

    def since(self, name: str) -> int | None:
        """When a file was written; None where there is none."""
        try:
            return os.lstat(self.directory / name).st_mtime_ns
        except OSError:
            return None

    def apply(self, changes: Sequence[Change]) -> None:
        """Writes and removes files; directories that were made for them are kept in mind in the first that is written.

        Raises:
            ScheduleError: a file or directory cannot be made or removed, or a file is not what it was when it was looked at.
        """
        for change in changes:
            if self.text(change.name) != change.before:
                raise ScheduleError(f"{change.place} was changed meanwhile, and is left as it is: run this again")
        try:
            self._apply(changes)
        except OSError as error:
            raise ScheduleError(f"cannot change {error.filename}: {error.strerror}") from error

    def _apply(self, changes: Sequence[Change]) -> None:
        written = [change for change in changes if change.after is not None]
        made = self._make_directories() if written else ()
        try:
            for change in written:
                replace_whole(Path(change.place), sealed(change.after or "", (*made_with(change.before), *made)))
                made = ()
        except OSError:
            _take_away(made)
            raise
        removed = [change for change in changes if change.after is None]
        for change in removed:
            os.unlink(change.place)
        _take_away({path for change in removed for path in made_with(change.before)})

    def _make_directories(self) -> tuple[str, ...]:
        made = [path for wanted in (self.directory, *self.watched, *(own.path for own in self.own)) for path in _missing(wanted)]
        os.makedirs(self.directory, exist_ok=True)
        for own in self.own:
            for path in _missing(own.path):
                os.mkdir(path, 0o700)
                os.chown(path, own.user, own.group)
        return tuple(dict.fromkeys(str(path) for path in made))


def _take_away(directories: Collection[str]) -> None:
    for path in sorted(directories, key=len, reverse=True):
        with suppress(OSError):  # in use by others since, or gone
            os.rmdir(path)


def _missing(path: Path) -> list[Path]:
    """The directories that it takes to make one, outermost first."""
    return [each for each in reversed((path, *path.parents)) if not os.path.lexists(each)]
