"""What earlier runs left in the trash: held sessions go back, the others are taken apart when their time has come."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from arawn_cli.config import WORKSTREAMS
from arawn_cli.crowd import WORTH_A_CROWD, Crowd
from arawn_cli.descriptors import opened_directory
from arawn_cli.dismantle import freed_bytes, take_apart
from arawn_cli.errors import LockedError
from arawn_cli.layout import SESSIONS, Root
from arawn_cli.locks import try_lock, unlock
from arawn_cli.model import Failure, Usage
from arawn_cli.occupancy import lies_inside, mount_points
from arawn_cli.tally import combined
from arawn_cli.trash import waiting
from arawn_cli.trash_names import TrashEntry, gone
from arawn_cli.usage import Subtree, measure, measure_all


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
            with Crowd(threads) if usage.files >= WORTH_A_CROWD else nullcontext() as crowd:
                failures = take_apart(directory, name, shown, stopping, crowd)
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
