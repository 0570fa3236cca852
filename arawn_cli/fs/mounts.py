"""Find mount points, and the filesystem of a path."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from arawn_cli.events import Filesystem
from arawn_cli.names import escape


def mount_points() -> frozenset[str]:
    """Return every mount point that this process sees, bind mounts included.

    Raises:
        OSError: the mount table cannot be read.
    """
    return frozenset(partition.mountpoint for partition in psutil.disk_partitions(all=True))


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory or something below it."""
    return path == directory or path.startswith(f"{directory}/")


def has_mount(directory: str) -> bool:
    """Whether the directory with this absolute path, or something below it, is a mount point.

    Raises:
        OSError: as `mount_points`.
    """
    return any(is_below(mount, directory) for mount in mount_points())


def is_mount(directory: int, parent: int) -> bool:
    """Whether an open directory is a mount in its open parent; a bind mount counts, too."""
    return _mount_id(directory) != _mount_id(parent)


def _mount_id(descriptor: int) -> int:
    """Return the id of the mount of an open file, see proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))


def filesystem_of(path: Path) -> Filesystem:
    """Return space and inodes of the filesystem at an absolute path; 0 inodes if not counted.

    Raises:
        OSError: the path cannot be read.
    """
    space = psutil.disk_usage(str(path))
    inodes = os.statvfs(path)
    return Filesystem(
        mountpoint=escape(_mount_point(str(path))),
        total_bytes=space.total,
        used_bytes=space.used,
        free_bytes=space.free,
        total_inodes=inodes.f_files,
        used_inodes=inodes.f_files - inodes.f_ffree,
        free_inodes=inodes.f_favail,
    )


def _mount_point(path: str) -> str:
    above = [mount for mount in mount_points() if mount == "/" or is_below(path, mount)]
    return max(above, key=len, default="/")
