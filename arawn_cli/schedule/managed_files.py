"""Write files that the tool owns, and detect edits by others."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import Condition
from arawn_cli.fs.files import write_atomic

_SEAL = re.compile(r"# arawn-cli schedule sha256=([0-9a-f]{64}) made=(\[.*\])\n", re.ASCII)


def sealed(body: str, made: Sequence[str] = ()) -> str:
    """A file's text: the first line with the hash of all others and the directories made with it, and the body."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"# arawn-cli schedule sha256={digest} made={json.dumps(list(made))}\n{body}"


def condition_of(found: str | None, body: str | None) -> Condition:
    """What a text found is, compared with the body wanted; with None for it, an untouched text is outdated."""
    if found is None:
        return Condition.MISSING
    match = _SEAL.match(found)
    if match is None:
        return Condition.FOREIGN
    rest = found[match.end() :]
    if rest == body:
        return Condition.CURRENT
    untouched = hashlib.sha256(rest.encode("utf-8", "surrogateescape")).hexdigest() == match[1]
    return Condition.OUTDATED if untouched else Condition.EDITED


def made_with(found: str | None) -> tuple[str, ...]:
    """The directories that the first line says were made, outermost first; none where there is no such line."""
    match = _SEAL.match(found or "")
    if match is None:
        return ()
    try:
        made = json.loads(match[2])
    except ValueError:
        return ()
    return tuple(path for path in made if isinstance(path, str))


class ScheduleError(ArawnCliError):
    """A step of installing, removing or asking failed; the steps before it are done."""

    exit_code = ExitCode.PARTIAL


class TangledError(ScheduleError):
    """Lines of the tool's run, and it cannot tell which are whose."""


class NoSchedulerError(ScheduleError):
    """The scheduler is not on this machine; nothing is done."""

    exit_code = ExitCode.USAGE


class AskedWronglyError(ArawnCliError):
    """The command line asks for what cannot be done here."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Change:
    """One file, or one crontab. `before` and `after` are whole texts, or None where there is none."""

    place: str
    name: str
    before: str | None
    after: str | None
    condition: Condition

    @property
    def needs_question(self) -> bool:
        """Whether it would overwrite or remove what the tool did not write."""
        return self.condition in (Condition.EDITED, Condition.FOREIGN)

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff, without their ends."""
        before, after = (_lines(text) for text in (self.before, self.after))
        old = "/dev/null" if self.before is None else self.place
        new = "/dev/null" if self.after is None else self.place
        return difflib.unified_diff(before, after, old, new, lineterm="")


class Store(Protocol):
    """A place that holds what is installed."""

    def installing(self, bodies: Mapping[str, str]) -> list[Change]:
        """A change for each body whose file is not what it should be."""

    def removing(self) -> list[Change]:
        """A change for each file found, foreign ones left out."""

    def conditions(self, bodies: Mapping[str, str]) -> dict[str, Condition]:
        """What is found for each body."""

    def text(self, name: str) -> str | None:
        """What is found under a name."""

    def since(self, name: str) -> int | None:
        """When it was written, in nanoseconds since the epoch; None where that is not known."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Makes the changes.

        Raises:
            ScheduleError: a file or crontab cannot be changed.
        """


def _lines(text: str | None) -> list[str]:
    return [line for line in (text or "").splitlines() if not line.startswith("# arawn-cli schedule sha256=")]


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
                write_atomic(Path(change.place), sealed(change.after or "", (*made_with(change.before), *made)))
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
