"""Opening files relative to descriptors, and walking directories with few of them open."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from arawn_cli.fs.openat import (
    MAX_OPEN,
    Descent,
    Entry,
    FileKind,
    MovedAwayError,
    entries,
    identity_at,
    is_same_directory,
    opened_directory,
    opened_file,
)
from tests.conftest import make_deep


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def open_descriptors() -> int:
    gc.collect()  # else what an earlier test left open could be closed in between
    return len(os.listdir("/proc/self/fd"))


def test_entries_have_types_and_links_are_not_followed(tmp_path: Path, top: int) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("directory")
    os.mkfifo(tmp_path / "pipe")
    kinds = [FileKind.DIRECTORY, FileKind.FILE, FileKind.LINK, FileKind.OTHER]
    assert entries(top) == [Entry(name, kind) for name, kind in zip(("directory", "file", "link", "pipe"), kinds, strict=True)]


@pytest.mark.parametrize("names", [("link",), ("directory", "link"), ("link", "inner"), ("directory", "..", "link")])
def test_no_directory_is_opened_through_a_link(tmp_path: Path, top: int, names: tuple[str, ...]) -> None:
    (tmp_path / "directory" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "directory" / "link").symlink_to("inner")
    before = open_descriptors()
    with pytest.raises(OSError, match=r".") as caught, opened_directory(top, *names):
        pass
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert open_descriptors() == before


def test_only_regular_files_are_opened(tmp_path: Path, top: int) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    with opened_file("file", top) as descriptor:
        assert os.read(descriptor, 10) == b"content"
    for name, number in (("link", errno.ELOOP), ("pipe", errno.EINVAL), ("directory", errno.EINVAL)):
        with pytest.raises(OSError, match=r".") as caught, opened_file(name, top):
            pass
        assert caught.value.errno == number


def test_a_replaced_directory_is_not_the_same(tmp_path: Path, top: int) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with opened_directory(top, "a") as parent:
        identity = identity_at("b", parent)
    assert is_same_directory(identity, top, ("a", "b"))
    (tmp_path / "a" / "b").rename(tmp_path / "moved")
    assert not is_same_directory(identity, top, ("a", "b"))
    (tmp_path / "a" / "b").symlink_to("../moved")
    assert not is_same_directory(identity, top, ("a", "b"))
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a" / "b").touch()
    assert not is_same_directory(identity, top, ("a", "b"))


def test_a_walk_goes_down_and_up_with_few_open_directories(tmp_path: Path, top: int) -> None:
    make_deep(tmp_path / "deep", 100)
    before = open_descriptors()
    with Descent(top, "deep") as descent:
        descent.enter("deep")
        while names := [entry.name for entry in entries(descent.descriptor) if entry.kind is FileKind.DIRECTORY]:
            descent.enter(names[0])
        assert (descent.depth, open_descriptors() - before) == (101, MAX_OPEN)
        assert descent.path("file") == "deep" + "/d" * 100 + "/file"
        while descent.depth:
            descent.leave()
    assert open_descriptors() == before


def test_a_directory_that_is_moved_during_a_walk_is_noticed(tmp_path: Path, top: int) -> None:
    make_deep(tmp_path / "deep", MAX_OPEN + 5)
    before = open_descriptors()
    with pytest.raises(MovedAwayError), Descent(top, "deep") as descent:  # noqa: PT012 - the last line raises
        descent.enter("deep")
        for _ in range(MAX_OPEN + 5):
            descent.enter("d")
        closed = tmp_path / "deep/d/d/d/d/d"
        closed.rename(tmp_path / "moved")
        while descent.depth:
            descent.leave()
    assert open_descriptors() == before
