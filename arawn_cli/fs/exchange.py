"""Move, exchange and merge directories, and copy their attributes."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

from arawn_cli.fs.mounts import read_mounts
from arawn_cli.fs.openat import exists, open_directory, opened_directory
from arawn_cli.fs.system_calls import call
from arawn_cli.names import escape

CANNOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK})
"""The errors of `exchange` and link(2) on a filesystem without exchange or hard links."""

_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)
_DEPTH_MAX = 200  # levels of directories that exist on both sides
_LISTED_MAX = 1000

# name_to_handle_at(2), and struct ovl_fh of the kernel's fs/overlayfs/overlayfs.h
_AT_HANDLE_FID = 0x200
_HANDLE_BYTES = 128  # MAX_HANDLE_SZ
_OVERLAY_HANDLE = 0xF8
_OVERLAY_FLAGS_AT, _IN_UPPER_LAYER = 6, 4
_REDIRECT_DEFAULT = Path("/sys/module/overlay/parameters/redirect_dir")


class _FileHandle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * _HANDLE_BYTES))


def _rename(source: str, source_directory: int, target: str, target_directory: int, flag: int) -> None:
    call("renameat2", source_directory, os.fsencode(source), target_directory, os.fsencode(target), ctypes.c_uint(flag))


def exchange(first: str, first_directory: int, second: str, second_directory: int) -> None:
    """Exchange the entries of two open directories: at any time each name has one of the two files.

    Raises:
        OSError: as renameat2(2); one of CANNOT_EXCHANGE if the filesystem does not support it.
    """
    try:
        _rename(first, first_directory, second, second_directory, _EXCHANGE)
    except PermissionError:
        with writable(first, first_directory), writable(second, second_directory):
            _rename(first, first_directory, second, second_directory, _EXCHANGE)


def move(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """Rename the directory `source` to a name in another open directory.

    Raises:
        OSError: as rename(2).
    """
    try:
        os.rename(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)
    except PermissionError:
        with writable(source, source_directory):
            os.rename(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)


@contextmanager
def writable(name: str, parent: int) -> Iterator[None]:
    """Give the owner of the directory `name` write access while it is moved or filled.

    A directory that is moved needs it because its `..` changes. A kill in between leaves it
    writable. Whatever cannot be changed stays: the kernel decides. No error of an undo hides that
    it was moved.
    """
    with ExitStack() as undo:
        with suppress(OSError):
            descriptor = open_directory(name, parent)
            undo.callback(_try, os.close, descriptor)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if not mode & stat.S_IWUSR:
                os.fchmod(descriptor, mode | stat.S_IWUSR)
                undo.callback(_try, os.fchmod, descriptor, mode)
        yield


def _try(call: Callable[..., None], *arguments: int) -> None:
    with suppress(OSError):
        call(*arguments)


def overlay_that_cannot_move(name: str, parent: int) -> str | None:
    """Return the overlay's mount point if `name` is in a lower layer and cannot move.

    The file handle of an overlay tells the layer, since Linux 6.6. Return None for a directory that
    can be moved, and if the kernel does not tell.
    """
    handle = _FileHandle(_HANDLE_BYTES)
    number = ctypes.c_int()
    with suppress(OSError):
        call("name_to_handle_at", parent, os.fsencode(name), ctypes.byref(handle), ctypes.byref(number), _AT_HANDLE_FID)
        if handle.type != _OVERLAY_HANDLE or handle.data[_OVERLAY_FLAGS_AT] & _IN_UPPER_LAYER:
            return None
        for mount in read_mounts():
            if mount.id == number.value and not _redirects(mount.options.split(",")):
                return mount.point
    return None


def _redirects(options: Sequence[str]) -> bool:
    """Whether an overlay with these mount options moves directories of lower layers."""
    if "userxattr" in options:
        return False
    for option in options:
        if option.startswith("redirect_dir="):
            return option == "redirect_dir=on"
    with suppress(OSError):
        return _REDIRECT_DEFAULT.read_text().startswith("Y")
    return False


def rename_new(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """Rename an entry unless the new name exists.

    Raises:
        OSError: EEXIST, else as renameat2(2).
    """
    _rename(source, source_directory, target, target_directory, _NOREPLACE)


def why_no_exchange(directory: int, places: Iterable[Path], *, hard_links: bool) -> OSError | None:
    """Return the error of an exchange on the filesystem of an open directory, or None if it works.

    Only a trial shows whether a filesystem can do it. It is made in a new directory in the first of
    `places` on this filesystem where this account can create one, and removed. With `hard_links`,
    try to make one, too. Without any such place, return None.
    """
    device = os.fstat(directory).st_dev
    for place in places:
        try:
            status = place.stat()
            if status.st_dev != device:
                continue
            trial = tempfile.mkdtemp(prefix=".arawn-cli-", dir=place)
        except OSError:
            continue
        try:
            return _try_exchange(Path(trial), hard_links=hard_links)
        finally:
            shutil.rmtree(trial)
            with suppress(OSError):
                os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    return None


def _try_exchange(trial: Path, *, hard_links: bool) -> OSError | None:
    try:
        (trial / "a").mkdir()
        (trial / "b").mkdir()
        exchange(str(trial / "a"), 0, str(trial / "b"), 0)
        if hard_links:
            (trial / "f").touch()
            os.link(trial / "f", trial / "g")
    except OSError as error:
        if error.errno in CANNOT_EXCHANGE:
            return error
    return None


def copy_attributes(source: int, target: int) -> None:
    """Give an open directory the owner, mode, ACLs and other extended attributes of another.

    Raises:
        OSError: EPERM if this account must not set one of them.
    """
    wanted = os.fstat(source)
    present = os.fstat(target)
    if (present.st_uid, present.st_gid) != (wanted.st_uid, wanted.st_gid):
        os.fchown(target, wanted.st_uid, wanted.st_gid)
    if os.fstat(target).st_mode != wanted.st_mode:
        os.fchmod(target, stat.S_IMODE(wanted.st_mode))
    attributes = _attributes(source)
    inherited = _attributes(target)
    for name in inherited.keys() - attributes.keys():
        os.removexattr(target, name)
    for name, value in attributes.items():
        if inherited.get(name) != value:
            os.setxattr(target, name, value)
    if os.fstat(target).st_mode != wanted.st_mode:  # the kernel drops S_ISGID for a group that is not this account's
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return {}
        raise


# ---- Merging two directories


def some_names(directory: int, most: int) -> list[str]:
    """Return up to `most` names in an open directory."""
    with os.scandir(directory) as listing:
        return [entry.name for entry in islice(listing, most)]


def refuse_conflicts(written: int, restored: int, skip: Collection[str] = (), shown: str = "", depth: int = 0) -> None:
    """Check that both directories share only names of directories, at every depth."""
    with os.scandir(written) as listing:
        for entry in listing:
            if entry.name in skip or not exists(entry.name, restored):
                continue
            with _opened_both(entry.name, written, restored, shown, depth) as (inner_written, inner_restored):
                refuse_conflicts(inner_written, inner_restored, (), f"{shown}{entry.name}/", depth + 1)


def move_all(source: int, target: int, skip: Collection[str] = (), shown: str = "", depth: int = 0) -> None:
    """Move everything in `source` to `target`, and merge directories that are in both."""
    while names := [name for name in some_names(source, _LISTED_MAX) if name not in skip]:
        for name in names:
            try:
                rename_new(name, source, name, target)
            except FileExistsError:
                with _opened_both(name, source, target, shown, depth) as (inner_source, inner_target):
                    move_all(inner_source, inner_target, (), f"{shown}{name}/", depth + 1)
                os.rmdir(name, dir_fd=source)


@contextmanager
def _opened_both(name: str, first: int, second: int, shown: str, depth: int) -> Iterator[tuple[int, int]]:
    """Open two directories of this name; if one is not a directory, the name exists twice."""
    if depth >= _DEPTH_MAX:
        raise _twice(f"{shown}{name}")
    with ExitStack() as opened:
        try:
            descriptors = [opened.enter_context(opened_directory(directory, name)) for directory in (first, second)]
        except NotADirectoryError as error:
            raise _twice(f"{shown}{name}") from error
        yield descriptors[0], descriptors[1]


def _twice(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, f"{escape(path)} is in the session and in the trash: rename or remove the one in the session")
