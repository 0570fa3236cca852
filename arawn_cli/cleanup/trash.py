"""Keep removed sessions in the trash: names, moving in, restoring, purging."""

from __future__ import annotations

import calendar
import errno
import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from arawn_cli.arawn.layout import SCRATCH, SESSIONS, TRASH, WORKSTREAMS, Root, workstream_entries
from arawn_cli.errors import Failure, LockedError
from arawn_cli.fs.delete import PARALLEL_MIN_FILES, delete_tree, freed_bytes, thread_pool
from arawn_cli.fs.measure import Subtree, Usage, combined, measure, measure_all
from arawn_cli.fs.mounts import lies_inside, mount_points
from arawn_cli.fs.openat import FileKind, Identity, entries, is_same_directory, open_directory, opened_directory, require_writable
from arawn_cli.locks import try_lock, unlock
from arawn_cli.timestamps import SECOND

NAME_MAX = 255


# `+` marks an id that was cut to make room for the rest of the name; no id has it.
_NAME = re.compile(r"(?:\.trash\.)?(held\.|gone\.)?([A-Za-z0-9_][A-Za-z0-9_-]*\+?)\.(\d{8}T\d{6}Z)\.([0-9a-f]{8})", re.ASCII)


_HELD = "held."


_GONE = "gone."


_TIME = "%Y%m%dT%H%M%SZ"


IN_SESSIONS = f"{TRASH}."
"""Begins the name of a removed session that had to stay in `sessions/`, on a disk too full for a trash directory."""


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """A removed session that waits in a trash directory: whole, or `gone` once its taking apart has begun.

    `directory` are the names that lead from `workstreams/` to the directory that holds it.
    """

    directory: tuple[str, ...]
    name: str
    session: str
    removed_at: int
    held: bool
    gone: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names that lead from `workstreams/` to the entry."""
        return (*self.directory, self.name)


def name_for(session: str, removed_at: int, *, prefix: str = "") -> str:
    """A new name, held as yet, in the trash for a session that is removed now.

    An id too long for that is cut; what has a cut name could not be put back by a later run, and is not held.
    """
    stamp = time.strftime(_TIME, time.gmtime(removed_at // SECOND))
    tail = f".{stamp}.{os.urandom(4).hex()}"
    room = NAME_MAX - len(prefix) - len(_HELD) - len(tail)
    if len(session) <= room:
        return f"{prefix}{_HELD}{session}{tail}"
    return f"{prefix}{session[: room - 1]}+{tail}"


def settled(name: str) -> str:
    """The name under which a held session waits in the trash."""
    return name.replace(_HELD, "", 1)


def gone(name: str) -> str:
    """The name of a session of the trash, held or not, that is about to be taken apart."""
    prefix = IN_SESSIONS if name.startswith(IN_SESSIONS) else ""
    rest = name.removeprefix(prefix).removeprefix(_HELD).removeprefix(_GONE)
    return f"{prefix}{_GONE}{rest}"


def parse(directory: tuple[str, ...], name: str) -> TrashEntry | None:
    """The trash entry that a name tells of, or None when the name is not ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        removed_at = calendar.timegm(time.strptime(match[3], _TIME)) * SECOND
    except ValueError:
        return None
    return TrashEntry(directory, name, match[2], removed_at, held=match[1] == _HELD, gone=match[1] == _GONE)


def is_ours(name: str) -> bool:
    """Whether a name in `sessions/` is the trash, or something that waits to be taken apart there."""
    return name == TRASH or (name.startswith(IN_SESSIONS) and _NAME.fullmatch(name) is not None)


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
        return is_same_directory(self.identity, self.root.workstreams, (SCRATCH, SESSIONS))


@dataclass(frozen=True, slots=True)
class TrashDirectory:
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
def open_trash(sessions: Sessions) -> Iterator[TrashDirectory]:
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
        yield TrashDirectory(descriptor, shown, f"{sessions.root.path}/{shown}", prefix)
    finally:
        os.close(descriptor)
        with suppress(OSError), opened_directory(sessions.root.workstreams, *names) as parent:
            os.rmdir(TRASH, dir_fd=parent)  # an empty one is litter; one that holds something stays by itself


def check_trash_writable(sessions: Sessions) -> None:
    """Whether `open_trash` would fail, or moving something there, as far as shows without making anything.

    Raises:
        OSError: as `open_trash`; EACCES or EROFS where this account may not change the directories.
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
        check_trash_writable(sessions)
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


@dataclass(frozen=True, slots=True)
class Purged:
    """What taking one trash entry apart gave back, in apparent bytes, and what failed; not finished when stopped."""

    entry: TrashEntry
    freed_bytes: int
    failures: tuple[Failure, ...]
    finished: bool


@contextmanager
def locked(sessions: int | None, root: Root, *, hold: bool) -> Iterator[None]:
    """One removing run at a time: BSD locks on `sessions` and on `workstreams`. A dry run only asks for them.

    `sessions` may be missing, and moves away when Arawn promotes scratch; `workstreams` stays where it is.

    Raises:
        LockedError: another run holds it.
    """
    for directory in (root.workstreams, *(() if sessions is None else (sessions,))):
        if not try_lock(directory, shared=not hold):
            raise LockedError(f"another run is at work in {root.path}: nothing done; it can be run again later")
        if not hold:
            unlock(directory)
    yield


def purge(root: Root, entry: TrashEntry, stopping: Callable[[], bool], threads: int) -> Purged:
    """Takes an entry of the trash apart, by so many threads where it is large; what fails stays for the next run."""
    shown = "/".join((WORKSTREAMS, *entry.names))
    try:
        if any(lies_inside(mount, f"{root.path}/{shown}") for mount in mount_points()):
            raise OSError(errno.EBUSY, "a mount inside")
        with opened_directory(root.workstreams, *entry.directory) as directory:
            name = gone(entry.name)
            os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=directory)
            usage = measure(directory, name, shown)
            with thread_pool(threads if usage.files >= PARALLEL_MIN_FILES else 0) as pool:
                failures = delete_tree(directory, name, shown, stopping, pool)
            left = measure(directory, name, shown) if failures or stopping() else Usage()
    except OSError as error:
        return Purged(entry, 0, (Failure.of("unlinkat", shown, error),), finished=False)
    return Purged(entry, freed_bytes(usage, left), tuple(failures), finished=not left.directories and not failures)


def trash_usage(root: Root) -> Usage:
    """What everything that waits in any trash uses."""
    found, failures = waiting(root)
    usage = combined(measure_all(root.workstreams, [Subtree(entry.names) for entry in found], 1))
    return replace(usage, failures=(*usage.failures, *failures))


def put_back(root: Root, entry: TrashEntry, *, used: bool = False) -> Failure | None:
    """Moves a trash entry back into the `sessions` directory of its workstream; nothing there is overwritten.

    `used` gives it the present time first, so that the next cleanup does not take it again.
    """
    shown = "/".join((WORKSTREAMS, *entry.names))
    try:
        with (
            opened_directory(root.workstreams, *entry.directory) as source,
            opened_directory(root.workstreams, entry.directory[0], SESSIONS) as target,
        ):
            if used:
                os.utime(entry.name, dir_fd=source, follow_symlinks=False)
            _rename_to_new(entry, source, target)
    except OSError as error:
        return Failure.of("renameat", shown, error)
    return None


def _rename_to_new(entry: TrashEntry, source: int, target: int) -> None:
    if entry.session.endswith("+"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    try:
        os.stat(entry.session, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(entry.name, entry.session, src_dir_fd=source, dst_dir_fd=target)
        return
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
