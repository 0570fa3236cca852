"""The filesystem that holds the root, as psutil and statvfs(3) tell it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from arawn_cli.disk_events import Filesystem
from arawn_cli.names import escape
from arawn_cli.occupancy import lies_inside, mount_points


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
