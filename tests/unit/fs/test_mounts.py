"""Mount points below a directory, and the filesystem of a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arawn_cli.fs import mounts
from arawn_cli.fs.mounts import filesystem_of, has_mount, is_below, mount_points


@pytest.mark.parametrize(
    ("path", "below"), [("/a/b", True), ("/a/b/c", True), ("/a/bc", False), ("/a", False), ("/", False), ("/c/a/b", False)]
)
def test_a_path_is_below_itself_and_the_directories_above_it(path: str, below: bool) -> None:
    assert is_below(path, "/a/b") == below


def test_a_mount_counts_for_every_directory_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mount_points", lambda: frozenset({"/", "/a/b"}))
    assert [has_mount(path) for path in ("/a", "/a/b", "/a/b/c", "/a/bc", "/c")] == [True, True, False, False, False]


def test_the_filesystem_of_a_path_has_a_mount_point_and_sizes(tmp_path: Path) -> None:
    found = filesystem_of(tmp_path)
    assert found.mountpoint in mount_points()
    assert is_below(str(tmp_path), found.mountpoint.rstrip("/"))
    assert found.total_bytes == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
