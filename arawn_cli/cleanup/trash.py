"""Keep removed sessions in the trash: create and find it, move sessions back, purge entries."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from arawn_cli.arawn.layout import SCRATCH, TRASH, V0, WORKSTREAMS
from arawn_cli.arawn.root import Root, workstream_entries
from arawn_cli.cleanup.chats import ChatNeeds, Places
from arawn_cli.cleanup.obstacles import not_permitted_text, why_immutable
from arawn_cli.cleanup.sessions import SessionsDirectory
from arawn_cli.cleanup.trash_entry import SESSIONS_PREFIX, TrashEntry, deleting_name, is_trash, parse_entry
from arawn_cli.errors import Failure, Operation, StoppedError, never_stopping
from arawn_cli.fs.delete import PARALLEL_MIN_FILES, delete_trees, freed_bytes
from arawn_cli.fs.exchange import move
from arawn_cli.fs.measure import Subtree, measure, measure_all, stop_when
from arawn_cli.fs.mounts import has_mount, is_mount, mount_points
from arawn_cli.fs.openat import FileKind, LinkError, entries, exists, open_directory, opened_directory
from arawn_cli.fs.permissions import account_name, require_writable
from arawn_cli.fs.usage import Usage, combined
from arawn_cli.locks import try_lock
from arawn_cli.names import escape

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


# ---- The trash directory


@dataclass(frozen=True, slots=True)
class TrashDirectory:
    """The open directory that removed sessions are moved to, on the filesystem of `sessions`.

    Attributes:
        shown: its path below the root.
        prefix: begins the name of each entry; not empty in `sessions` itself.
    """

    descriptor: int
    shown: str
    prefix: str = ""


@contextmanager
def open_trash(sessions: SessionsDirectory) -> Iterator[TrashDirectory]:
    """Open or create the trash directory beside `sessions`, or inside if that is a mount.

    If the disk has no space for a directory, use `sessions` itself.

    Raises:
        OSError: that failed; ELOOP or ENOTDIR if something else has its name.
    """
    with _opened_parent(sessions) as (parent, path):
        _require_mutable(parent, f"{sessions.root.path}/{path}")
        prefix = "" if _create_trash(parent) else SESSIONS_PREFIX
        descriptor = os.dup(sessions.descriptor) if prefix else open_directory(TRASH, parent)
        shown = sessions.shown if prefix else f"{path}/{TRASH}"
        try:
            _require_mutable(descriptor, f"{sessions.root.path}/{shown}")
            yield TrashDirectory(descriptor, shown, prefix)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.rmdir(TRASH, dir_fd=parent)  # fails unless it is empty


@contextmanager
def _opened_parent(sessions: SessionsDirectory) -> Iterator[tuple[int, str]]:
    """Open the directory that contains the trash; yield it with its path below the root.

    It is found from the open `sessions`, because Arawn 0.0 promotes scratch by renaming it: then
    both have moved, and another scratch has their path.

    Raises:
        OSError: as open(2).
    """
    with ExitStack() as stack:
        if len(sessions.root.layout.sessions) > 1:
            parent = open_directory("..", sessions.descriptor)
            stack.callback(os.close, parent)
            if not is_mount(sessions.descriptor, parent):
                yield parent, os.path.dirname(sessions.shown)
                return
        yield sessions.descriptor, sessions.shown


def _create_trash(parent: int) -> bool:
    """Create the trash directory for the owner of `parent`; false if the disk has no space."""
    try:
        os.mkdir(TRASH, 0o700, dir_fd=parent)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in _NO_SPACE:
            return False
        raise
    owner = os.fstat(parent)
    if os.geteuid() == 0 != owner.st_uid:
        os.chown(TRASH, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
    return True


def _require_mutable(directory: int, path: str) -> None:
    """Check that entries of an open directory can be renamed: it must not be append-only.

    Raises:
        OSError: EPERM, with the command that helps.
    """
    if text := why_immutable(directory, path):
        raise OSError(errno.EPERM, f"it {text}")


def _require_changeable(directory: int, path: str) -> None:
    """Check that this account can rename and remove the entries of an open directory.

    Raises:
        OSError: EPERM, EACCES or EROFS.
    """
    _require_mutable(directory, path)
    require_writable(directory)


def check_trash_writable(sessions: SessionsDirectory) -> bool:
    """Check, without creating anything, that a session could be moved to the trash.

    Return whether its directory is there.

    Raises:
        OSError: as `open_trash`; EACCES or EROFS if this account must not change the directories.
    """
    is_there = True
    with _opened_parent(sessions) as (parent, shown):
        path = f"{sessions.root.path}/{shown}"
        _require_mutable(parent, path)
        try:
            with opened_directory(parent, TRASH) as trash:
                _require_changeable(trash, f"{path}/{TRASH}")
        except FileNotFoundError:
            is_there = False
            require_writable(parent)
    require_writable(sessions.descriptor)
    return is_there


def missing_permission(sessions: SessionsDirectory) -> str | None:
    """Say who can remove sessions, if this account has no permission; else None."""
    try:
        check_trash_writable(sessions)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            return None
        owner = os.fstat(sessions.descriptor).st_uid
        foreign = error.errno == errno.EACCES and owner != os.geteuid()
        remedy = f"; it belongs to {account_name(owner)}: run this as that account, or with sudo" if foreign else ""
        return f"this account has no permission to change {sessions.path} or its trash ({error.strerror}): it can remove nothing{remedy}"
    return None


# ---- The entries


def list_trash_entries(root: Root) -> tuple[list[TrashEntry], list[Failure]]:
    """Return all entries of the trash, oldest first, and the directories that could not be read.

    In 0.0 every workstream may have trash, because Arawn promotes scratch by renaming its
    directory. A mount in place of one has none, because no mount can be renamed; it may hang.
    """
    found: list[TrashEntry] = []
    failures: list[Failure] = []
    try:
        directories = _trash_directories(root)
    except OSError as error:
        return [], [Failure.of("list", WORKSTREAMS, error)]
    for directory in directories:
        try:
            names = _directories_of_trash(root, directory)
        except OSError as error:
            failures.append(Failure.of("list", "/".join((WORKSTREAMS, *directory)), error))
            continue
        found += [entry for name in names if (entry := parse_entry(directory, name))]
    return sorted(found, key=lambda entry: entry.removed_at), failures


def _trash_directories(root: Root) -> list[tuple[str, ...]]:
    """Return the paths from `workstreams/` of all directories that can have entries of the trash.

    Raises:
        OSError: `workstreams/` cannot be listed, or the mount table cannot be read.
    """
    mounts = mount_points()
    is_v0 = root.layout is V0
    _, *inner = root.layout.sessions
    found: list[tuple[str, ...]] = []
    for workstream in dict.fromkeys((SCRATCH, *workstream_entries(root)[0])):  # a link at scratch/ is a failure
        is_foreign = f"{root.path}/{WORKSTREAMS}/{workstream}" in mounts
        if workstream == SCRATCH or (is_v0 and not is_foreign):  # on main everything in a workstream is the agent's
            found += dict.fromkeys(((workstream, TRASH), (workstream, *inner, TRASH), (workstream, *inner)))
    return found


def _directories_of_trash(root: Root, path: tuple[str, ...]) -> list[str]:
    """Return the directories in a trash directory, or those of the trash among sessions."""
    try:
        with opened_directory(root.workstreams, *path) as descriptor:
            listed = [entry.name for entry in entries(descriptor) if entry.kind is FileKind.DIRECTORY]
    except LinkError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in listed if is_trash(name)] if path[-1] != TRASH else listed


def measured_entries(
    root: Root, entries: Sequence[TrashEntry], advance: Callable[[int], None], threads: int = 1
) -> dict[TrashEntry, Usage]:
    """Measure entries of the trash, in their order; `advance` as in `measure_all`."""
    usages = measure_all(root.workstreams, [Subtree(entry.path) for entry in entries], threads, advance)
    return dict(zip(entries, usages, strict=True))


def trash_usage(root: Root, stopping: Callable[[], bool] = never_stopping) -> Usage:
    """Measure all entries of the trash together.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    found, failures = list_trash_entries(root)
    usage = combined(measured_entries(root, found, stop_when(stopping)).values())
    return usage._replace(failures=(*usage.failures, *failures))


