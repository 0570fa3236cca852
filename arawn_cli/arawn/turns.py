"""Find the last turn of each scratch session in the messages of all workstreams.

In Arawn 0.0 a turn is a line of the `messages.jsonl` of any workstream. On Arawn's main branch each
session has its own `messages.jsonl`, whose mtime is the time of its last turn. It lies in the
workstream of the session, so a session of scratch that was promoted has one elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.arawn.layout import MESSAGES, SCRATCH, V0, WORKSTREAMS
from arawn_cli.arawn.messages import EVERY_SESSION, Damage, MessageLog, OtherMessagesError, Turns
from arawn_cli.arawn.root import Root
from arawn_cli.errors import Failure, never_stopping
from arawn_cli.fs.mounts import mount_points, require_answer
from arawn_cli.fs.openat import Entry, FileKind, Identity, LinkError, entries, exists, identity_of, opened_directory, opened_file
from arawn_cli.names import escape, is_valid_id
from arawn_cli.timestamps import latest


def messages_reader(
    root: Root, sessions: Collection[str], workstreams_with_turns: Collection[str], stopping: Callable[[], bool] = never_stopping
) -> MessagesReader:
    """Return a reader of the turns of these scratch sessions, for the layout of the root.

    `workstreams_with_turns` are those of which the database says that there were turns.
    """
    if root.layout is V0:
        return _Lines(root, sessions, workstreams_with_turns, stopping)
    return _Files(root, sessions, stopping)


class MessagesReader(ABC):
    """The turns that were found so far.

    Attributes:
        newest: the newest turn of each session, in nanoseconds since the epoch.
        damage: the newest damage that counts for a session, or for `EVERY_SESSION`.
        attached: the workstreams that sessions belong to, as far as messages tell. On main they lie
            there. In 0.0 a turn there counts only without a database, because the turn of a scratch
            session can be in any workstream.
        failures: messages that could not be read and may be of any session, by path.
        own_failures: messages of one session that could not be read, by its id.
        damaged_lines: number of lines that are not messages.
        found: whether there are messages of any workstream.
    """

    def __init__(self, root: Root, sessions: Collection[str], stopping: Callable[[], bool]) -> None:
        """Read nothing yet."""
        self._root = root
        self._stopping = stopping
        self._mounts: frozenset[str] = frozenset()
        self._sessions = frozenset(sessions)
        self.newest: dict[str, int] = {}
        self.damage: dict[str | None, Damage] = {}
        self.attached: dict[str, str] = {}
        self.failures: dict[str, Failure] = {}
        self.own_failures: dict[str, Failure] = {}
        self.damaged_lines = 0
        self.found = False

    @abstractmethod
    def read(self, sessions: Collection[str]) -> None:
        """Read all messages, or those written since, as far as they can concern these sessions.

        Without any session only check that the messages can be read.

        Raises:
            StoppedError: a signal asked the run to end.
        """

    def damage_of(self, session: str) -> Damage | None:
        """Return the newest damage that counts for a session."""
        found = [self.damage[name] for name in (session, EVERY_SESSION) if name in self.damage]
        return max(found, key=lambda damage: damage.at, default=None)

    def _other_directories(self) -> list[str]:
        """Return the names of all directories beside scratch. A link counts: opening it fails."""
        try:
            listed, self._mounts = entries(self._root.workstreams), mount_points()
        except OSError as error:
            self.failures[WORKSTREAMS] = Failure.of("list", WORKSTREAMS, error)
            return []
        return [entry.name for entry in listed if entry.kind in (FileKind.DIRECTORY, FileKind.LINK) and entry.name != SCRATCH]

    def _require_answer(self, workstream: str) -> None:
        """Check that a workstream that is a mount can be read without waiting for ever.

        Raises:
            OSError: the mount does not answer.
        """
        path = f"{self._root.path}/{WORKSTREAMS}/{workstream}"
        if path in self._mounts:
            require_answer(path, self._stopping)

    def _fail(self, names: tuple[str, ...], error: OSError) -> None:
        path = "/".join((WORKSTREAMS, *names))
        self.failures[path] = Failure.of("read", path, error)


@dataclass(slots=True)
class _File:
    """The messages of a workstream.

    Attributes:
        stamp: inode, size and mtime when they were read.
        other: the newest file beside them that may hold older messages, such as one of logrotate.
    """

    workstream: str
    log: MessageLog
    stamp: tuple[int, int, int] | None = None
    other: Damage | None = None


class _Lines(MessagesReader):
    """Arawn 0.0: one file for each workstream; each line names its session."""

    def __init__(
        self, root: Root, sessions: Collection[str], workstreams_with_turns: Collection[str], stopping: Callable[[], bool]
    ) -> None:
        """Read nothing yet."""
        super().__init__(root, sessions, stopping)
        self._with_turns = frozenset(filter(is_valid_id, workstreams_with_turns))
        # By identity, because the promotion of scratch renames the directory that holds its file.
        self._files: dict[Identity, _File] = {}

    def read(self, sessions: Collection[str]) -> None:
        if self.failures:
            return  # nothing can be due any more
        before = {identity: file.stamp for identity, file in self._files.items()}
        missing = set(before)
        others = [name for name in self._other_directories() if is_valid_id(name) or self._has_messages(name)]
        for workstream in sorted({SCRATCH, *self._with_turns, *others}):
            try:
                self._require_answer(workstream)
                missing.discard(self._read_file(workstream))
            except OSError as error:
                self._fail((workstream, MESSAGES), error)
        for identity in missing:
            self._fail((self._files[identity].workstream, MESSAGES), OtherMessagesError())
        if any(file.stamp != before.get(identity) for identity, file in self._files.items()):
            self._collect()

    def _has_messages(self, directory: str) -> bool:
        """Whether a directory of another name than Arawn gives is a workstream that was renamed.

        A mount may hang, so it is none. A link that leads to one may be, and cannot be read anyway.
        """
        path = f"{self._root.path}/{WORKSTREAMS}/{directory}"
        if path in self._mounts:
            return False
        try:
            require_answer(path, self._stopping)
            return exists(f"{directory}/{MESSAGES}", self._root.workstreams)
        except OSError as error:
            return error.errno in (errno.ETIMEDOUT, errno.EAGAIN)

    def _read_file(self, workstream: str) -> Identity | None:
        """Read the messages of a workstream; return the identity of the file, or None without one.

        Raises:
            OSError: the file cannot be read, or proves nothing.
        """
        directory: int | None = None
        descriptor: int | None = None
        with ExitStack() as stack:
            with suppress(FileNotFoundError):
                directory = stack.enter_context(opened_directory(self._root.workstreams, workstream))
                seen = os.stat(MESSAGES, dir_fd=directory, follow_symlinks=False)
                if (known := self._files.get(identity_of(seen))) and known.stamp == _stamp(seen):
                    return identity_of(seen)
                descriptor = stack.enter_context(opened_file(MESSAGES, directory))
            # Listed after the file was opened: if it is renamed before, its new name is found.
            others = [] if directory is None else _other_messages(workstream, directory)
            if descriptor is None or not os.fstat(descriptor).st_size:
                self._require_no_turns(workstream, others)
            if descriptor is None:
                return None
            status = os.fstat(descriptor)
            new = _File(workstream, MessageLog("/".join((WORKSTREAMS, workstream, MESSAGES)), self._sessions))
            file = self._files.setdefault(identity_of(status), new)
            self.found = self.found or status.st_size > 0
            if self._sessions:
                file.log.read(descriptor, self._stopping)
                if status.st_size and file.log.turns.latest is None:
                    raise OSError(errno.EBADMSG, "no line of it is a message, from byte 0 on")
                file.other = max(others, key=lambda damage: damage.at, default=None)
            file.stamp = _stamp(status)
        return identity_of(status)

    def _require_no_turns(self, workstream: str, others: Sequence[Damage]) -> None:
        """Check that missing or empty messages are those of a workstream without turns.

        There were turns if the database records some, or if Arawn's file was renamed.

        Raises:
            OSError: there were turns.
        """
        if others:
            renamed = escape(others[0].path.rpartition("/")[2])
            raise OSError(errno.ENODATA, f"there are no messages, but {renamed} lies there: put them back")
        if workstream in self._with_turns:
            raise OSError(errno.ENODATA, "there are no messages, although the database records turns: put the file back")

    def _collect(self) -> None:
        """Combine the turns of all files."""
        self.newest, self.damage, self.damaged_lines = {}, {}, 0
        for file in self._files.values():
            turns = file.log.turns
            self.damaged_lines += turns.damaged_lines
            for session, at in turns.newest.items():
                self.newest[session] = max(at, self.newest.get(session, at))
            other = {EVERY_SESSION: file.other} if file.other else {}
            for name, damage in (*turns.damage.items(), *other.items()):
                if name not in self.damage or damage.at > self.damage[name].at:
                    self.damage[name] = damage
            if file.workstream != SCRATCH and self._root.database is None:
                self.attached |= dict.fromkeys(turns.newest, file.workstream)


class _Files(MessagesReader):
    """Arawn's main branch: one file for each session. Only its mtime is needed."""

    def read(self, sessions: Collection[str]) -> None:
        sessions = frozenset(sessions)
        scratch = self._root.layout.sessions
        try:
            with opened_directory(self._root.workstreams, *scratch) as directory:
                for session in sessions:
                    try:
                        self._take(directory, session)
                    except OSError as error:
                        self.own_failures[session] = Failure.of("read", "/".join((WORKSTREAMS, *scratch, session, MESSAGES)), error)
        except FileNotFoundError:
            pass  # a new server, or somebody removed it: no session exists
        except OSError as error:
            self._fail(scratch, error)
        for workstream in self._other_directories():
            try:
                self._require_answer(workstream)
                with opened_directory(self._root.workstreams, workstream) as directory:
                    self._attach([entry for entry in entries(directory) if entry.name in sessions], directory, workstream)
            except FileNotFoundError:
                continue  # somebody removed the workstream since it was listed
            except OSError as error:
                if is_valid_id(workstream) or self._may_be_renamed(workstream, error):
                    self._fail((workstream,), error)

    def _attach(self, sessions: Iterable[Entry], directory: int, workstream: str) -> None:
        """Attach those of the sessions to a workstream that have messages in its open directory."""
        for session, kind in sessions:
            try:
                # A mount or link there may hang, and is a sign of the session, too.
                is_mount = f"{self._root.path}/{WORKSTREAMS}/{workstream}/{session}" in self._mounts
                if is_mount or kind is FileKind.LINK or self._take(directory, session):
                    self.attached[session] = workstream
            except OSError as error:
                self._fail((workstream, session, MESSAGES), error)

    def _may_be_renamed(self, name: str, error: OSError) -> bool:
        """Whether a name that Arawn gives no workstream, and that cannot be opened, may be one's.

        lost+found is none. Neither is a link to a file, or to nothing.
        """
        if not isinstance(error, LinkError):
            return not isinstance(error, PermissionError)
        try:
            require_answer(f"{self._root.path}/{WORKSTREAMS}/{name}", self._stopping)
            return stat.S_ISDIR(os.stat(name, dir_fd=self._root.workstreams).st_mode)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _take(self, directory: int, session: str) -> bool:
        """Take the time of a session's messages; return whether it has some in this directory.

        Raises:
            OSError: EINVAL if `messages.jsonl` is not a regular file, else as stat(2).
        """
        try:
            opened = os.open(session, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.stat(MESSAGES, dir_fd=opened, follow_symlinks=False)
            finally:
                os.close(opened)
        except (FileNotFoundError, NotADirectoryError):  # a link to a directory is none
            return False
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        self.found = True
        self.newest[session] = max(status.st_mtime_ns, self.newest.get(session, status.st_mtime_ns))
        return True


def _other_messages(workstream: str, directory: int) -> list[Damage]:
    """Return the other files of a workstream that may hold messages, however they were renamed.

    Such as `messages.jsonl.1.gz`, `messages.jsonl-20261128` or `messages (copy).jsonl`. Arawn 0.0
    puts nothing of such a name there. The turns in a file are not later than its mtime.
    """
    found: list[Damage] = []
    for entry in entries(directory):
        if "messages" in entry.name and entry.name != MESSAGES and entry.kind is not FileKind.DIRECTORY:
            with suppress(FileNotFoundError):
                at = os.stat(entry.name, dir_fd=directory, follow_symlinks=False).st_mtime_ns
                found.append(Damage(at, "/".join((WORKSTREAMS, workstream, entry.name)), None))
    return found


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


# ---- The newest turn of all

_TAIL_BYTES = 64 * 1024


def newest_message(root: Path) -> int | None:
    """Return the time of the newest message below a root in nanoseconds, or None without one.

    Arawn 0.0 writes the time into each line. The lines of its main branch have none, so there it is
    the time of the file. A file or directory that cannot be read is left out.
    """
    workstreams = _directories(root / WORKSTREAMS)
    sessions = (inner for workstream in workstreams for inner in _directories(workstream))
    return latest(*(_newest_in(directory / MESSAGES) for directory in (*workstreams, *sessions)))


def _directories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as listing:
            return [Path(entry.path) for entry in listing if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _newest_in(path: Path) -> int | None:
    turns = Turns(MESSAGES, frozenset())
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            file.seek(max(status.st_size - _TAIL_BYTES, 0))
            lines = file.read(_TAIL_BYTES).splitlines()
    except OSError:
        return None
    for line in lines:
        turns.take(line, 0)
    return turns.latest or (status.st_mtime_ns if lines else None)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
