"""Unlinking names of one directory: the native module and its twin in Python answer alike."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from arawn_cli.fs import measure
from arawn_cli.fs.delete import unlink
from tests.conftest import needs, needs_strace

needs_native = needs(measure.module is not None, "the native module")


def going_on() -> bool:
    return False


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "Python"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    if request.param == "Python":
        monkeypatch.setattr(measure, "module", None)
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
    assert unlink(descriptor, names, going_on) == told
    assert sorted(os.listdir(path)) == ["directory", "other"]
    assert os.listdir(path.parent / "outside") == ["kept"]


def test_no_names_are_no_work(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    (path / "file").touch()
    assert unlink(descriptor, [], going_on) == []
    assert os.listdir(path) == ["file"]


def test_a_directory_that_is_not_open_fails_for_each_name(folder: tuple[Path, int]) -> None:
    path, _ = folder
    assert unlink(10**6, ["a", "b"], going_on) == [("a", errno.EBADF), ("b", errno.EBADF)]
    assert os.listdir(path) == []


@pytest.mark.parametrize("name", ["../outside/kept", "/etc/none", "file\0more"])
def test_what_is_more_than_a_name_is_refused_before_anything_goes(folder: tuple[Path, int], name: str) -> None:
    path, descriptor = folder
    (path / "file").touch()
    with pytest.raises(ValueError, match="no slash and no NUL"):
        unlink(descriptor, ["file", name], going_on)
    assert os.listdir(path) == ["file"]
    assert os.listdir(path.parent / "outside") == ["kept"]


def test_nothing_is_unlinked_once_it_is_to_stop(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    (path / "file").touch()
    assert unlink(descriptor, ["file"], lambda: True) == []
    assert os.listdir(path) == ["file"]


@needs_native
@needs_strace
def test_a_slow_disk_holds_no_signal_back_for_longer_than_one_call_and_a_tick(tmp_path: Path) -> None:
    """Each call takes 40 ms, so that two or three are over before it is asked whether to stop."""
    for number in range(64):
        (tmp_path / str(number)).touch()
    code = (
        "import os, sys; from arawn_cli.fs.delete import unlink;"
        "asked = []; top = os.open(sys.argv[1], os.O_RDONLY);"
        "print(unlink(top, os.listdir(top), lambda: asked.append(1) or len(asked) > 3), len(os.listdir(top)))"
    )
    slow = ["strace", "-f", "-o", os.devnull, "-e", "trace=unlinkat", "-e", "inject=unlinkat:delay_exit=40000"]
    done = subprocess.run([*slow, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    told, _, left = done.stdout.rpartition(" ")
    assert told == "[]", done.stderr
    assert 64 - 9 <= int(left) <= 64 - 3


@pytest.mark.parametrize("names", [b"", b"no end", b"../outside/kept\0", b"file\0no end"])
def test_the_native_module_follows_no_path_and_reads_past_no_end(tmp_path: Path, names: bytes) -> None:
    if measure.module is None:
        pytest.skip("needs the native module")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    descriptor = os.open(tmp_path / "folder", os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="slash"):
            measure.module.unlink(descriptor, names)
    finally:
        os.close(descriptor)
    assert (tmp_path / "folder" / "file").exists()
    assert (tmp_path / "outside" / "kept").exists()


@needs_native
@needs_strace
def test_other_threads_go_on_while_a_file_is_unlinked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = (
        "import os, sys, threading; from arawn_cli.fs.delete import unlink;"
        "told = []; top = os.open(sys.argv[1], os.O_RDONLY);"
        "thread = threading.Thread(target=lambda: told.append(unlink(top, ['file'], lambda: False)));"
        "thread.start(); thread.join(0.2); print(told); thread.join(); print(told)"
    )
    slow = ["strace", "-f", "-o", os.devnull, "-e", "trace=unlinkat", "-e", "inject=unlinkat:delay_enter=2000000"]
    done = subprocess.run([*slow, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n[[]]\n", done.stderr


def test_a_module_that_was_built_for_an_earlier_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("arawn_cli.fs._measure")
    monkeypatch.setitem(sys.modules, old.__name__, old)
    monkeypatch.setattr("arawn_cli.fs._measure", old, raising=False)
    assert measure.load() is None
