"""Unlinking names of one directory: the native module and its twin in Python answer alike."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from arawn_cli import native
from arawn_cli.unlinking import unlink
from tests.conftest import needs

needs_native = needs(native.module is not None, "the native module")


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "Python"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    if request.param == "Python":
        monkeypatch.setattr(native, "module", None)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (tmp_path / "folder").mkdir()
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    yield tmp_path / "folder", descriptor
    os.close(descriptor)


def test_what_is_no_directory_goes_and_the_rest_is_told(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    odd = os.fsdecode(bytes(range(1, 47)) + bytes(range(48, 256)))
    for name in ("file", odd, "other"):
        (path / name).touch()
    (path / "link").symlink_to("../outside")
    (path / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "pipe")
    (path / "directory").mkdir()
    long = "x" * 256
    names = ["directory", "file", odd, "gone", long, "link", "dangling", "pipe", "directory"]
    told = [("directory", errno.EISDIR), (long, errno.ENAMETOOLONG), ("directory", errno.EISDIR)]
    assert unlink(descriptor, names) == told
    assert sorted(os.listdir(path)) == ["directory", "other"]
    assert os.listdir(path.parent / "outside") == ["kept"]


def test_no_names_are_no_work(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    (path / "file").touch()
    assert unlink(descriptor, []) == []
    assert os.listdir(path) == ["file"]


def test_a_directory_that_is_not_open_fails_for_each_name(folder: tuple[Path, int]) -> None:
    path, _ = folder
    assert unlink(10**6, ["a", "b"]) == [("a", errno.EBADF), ("b", errno.EBADF)]
    assert os.listdir(path) == []


@pytest.mark.parametrize("names", [b"no end", b"../outside/kept\0", b"file\0no end"])
def test_the_native_module_follows_no_path_and_reads_past_no_end(tmp_path: Path, names: bytes) -> None:
    if native.module is None:
        pytest.skip("needs the native module")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="slash"):
            native.module.unlink(descriptor, names)
    finally:
        os.close(descriptor)
    assert (tmp_path / "folder" / "file").exists()
    assert (tmp_path / "outside" / "kept").exists()
