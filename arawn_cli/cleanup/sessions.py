"""List the scratch sessions, and read from messages and database rows when each was last used."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from arawn_cli.arawn.database import SessionRows, session_rows
from arawn_cli.arawn.layout import MAIN, SCRATCH, V0, WORK, WORKSTREAMS, Layout
from arawn_cli.arawn.messages import Damage
from arawn_cli.arawn.root import Root
from arawn_cli.arawn.turns import messages_reader
from arawn_cli.cleanup.trash_entry import is_trash
from arawn_cli.cleanup_events import Action
from arawn_cli.errors import Failure, never_stopping
from arawn_cli.events import REMOVED_FOR, Reason
from arawn_cli.fs.mounts import mount_points
from arawn_cli.fs.openat import (
    NO_IDENTITY,
    FileKind,
    Identity,
    entries,
    exists,
    identity_at,
    identity_of,
    is_same_directory,
    opened_directory,
)
from arawn_cli.fs.usage import Usage
from arawn_cli.sqlite import DatabaseUnreadableError, Signature, signature
from arawn_cli.timestamps import latest

KEEP_FILE = ".keep"
"""A file of this name protects the session that contains it."""


@dataclass(frozen=True, slots=True)
class SessionsDirectory:
    """The open directory of the scratch sessions."""

    root: Root
    descriptor: int

    @property
    def shown(self) -> str:
        """Its path below the root."""
        return "/".join((WORKSTREAMS, *self.root.layout.sessions))

    @property
    def path(self) -> str:
        """Its absolute path."""
        return f"{self.root.path}/{self.shown}"

    def is_in_place(self) -> bool:
        """Whether it is still scratch's. Arawn 0.0 promotes scratch by renaming its directory.

        Raises:
            OSError: as `is_same_directory`.
        """
        return is_same_directory(identity_of(os.fstat(self.descriptor)), self.root.workstreams, self.root.layout.sessions)

    def mounts_inside(self) -> dict[str, str]:
        """Return a mount point at or in each entry that has one, the first in the order of paths.

        Raises:
            OSError: the mount table cannot be read.
        """
        start = f"{self.path}/"
        inside = sorted((mount for mount in mount_points() if mount.startswith(start)), reverse=True)
        return {mount[len(start) :].partition("/")[0]: mount for mount in inside}


@dataclass(frozen=True, slots=True)
class TurnEvidence:
    """When a session was used, as Arawn recorded it, in nanoseconds since the epoch.

    Attributes:
        last_turn: its newest message.
        row: the newest time in its database row.
        shared_failures: sources that could not be read and concern all sessions.
        own_failures: sources that could not be read and concern this one.
        workstream: the workstream other than scratch that it is attached to, else None.
        damage: the newest line of messages that may have been a turn of this one.
    """

    last_turn: int | None = None
    row: int | None = None
    shared_failures: tuple[Failure, ...] = ()
    own_failures: tuple[Failure, ...] = ()
    workstream: str | None = None
    damage: Damage | None = None

    @property
    def is_attached(self) -> bool:
        """Whether it belongs to a workstream other than scratch."""
        return self.workstream is not None

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.shared_failures and not self.own_failures

    @property
    def newest(self) -> int | None:
        """The later of last turn and row."""
        return latest(self.last_turn, self.row)

    def has_turn_after(self, removed_at: int) -> bool | None:
        """Whether there is a turn after a removal, by complete evidence; None in doubt."""
        if self.last_turn is not None and self.last_turn > removed_at:
            return True
        if not self.complete or (self.damage is not None and self.damage.at > removed_at):
            return None
        return False


@dataclass(frozen=True, slots=True)
class ScratchSession:
    """An entry of the directory of the scratch sessions.

    Attributes:
        mount_point: path below the root of a mount at or in it; empty without one.
        usage: None until it is measured.
        is_foreign: whether Arawn gives no session such a name.
        keep_file: path below it of its `.keep` file, which protects it; empty without one.
    """

    name: str
    kind: FileKind
    identity: Identity
    mount_point: str = ""
    evidence: TurnEvidence = TurnEvidence()
    usage: Usage | None = None
    is_foreign: bool = False
    keep_file: str = ""

    @property
    def last_activity(self) -> int | None:
        """The newest of all evidence, in nanoseconds since the epoch, or None without any."""
        return latest(self.evidence.newest, self.usage.newest_mtime if self.usage else None)


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on one session, with its reason.

    Attributes:
        detail: the object behind the reason, as text for people; may be empty.
    """

    session: ScratchSession
    reason: Reason
    detail: str = ""

    @property
    def is_removal(self) -> bool:
        """Whether the session is to be removed."""
        return self.reason in REMOVED_FOR


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one session.

    Attributes:
        freed_bytes: apparent bytes that the filesystem got back; 0 for a session in the trash.
        failures: failed operations on this session.
        detail: the object behind the reason, as text for people; may be empty.
        removed_at: when it was removed, in whole seconds as in the name of its entry in the trash.
    """

    session: ScratchSession
    action: Action
    reason: Reason
    freed_bytes: int = 0
    failures: tuple[Failure, ...] = ()
    detail: str = ""
    removed_at: int | None = None


def list_sessions(sessions: SessionsDirectory) -> list[ScratchSession]:
    """Return the sessions and foreign entries of the directory, neither measured nor with evidence.

    Raises:
        OSError: the directory or the mount table cannot be read.
    """
    layout, path = sessions.root.layout, sessions.path
    mounts = sessions.mounts_inside()
    listed: list[ScratchSession] = []
    for entry in entries(sessions.descriptor):
        if is_trash(entry.name) or not layout.is_session(entry.name, entry.kind):
            continue
        mount = mounts.get(entry.name, "")
        try:
            # A mount there may hang, and is kept whatever its identity is.
            identity = NO_IDENTITY if mount == f"{path}/{entry.name}" else identity_at(entry.name, sessions.descriptor)
        except FileNotFoundError:
            continue  # somebody removed it since it was listed
        shown = mount.removeprefix(f"{sessions.root.path}/")
        is_foreign = not layout.is_session_id(entry.name)
        keep_file = ""
        if entry.kind is FileKind.DIRECTORY and not mount and not is_foreign:  # a mount in it may hang, too
            with suppress(OSError), opened_directory(sessions.descriptor, entry.name) as session:
                keep_file = keep_file_in(session, layout)
        listed.append(ScratchSession(entry.name, entry.kind, identity, shown, is_foreign=is_foreign, keep_file=keep_file))
    return listed


def keep_file_in(session: int, layout: Layout) -> str:
    """Return the path of the `.keep` file in an open session (Arawn 0.0: also in `work/`), or "".

    A failure to read is ignored here: measuring meets it, and keeps the session.
    """
    with suppress(OSError):
        if exists(KEEP_FILE, session):
            return KEEP_FILE
        if layout is V0:
            with opened_directory(session, WORK) as work:
                if exists(KEEP_FILE, work):
                    return f"{WORK}/{KEEP_FILE}"
    return ""


# ---- The evidence of their use


class Evidence:
    """The evidence of all sessions, read for the plan and again before and after each removal.

    A turn counts in the messages of any workstream, with or without a database row.
    """

    def __init__(
        self, listed: Iterable[ScratchSession], root: Root, stopping: Callable[[], bool] = never_stopping, *, removed: Iterable[str] = ()
    ) -> None:
        """Read rows of sessions, and on Arawn's main branch the times of their messages.

        Args:
            listed: the sessions in their place.
            root: the open root.
            stopping: returns whether a signal asked the run to end.
            removed: ids of sessions in the trash.

        Raises:
            StoppedError: it did.
        """
        # A mount in place of a session may hang, and keeps it anyway.
        names = {session.name for session in listed if not session.is_foreign and session.identity != NO_IDENTITY}
        self._root = root
        self._stopping = stopping
        self._sessions = frozenset({*names, *removed})
        self._rows = SessionRows({}, frozenset())
        self._signature: Signature = ()
        self._database_failure: Failure | None = None
        self._no_evidence: Failure | None = None
        self._read_rows()
        self._messages = messages_reader(root, self._sessions, self._rows.workstreams_with_turns, stopping)
        if root.layout is MAIN:
            self.complete()

    def complete(self) -> None:
        """Read all messages.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if not self._sessions:
            return
        self._messages.read(self._sessions)
        if self._root.database is None and not self._messages.found and not self._messages.failures:
            missing = "there are neither messages nor a database: nothing records when a session was used"
            self._no_evidence = Failure("read", WORKSTREAMS, errno.ENODATA, missing)

    def of(self, session: str, shared: tuple[Failure, ...] | None = None) -> TurnEvidence:
        """Return the evidence of a session read so far; `shared` are the failures, if known."""
        row = self._rows.rows.get(session)
        own: list[Failure] = []
        if row and row.unreadable and self._root.database:
            own.append(Failure("parse", f"{self._root.shown_database} row {session}", errno.EINVAL, "a time is not RFC 3339"))
        if session in self._messages.own_failures:
            own.append(self._messages.own_failures[session])
        return TurnEvidence(
            self._messages.newest.get(session),
            row.newest if row else None,
            self.failures if shared is None else shared,
            tuple(own),
            workstream=row.workstream_id if row and row.workstream_id != SCRATCH else self._messages.attached.get(session),
            damage=self._messages.damage_of(session),
        )

    def add_to(self, sessions: Iterable[ScratchSession], measured: Mapping[str, Usage]) -> Iterator[ScratchSession]:
        """Yield the sessions with their evidence, and the usage of those that were measured."""
        shared = self.failures
        return (replace(session, evidence=self.of(session.name, shared), usage=measured.get(session.name)) for session in sessions)

    def add_all_to(
        self, sessions: Sequence[ScratchSession], measured: Mapping[str, Usage], can_turns_decide: Callable[[ScratchSession], bool]
    ) -> list[ScratchSession]:
        """Return the sessions as `add_to`; read the messages if turns can decide on one of them.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        known: list[ScratchSession] = []
        for session in self.add_to(sessions, measured):
            known.append(session)
            if can_turns_decide(session):
                self.complete()
                return list(self.add_to(sessions, measured))
        return known

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The sources that could not be read and concern all sessions."""
        return tuple(failure for failure in (self._database_failure, self._no_evidence, *self._messages.failures.values()) if failure)

    @property
    def damaged_lines(self) -> int:
        """Number of lines that are not messages."""
        return self._messages.damaged_lines

    def reread(self, sessions: Collection[str]) -> None:
        """Read the turns and rows written since, as far as they can concern these sessions.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if self._root.database is not None and signature(self._root.database) != self._signature:
            self._read_rows()
        self._messages.read(sessions)

    def _read_rows(self) -> None:
        """Read the rows of all sessions in one transaction."""
        path = self._root.database
        if path is None or not self._sessions:
            return
        self._signature = signature(path)
        try:
            self._rows = session_rows(path, self._root.layout, self._sessions, self._stopping)
        except DatabaseUnreadableError as error:
            self._database_failure = Failure("query", self._root.shown_database, errno.EIO, str(error).removeprefix(f"{path}: "))