def put_back(root: Root, entry: TrashEntry, *, used: bool = False, dry_run: bool = False) -> Failure | None:
    """Move an entry back to the sessions of its workstream; overwrite nothing there.

    If its chat was kept, exchange it for the directory in place, and move everything that was
    written there since into it. With `used` it gets the current time, so that the next cleanup
    keeps it. A dry run only checks that nothing is in the way, and that this account may do it.
    """
    place = (entry.directory[0], *root.layout.sessions[1:])
    try:
        with opened_directory(root.workstreams, *entry.directory) as source, opened_directory(root.workstreams, *place) as target:
            if entry.session.endswith("+"):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            present = [(entry.name, source)]
            places: Places | None = None
            if exists(entry.session, target):
                if entry.exchanged is None:
                    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
                present.append((entry.session, target))
                places = Places(target, entry.session, source, entry.name, ChatNeeds.of(root.layout), entry.exchanged)
                places.refuse_conflicts()
            if dry_run:
                _require_changeable(source, _absolute(root, entry.directory))
                if places:
                    _require_changeable(target, _absolute(root, place))
                require_writable(target)  # an append-only directory accepts a new entry
                return None
            if used:  # before it is back: a failure then restores nothing
                for name, directory in present:
                    os.utime(name, dir_fd=directory, follow_symlinks=False)
            if places:
                places.bring_back()
            else:
                move(entry.name, source, entry.session, target)
    except OSError as error:
        return Failure.of("rename", "/".join((WORKSTREAMS, *entry.path)), error)
    return None


