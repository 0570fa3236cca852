"""List the scratch sessions, and describe each with its evidence, decision and outcome."""

from __future__ import annotations

import os
from dataclasses import dataclass

from arawn_cli.arawn.layout import V0, WORK, WORKSTREAMS
from arawn_cli.arawn.messages import Damage
from arawn_cli.arawn.root import Root
from arawn_cli.cleanup.trash_entry import is_trash
from arawn_cli.errors import Failure
from arawn_cli.events import REMOVED_FOR, Action, Reason
from arawn_cli.fs.mounts import mount_points
from arawn_cli.fs.openat import NO_IDENTITY, FileKind, Identity, entries, exists, identity_at, is_same_directory, open_directory
from arawn_cli.fs.usage import Usage
from arawn_cli.timestamps import latest

KEEP_FILE = ".keep"
"""A file of this name protects the session that contains it."""


@dataclass(frozen=True, slots=True)
class SessionsDirectory:
    """The open directory of the scratch sessions, and its identity."""

    root: Root
    descriptor: int
    identity: Identity

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
        return is_same_directory(self.identity, self.root.workstreams, self.root.layout.sessions)

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


@dataclass(frozen=True, slots=True)
class ScratchSession:
    """An entry of the directory of the scratch sessions.

    Attributes:
        mount_point: path below the root of a mount at or in it; empty if there is none.
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
        failures: what failed with this session.
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
            # What is mounted there may hang, and is kept whatever its identity is.
            identity = NO_IDENTITY if mount == f"{path}/{entry.name}" else identity_at(entry.name, sessions.descriptor)
        except FileNotFoundError:
            continue  # somebody removed it since it was listed
        shown = mount.removeprefix(f"{sessions.root.path}/")
        is_foreign = not layout.is_session_id(entry.name)
        keep_file = "" if is_foreign or mount or entry.kind is not FileKind.DIRECTORY else _keep_file(sessions, entry.name)
        listed.append(ScratchSession(entry.name, entry.kind, identity, shown, is_foreign=is_foreign, keep_file=keep_file))
    return listed


def _keep_file(sessions: SessionsDirectory, name: str) -> str:
    """Return the path of the session's `.keep` file (Arawn 0.0: also in `work/`), or "".

    What cannot be read is measured later, and reported then.
    """
    descriptors: list[int] = []
    try:
        descriptors.append(open_directory(name, sessions.descriptor))
        if exists(KEEP_FILE, descriptors[0]):
            return KEEP_FILE
        if sessions.root.layout is not V0:
            return ""
        descriptors.append(open_directory(WORK, descriptors[0]))
        return f"{WORK}/{KEEP_FILE}" if exists(KEEP_FILE, descriptors[1]) else ""
    except OSError:
        return ""
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
