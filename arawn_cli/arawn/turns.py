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
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from arawn_cli.arawn import messages
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, WORKSTREAMS, Generation
from arawn_cli.arawn.root import Root
from arawn_cli.errors import Failure
from arawn_cli.fs.openat import FileKind, entries, opened_directory, opened_file
from arawn_cli.names import is_valid_id
from arawn_cli.timestamps import latest


def messages_reader(root: Root, sessions: Collection[str], cutoff: int, workstreams_with_turns: Collection[str]) -> MessagesReader:
    """Return the reader for the generation of Arawn that wrote the root.

    Args:
        root: the open root.
        sessions: ids of the scratch sessions.
        cutoff: older turns need not be found, in nanoseconds since the epoch.
        workstreams_with_turns: workstreams of which the database says that there were turns.
    """
    if root.layout.generation is Generation.V0:
        return _Lines(root, sessions, cutoff, workstreams_with_turns)
    return _Files(root, sessions)


class MessagesReader(ABC):
    """The turns that were found so far.

    Attributes:
        newest: the newest turn of each session, in nanoseconds since the epoch.
        attached: the workstreams that sessions belong to, as far as messages tell. On main they lie
            there. In 0.0 a turn there counts only without a database, because the turn of a scratch
            session can be in any workstream.
        failures: messages that could not be read and may be of any session, by path.
        own_failures: messages of one session that could not be read, by its id.
        unreadable_lines: number of lines that are not messages.
        found: whether there are messages of any workstream.
    """

    def __init__(self, root: Root, sessions: Collection[str]) -> None:
        """Read nothing yet."""
        self._root = root
        self._sessions = frozenset(sessions)
        self.newest: dict[str, int] = {}
        self.attached: dict[str, str] = {}
        self.failures: dict[str, Failure] = {}
        self.own_failures: dict[str, Failure] = {}
        self.unreadable_lines = 0
        self.found = False

    @abstractmethod
    def read(self, decided: Collection[str] = ()) -> None:
        """Read all messages; `decided` are sessions that other evidence keeps.

        Without any session only check that the messages can be read.
        """

    @abstractmethod
    def reread(self, sessions: Collection[str]) -> None:
        """Read what was written since, as far as it can concern these sessions."""

    def _other_workstreams(self) -> list[str]:
        """Return the names of all workstreams but scratch. A link counts, too: opening it fails."""
        try:
            listed = entries(self._root.workstreams)
        except OSError as error:
            self.failures[WORKSTREAMS] = Failure.of("list", WORKSTREAMS, error)
            return []
        kinds = (FileKind.DIRECTORY, FileKind.LINK)
        return [entry.name for entry in listed if entry.kind in kinds and is_valid_id(entry.name) and entry.name != SCRATCH]

    def _found_turn(self, session: str, at: int) -> None:
        self.newest[session] = latest(self.newest.get(session), at) or at

    def _fail(self, names: tuple[str, ...], error: OSError) -> None:
        path = "/".join((WORKSTREAMS, *names))
        self.failures[path] = Failure.of("read", path, error)


@dataclass(slots=True)
class _File:
    """The messages of a workstream: where reading ended, and inode, size and mtime at that time."""

    position: messages.LogPosition
    stamp: tuple[int, int, int]