def _absolute(root: Root, names: Sequence[str]) -> str:
    """Return the absolute path of names below `workstreams/`."""
    return "/".join((str(root.path), WORKSTREAMS, *names))


def is_locked(root: Root, entry: TrashEntry) -> bool:
    """Whether a program holds the lock of an entry, as a run does that is removing it."""
    try:
        with opened_directory(root.workstreams, *entry.path) as directory:
            return not try_lock(directory)
    except OSError:
        return False  # moving it tells


def remove_empty_trash(root: Root) -> None:
    """Remove every trash directory that is empty.

    Arawn 0.0 may have promoted one with scratch, and a run that was killed may have left one.
    """
    with suppress(OSError):
        for directory in _trash_directories(root):
            if directory[-1] == TRASH:
                with suppress(OSError), opened_directory(root.workstreams, *directory[:-1]) as parent:
                    os.rmdir(TRASH, dir_fd=parent)  # fails unless it is empty


@dataclass(frozen=True, slots=True)
class Purged:
    """The result of purging an entry.

    Attributes:
        usage: its usage before.
        freed_bytes: apparent bytes that the filesystem got back.
        finished: whether nothing of it is left; false after a signal.
    """

    entry: TrashEntry
    usage: Usage = field(default_factory=Usage)
    freed_bytes: int = 0
    failures: tuple[Failure, ...] = ()
    finished: bool = False


def purge(root: Root, entry: TrashEntry, stopping: Callable[[], bool], threads: int, *, dry_run: bool = False) -> Purged:
    """Delete an entry; a dry run only checks it. After a failure the next cleanup tries again."""
    shown = "/".join((WORKSTREAMS, *entry.path))
    operation: Operation = "check"
    try:
        if has_mount(f"{root.path}/{shown}"):
            raise OSError(errno.EBUSY, "a mount inside")
        operation = "open"
        with opened_directory(root.workstreams, *entry.directory) as directory:
            usage = measure(directory, entry.name, shown, stop_when(stopping))
            if usage.obstacles:  # it stays whole, and can be restored
                text = not_permitted_text(usage, f"{root.path}/{shown}", account_name(os.geteuid()))
                return Purged(entry, usage, failures=(Failure("delete", escape(shown), errno.EPERM, text),))
            operation = "rename"
            if dry_run:
                _require_changeable(directory, _absolute(root, entry.directory))
                return Purged(entry, usage, freed_bytes(usage, Usage()), finished=True)
            name = deleting_name(entry.name)
            os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=directory)
            place = "/".join((WORKSTREAMS, *entry.directory))
            (failures,) = delete_trees(directory, [name], place, threads if usage.files >= PARALLEL_MIN_FILES else 1, stopping)
            if stopping() and exists(name, directory):  # measuring the rest could take long
                return Purged(entry, usage, failures=tuple(failures))
            left = measure(directory, name, shown) if failures else Usage()
    except (StoppedError, FileNotFoundError):  # Arawn 0.0 has promoted it with scratch; the next cleanup finds it there
        return Purged(entry)
    except OSError as error:
        return Purged(entry, failures=(Failure.of(operation, shown, error),))
    return Purged(entry, usage, freed_bytes(usage, left), tuple(failures), finished=not failures)
