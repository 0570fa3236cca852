"""Where removed sessions wait to be taken apart: found, and made for those that are removed now."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from arawn_cli.config import WORKSTREAMS
from arawn_cli.descriptors import entries, open_directory, opened_directory, require_writable, stands_at
from arawn_cli.layout import SESSIONS, TRASH, Root, workstream_entries
from arawn_cli.model import SCRATCH, Failure, FileKind, Identity
from arawn_cli.occupancy import mount_points
from arawn_cli.trash_names import IN_SESSIONS, TrashEntry, is_ours, parse

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The open `sessions` directory, and the identity by which it is known to be scratch's still."""

    root: Root
    descriptor: int
    identity: Identity

    @property
    def shown(self) -> str:
        """Where it stands, relative to the root."""
        return "/".join((WORKSTREAMS, SCRATCH, SESSIONS))

    @property
    def path(self) -> str:
        """Where it stands, absolute."""
        return f"{self.root.path}/{self.shown}"

    def stand(self) -> bool:
        """Whether they are in their place; Arawn promotes scratch by renaming the directories away."""
        return stands_at(self.identity, self.root.workstreams, (SCRATCH, SESSIONS))


@dataclass(frozen=True, slots=True)
class Bin:
    """The open directory that takes removed sessions, on the filesystem of `sessions`."""

    descriptor: int
    shown: str
    path: str
    prefix: str = ""


def waiting(root: Root) -> tuple[list[TrashEntry], list[Failure]]:
    """Everything that waits in any trash under the root, oldest first, and the places that could not be read.

    Arawn promotes scratch by renaming its whole directory, so every workstream is looked into.
    """
    found: list[TrashEntry] = []
    failures: list[Failure] = []
    try:
        ids, _ = workstream_entries(root)
    except OSError as error:
        return [], [Failure.of("getdents64", WORKSTREAMS, error)]
    for workstream in ids:
        for directory in ((workstream, TRASH), (workstream, SESSIONS, TRASH), (workstream, SESSIONS)):
            try:
                names = _directories(root, directory)
            except OSError as error:
                failures.append(Failure.of("openat", "/".join((WORKSTREAMS, *directory)), error))
                continue
            found += [entry for name in names if (entry := parse(directory, name))]
    return sorted(found, key=lambda entry: entry.removed_at), failures


def _directories(root: Root, names: tuple[str, ...]) -> list[str]:
    """What stands in a place where trash can be; in `sessions` itself, only what is marked as trash."""
    try:
        with opened_directory(root.workstreams, *names) as descriptor:
            listed = [entry.name for entry in entries(descriptor) if entry.kind is FileKind.DIRECTORY]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in listed if is_ours(name)] if names[-1] == SESSIONS else listed


@contextmanager
def opened_bin(sessions: Sessions) -> Iterator[Bin]:
    """The trash directory beside `sessions`, or inside it where it is a mount of its own; made if it is not there.

    On a disk without room for a directory, `sessions` itself takes what is removed.

    Raises:
        OSError: it can be neither made nor opened; ELOOP or ENOTDIR where something else stands in its place.
    """
    names = _place(sessions)
    with opened_directory(sessions.root.workstreams, *names) as parent:
        prefix = IN_SESSIONS if not _made(parent) else ""
        descriptor = os.dup(sessions.descriptor) if prefix else open_directory(TRASH, parent)
    shown = sessions.shown if prefix else "/".join((WORKSTREAMS, *names, TRASH))
    try:
        yield Bin(descriptor, shown, f"{sessions.root.path}/{shown}", prefix)
    finally:
        os.close(descriptor)
        with suppress(OSError), opened_directory(sessions.root.workstreams, *names) as parent:
            os.rmdir(TRASH, dir_fd=parent)  # an empty one is litter; one that holds something stays by itself


def try_bin(sessions: Sessions) -> None:
    """Whether `opened_bin` would fail, or moving something there, as far as shows without making anything.

    Raises:
        OSError: as `opened_bin`; EACCES or EROFS where this account may not change the directories.
    """
    names = _place(sessions)
    try:
        with opened_directory(sessions.root.workstreams, *names, TRASH) as trash:
            require_writable(".", trash)
    except FileNotFoundError:
        with opened_directory(sessions.root.workstreams, *names) as parent:
            require_writable(".", parent)
    require_writable(".", sessions.descriptor)


def out_of_reach(sessions: Sessions) -> str | None:
    """Says that this account can remove nothing, and whose sessions they are."""
    try:
        try_bin(sessions)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            return None
        owner = os.fstat(sessions.descriptor).st_uid
        others = error.errno == errno.EACCES and owner != os.geteuid()
        remedy = f"; it belongs to {_account(owner)}: run this as that account, or with sudo" if others else ""
        return f"this account may not change {sessions.path} or the trash of it ({error.strerror}): a real run would remove nothing{remedy}"
    return None


def _account(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _place(sessions: Sessions) -> tuple[str, ...]:
    """The names that lead from `workstreams/` to the directory in which the trash stands."""
    return (SCRATCH, SESSIONS) if sessions.path in mount_points() else (SCRATCH,)


def _made(parent: int) -> bool:
    """Whether there is a trash directory in `parent`, after trying to make one; it belongs to the owner of `parent`."""
    try:
        os.mkdir(TRASH, 0o700, dir_fd=parent)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in _NO_ROOM:
            return False
        raise
    owner = os.fstat(parent)
    if os.geteuid() == 0 != owner.st_uid:
        os.chown(TRASH, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
    return True
