"""Read mount tables, and find the filesystem of a path."""

from __future__ import annotations

import errno
import os
import re
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

from arawn_cli.errors import never_stopping
from arawn_cli.events import Filesystem
from arawn_cli.names import escape

_ANSWER_SECS, _PAUSE_SECS = 5.0, 0.1
_ENDLESS = 2**63
# Types up to a dot, as in `fuse.sshfs`. They may have no limit of inodes, and then some answer that
# none is free (statvfs(3)).
_COUNTS_NO_INODES = frozenset({"fuse", "ceph", "9p", "cifs", "smb3", "squashfs", "erofs", "iso9660", "udf"})
_DELETED = "//deleted"  # follows the path of a mounted directory that was removed
_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")
# Not compiled yet: few runs see an overlay.
_LAYERS = r"(?:^|,)(?:lowerdir|upperdir|workdir|datadir)\+?=((?:\\.|[^,\\])*)"
_LAYER = r"(?:\\.|[^:\\])+"
_ESCAPED = r"\\(.)"

Answer = TypeVar("Answer")
Amounts = tuple[int, int, int]
UNKNOWN: Amounts = (0, 0, 0)


class Mount(NamedTuple):
    """A line of a mount table (proc_pid_mountinfo(5)).

    Attributes:
        id: its number, which no other mount of the machine has at the same time.
        parent: the number of the mount with its mount point.
        device: major and minor number of the filesystem, such as `8:1`.
        root: the mounted directory, as a path from the top of the filesystem.
        point: the absolute path of the mount point.
        kind: the type of the filesystem.
        options: the filesystem's own options, unescaped; those of an overlay name its layers.
    """

    id: int
    parent: int
    device: str
    root: str
    point: str
    kind: str
    options: str

    def within(self, path: str) -> str:
        """Return the path from the top of the filesystem of a path below the mount point."""
        return joined(self.root, path[len(self.point.rstrip("/")) :])


def parse_mounts(table: bytes) -> list[Mount]:
    """Return the mounts of a mount table in its order; a later one hides an earlier one."""
    mounts = []
    for line in os.fsdecode(table).split("\n"):
        before, separator, after = line.partition(" - ")
        fields, last = before.split(" "), after.split(" ")
        if separator and len(fields) >= 6 and len(last) >= 3:
            root, point, options = (unescaped(text) for text in (fields[3], fields[4], last[2]))
            mounts.append(Mount(int(fields[0]), int(fields[1]), fields[2], root.removesuffix(_DELETED), point, last[0], options))
    return mounts


def unescaped(field: str) -> str:
    r"""Return a field of a table of the kernel, which writes a space as `\040`."""
    return _OCTAL.sub(lambda octal: os.fsdecode(bytes([int(octal[1], 8)])), field)


def read_mounts(process: str = "self", above: str = "") -> list[Mount]:
    """Return the mounts that a process or task sees; `above` prefixes mount points.

    Raises:
        OSError: the mount table cannot be read.
    """
    with open(f"/proc/{process}/mountinfo", "rb") as table:
        mounts = parse_mounts(table.read())
    return [mount._replace(point=joined(above, mount.point)) for mount in mounts] if above else mounts


def layers_of(mount: Mount) -> list[str]:
    """Return an overlay's directories, as spelled when it was mounted."""
    if mount.kind != "overlay":
        return []
    return [re.sub(_ESCAPED, r"\1", text) for value in re.findall(_LAYERS, mount.options) for text in re.findall(_LAYER, value)]


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount with an absolute path, according to the mount points alone."""
    return max(reversed([mount for mount in mounts if is_below(path, mount.point)]), key=lambda mount: len(mount.point), default=None)


def visible_mounts(mounts: Sequence[Mount], directory: str) -> Iterator[Mount]:
    """Yield the mounts at and below an absolute path to which paths lead.

    The others are hidden, because something was mounted over them or over a directory above them.
    The table alone tells that: following the paths could hang in a mount on the way.
    """
    by_id = {mount.id: mount for mount in mounts}
    children: dict[int | None, list[Mount]] = {}
    for mount in mounts:
        above = mount.parent if mount.parent in by_id and mount.parent != mount.id else None
        children.setdefault(above, []).append(mount)
    for mount in (mount for mount in mounts if is_below(mount.point, directory)):
        reached: Mount | None = None
        while below := [each for each in children.get(reached.id if reached else None, ()) if is_below(mount.point, each.point)]:
            reached = min(below, key=lambda each: len(each.point))
        if reached is mount:
            yield mount


def mount_points() -> frozenset[str]:
    """Return every mount point that this process sees, bind mounts included.

    Raises:
        OSError: the mount table cannot be read.
    """
    return frozenset(mount.point for mount in read_mounts())


def require_answer(point: str, stopping: Callable[[], bool]) -> None:
    """Check that a filesystem answers within seconds: a dead server may never do.

    Raises:
        OSError: ETIMEDOUT: it does not, or a signal asked the run to end; EAGAIN: a thread cannot
            be started.
    """
    _answer_of(point, lambda: os.path.lexists(f"{point}/."), stopping)


def _answer_of(point: str, ask: Callable[[], Answer], stopping: Callable[[], bool]) -> Answer:
    """Return the answer of `ask` about the filesystem at `point`.

    Raises:
        OSError: `ask` raised it, or as `require_answer`.
    """
    future = in_thread(ask)
    end = time.monotonic() + _ANSWER_SECS
    while not wait([future], _PAUSE_SECS).done:
        if time.monotonic() > end or stopping():
            raise OSError(errno.ETIMEDOUT, f"the filesystem that is mounted at {escape(point)} does not answer")
    return future.result()


def in_thread(ask: Callable[[], Answer]) -> Future[Answer]:
    """Call `ask`, which may hang, in a thread that ends with this process.

    Wait for the result with a time limit: a thread that gets no memory never runs. `Thread.start`
    and an executor would wait for it without one.

    Raises:
        OSError: EAGAIN: the thread cannot be started.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # whatever it is: who waits raises it, and would find no result without it
            future.set_exception(error)

    try:
        start_new_thread(run, ())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "can't start new thread") from error
    return future


