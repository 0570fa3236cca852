"""Find mount points, and the filesystem of a path."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from arawn_cli.events import Filesystem
from arawn_cli.names import escape


def mount_points() -> frozenset[str]:
    """Every mount point of this process's view, bind mounts on the same filesystem included."""
    return frozenset(partition.mountpoint for partition in psutil.disk_partitions(all=True))


def lies_inside(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory or something below it."""
    return path == directory or path.startswith(f"{directory}/")


def filesystem_of(path: Path) -> Filesystem:
    """Space and inodes of the filesystem at an absolute path; a filesystem without inode counts tells zeros.

    Raises:
        OSError: the path cannot be looked at.
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
    holding = [mount for mount in mount_points() if mount == "/" or lies_inside(path, mount)]
    return max(holding, key=len, default="/")