class _Lines(MessagesReader):
    """Arawn 0.0: one file for each workstream; each line names its session."""

    def __init__(self, root: Root, sessions: Collection[str], cutoff: int, workstreams_with_turns: Collection[str]) -> None:
        """Read nothing yet. Without a database every turn elsewhere is needed, however old."""
        super().__init__(root, sessions)
        self._cutoff = cutoff
        self._cutoff_elsewhere = 0 if root.database is None else cutoff
        self._with_turns = workstreams_with_turns
        self._files: dict[str, _File] = {}

    def read(self, decided: Collection[str] = ()) -> None:
        self._read_file(SCRATCH)
        active = {session for session, turn in self.newest.items() if turn >= self._cutoff}
        if not self._sessions or self._sessions - active - set(decided) or self._root.database is None:
            self._read_others()

    def reread(self, sessions: Collection[str]) -> None:
        self._read_file(SCRATCH)
        self._read_others()

    def _read_others(self) -> None:
        for name in sorted({*self._other_workstreams(), *self._files} - {SCRATCH}):
            self._read_file(name)

    def _read_file(self, workstream: str) -> None:
        known = self._files.get(workstream)
        try:
            if known and known.stamp == _stamp(os.stat(f"{workstream}/{MESSAGES}", dir_fd=self._root.workstreams, follow_symlinks=False)):
                return
            with ExitStack() as stack:
                directory = stack.enter_context(opened_directory(self._root.workstreams, workstream))
                if known is None and self._proves_nothing(workstream, directory):
                    raise OSError(errno.ENODATA, "there are no messages, although there were turns: put the file back")
                descriptor = stack.enter_context(opened_file(MESSAGES, directory))
                status = os.fstat(descriptor)
                cutoff = self._cutoff if workstream == SCRATCH else self._cutoff_elsewhere
                turns = messages.read(descriptor, self._sessions, cutoff, known.position if known else None)
                if known is None and self._sessions and status.st_size and not turns.any_message:
                    raise OSError(errno.EBADMSG, "no line of it is a message")
        except OSError as error:
            if known is not None or not isinstance(error, FileNotFoundError):
                self._fail((workstream, MESSAGES), error)
            return
        self._files[workstream] = _File(turns.position, _stamp(status))
        self.found = self.found or status.st_size > 0
        self.unreadable_lines += turns.unreadable_lines
        for session, turn in turns.newest.items():
            self._found_turn(session, turn)
            if workstream != SCRATCH and self._root.database is None:
                self.attached[session] = workstream

    def _proves_nothing(self, workstream: str, directory: int) -> bool:
        """Return whether messages are missing or empty, although there were turns.

        That is so if the database records turns, or if Arawn's file was renamed (`messages.jsonl.*`).
        """
        try:
            if os.stat(MESSAGES, dir_fd=directory, follow_symlinks=False).st_size:
                return False
        except FileNotFoundError:
            pass
        return workstream in self._with_turns or any(entry.name.startswith(f"{MESSAGES}.") for entry in entries(directory))


class _Files(MessagesReader):
    """Arawn's main branch: one file for each session. Only its mtime is needed."""

    def read(self, decided: Collection[str] = ()) -> None:
        self._read(self._sessions)

    def reread(self, sessions: Collection[str]) -> None:
        self._read(frozenset(sessions))

    def _read(self, sessions: frozenset[str]) -> None:
        scratch = self._root.layout.sessions
        try:
            with opened_directory(self._root.workstreams, *scratch) as directory:
                for session in sessions:
                    try:
                        self._take(directory, session)
                    except OSError as error:
                        self.own_failures[session] = Failure.of("read", "/".join((WORKSTREAMS, *scratch, session, MESSAGES)), error)
        except FileNotFoundError:
            pass  # a new server, or somebody removed it: there is no session
        except OSError as error:
            self._fail(scratch, error)
        for workstream in self._other_workstreams():
            try:
                with opened_directory(self._root.workstreams, workstream) as directory:
                    # One session is looked up by its name, many in the list of all names.
                    candidates = sessions if len(sessions) == 1 else {entry.name for entry in entries(directory)}.intersection(sessions)
                    self.attached |= {session: workstream for session in candidates if self._take(directory, session)}
            except FileNotFoundError:
                continue  # somebody removed the workstream since it was listed
            except OSError as error:
                self._fail((workstream,), error)

    def _take(self, directory: int, session: str) -> bool:
        """Take the time of a session's messages; return whether it has some in this directory.

        Raises:
            OSError: EINVAL if `messages.jsonl` is not a regular file, else as stat(2).
        """
        try:
            status = os.stat(f"{session}/{MESSAGES}", dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        self.found = True
        self._found_turn(session, status.st_mtime_ns)
        return True


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