def joined(directory: str, below: str) -> str:
    """Return the path of `below`, which is relative to a directory; both may begin with a slash."""
    return "/".join((directory.rstrip("/"), below.lstrip("/"))).rstrip("/") or "/"


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory or something below it."""
    return directory == "/" or path == directory or path.startswith(f"{directory}/")


def has_mount(directory: str) -> bool:
    """Whether the directory with this absolute path, or something below it, is a mount point.

    Raises:
        OSError: as `mount_points`.
    """
    return any(is_below(mount, directory) for mount in mount_points())


def is_mount(directory: int, parent: int) -> bool:
    """Whether an open directory is a mount in its open parent; a bind mount counts, too.

    Raises:
        OSError: the kernel does not tell.
    """
    here, above = mount_id(directory), mount_id(parent)
    if -1 in (here, above):
        raise OSError(errno.ENOSYS, "the kernel does not tell to which mount a file belongs")
    return here != above


def mount_id(descriptor: int | str, information: int | None = None) -> int:
    """Return the id of the mount of an open file, see proc_pid_fdinfo(5).

    `information` is the open /proc/PID/fdinfo of its process, by default of this one.

    Raises:
        OSError: the descriptor is closed.
    """
    path = f"/proc/self/fdinfo/{descriptor}" if information is None else str(descriptor)
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=information)
    try:
        return parse_mount_id(os.read(opened, 512))
    finally:
        os.close(opened)


def parse_mount_id(text: bytes) -> int:
    """Return the mount id in the text of a file in /proc/PID/fdinfo, or -1 without one."""
    found = _MOUNT_ID.search(text)
    return int(found[1]) if found else -1


def filesystem_of(place: Path | int, stopping: Callable[[], bool] = never_stopping) -> Filesystem:
    """Return space and inodes of the filesystem at an absolute path or open directory.

    An unknown number is 0.

    Raises:
        OSError: the place cannot be read, or as `require_answer`.
    """
    mounts = read_mounts()
    if isinstance(place, Path):
        mount = mount_of(str(place), mounts)
    else:
        number = mount_id(place)
        mount = next((mount for mount in mounts if mount.id == number), None)
    point, kind = (mount.point, mount.kind) if mount else ("/", "")
    status = _answer_of(point, lambda: os.statvfs(place), stopping)
    block = status.f_frsize or status.f_bsize
    space = amounts(status.f_blocks * block, status.f_bfree * block, status.f_bavail * block)
    if status.f_ffree == 0 and kind.partition(".")[0] in _COUNTS_NO_INODES:
        return with_figures(point, space)
    return with_figures(point, space, amounts(status.f_files, status.f_ffree, status.f_favail))


def with_figures(point: str, space: Amounts = UNKNOWN, inodes: Amounts = UNKNOWN) -> Filesystem:
    """Return a filesystem by its mount point and its figures."""
    (total, used, free), (total_inodes, used_inodes, free_inodes) = space, inodes
    return Filesystem(
        mountpoint=escape(point),
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        total_inodes=total_inodes,
        used_inodes=used_inodes,
        free_inodes=free_inodes,
    )


def amounts(total: int, unused: int, usable: int) -> Amounts:
    """Return the total, used and free amount, as df(1) counts them.

    They are `UNKNOWN` if the numbers of statvfs(3) make no sense.
    """
    makes_sense = 0 <= usable <= total and 0 <= unused <= total < _ENDLESS
    return (total, total - unused, usable) if makes_sense else UNKNOWN
