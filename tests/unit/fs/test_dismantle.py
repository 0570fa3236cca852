"""Taking a tree apart when single calls fail; strace does the same to the whole command in test_faults."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from arawn_cli.cli.demo import write
from arawn_cli.errors import Failure
from arawn_cli.fs.delete import delete_tree, freed_bytes, unlink
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import open_directory
from tests.conftest import needs_namespaces
from tests.support.small_tree import apart, refuse, top

__all__ = ["top"]


def test_a_folder_that_cannot_be_opened_stays_with_those_above_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_directory

    def opening(name: str, parent: int) -> int:
        if name == "b":
            raise refuse(errno.EACCES)
        return real(name, parent)

    monkeypatch.setattr("arawn_cli.fs.openat.open_directory", opening)
    assert apart(top) == [("openat", "top/a/b", errno.EACCES)]
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*")) == ["a", "a/b", "a/b/y"]


def test_a_folder_that_cannot_be_listed_stays_with_those_above_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir
    broken = os.stat(top / "a" / "b").st_ino

    def listing(directory: int) -> object:
        if os.fstat(directory).st_ino == broken:
            raise refuse(errno.EIO)
        return real(directory)

    monkeypatch.setattr(os, "scandir", listing)
    assert apart(top) == [("getdents64", "top/a/b", errno.EIO)]
    monkeypatch.undo()
    assert (top / "a" / "b" / "y").exists()
    assert not (top / "c").exists()


@pytest.mark.parametrize(("times", "left"), [(3, False), (100, True)])
def test_a_folder_that_fills_again_is_cleared_again_for_some_rounds(
    top: Path, monkeypatch: pytest.MonkeyPatch, times: int, left: bool
) -> None:
    real = os.rmdir
    filled: list[None] = []

    def removing(name: str, *, dir_fd: int) -> None:
        if name == "c" and len(filled) < times:
            filled.append(None)
            write(top / "c" / "again", 1)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", removing)
    failures = apart(top)
    assert failures == ([("unlinkat", "top/c", errno.ENOTEMPTY)] if left else [])
    assert top.exists() == left
    assert len(filled) == (8 if left else 3)


def test_a_multitude_of_failures_is_cut_short_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        write(tmp_path / "top" / str(number), 1)

    monkeypatch.setattr("arawn_cli.fs.delete.unlink", lambda _directory, names, _stopping: [(name, errno.EPERM) for name in names])
    parent = os.open(tmp_path, os.O_RDONLY)
    failures = delete_tree(parent, "top", "top", lambda: False)
    os.close(parent)
    assert len(failures) == 65
    assert failures[-1].detail == "and 36 more failures in this tree"


def test_what_vanishes_meanwhile_is_no_failure(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_rmdir = os.rmdir

    def rmdir(name: str, *, dir_fd: int) -> None:
        real_rmdir(name, dir_fd=dir_fd)
        raise FileNotFoundError

    def unlink_twice(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
        assert unlink(directory, names, stopping) == []
        return unlink(directory, names, stopping)

    monkeypatch.setattr(os, "rmdir", rmdir)
    monkeypatch.setattr("arawn_cli.fs.delete.unlink", unlink_twice)
    assert apart(top) == []
    assert not top.exists()


def test_stopping_ends_after_the_entry_in_hand_and_is_no_failure(top: Path) -> None:
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return len(asked) > 3

    assert apart(top, stopping) == []
    assert top.exists()


def test_what_is_read_before_a_listing_breaks_off_goes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        write(tmp_path / "top" / str(number), 1)
    real = os.scandir

    @contextmanager
    def breaking_off(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            with real(directory) as listing:
                yield from islice(listing, 30)
            raise refuse(errno.EIO)

        yield entries()

    monkeypatch.setattr(os, "scandir", breaking_off)
    assert apart(tmp_path / "top") == [("getdents64", "top", errno.EIO)]
    assert len(os.listdir(tmp_path / "top")) == 10


def test_a_file_that_becomes_a_folder_meanwhile_goes_as_one(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlinking(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
        if "y" in names:
            os.unlink("y", dir_fd=directory)
            os.mkdir("y", dir_fd=directory)
        return unlink(directory, names, stopping)

    monkeypatch.setattr("arawn_cli.fs.delete.unlink", unlinking)
    assert apart(top) == []
    assert not top.exists()


def test_stopping_ends_in_the_middle_of_a_large_folder(tmp_path: Path) -> None:
    for number in range(1000):
        write(tmp_path / "top" / str(number), 1)
    asked = iter(range(10**6))
    assert apart(tmp_path / "top", lambda: next(asked) > 3) == []
    assert 0 < 1000 - len(os.listdir(tmp_path / "top")) < 500


def test_stopping_ends_in_the_middle_of_a_folder_of_folders(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "top" / str(number)).mkdir(parents=True)
    asked = iter(range(10**6))
    assert apart(tmp_path / "top", lambda: next(asked) > 3) == []
    assert next(asked) < 10


@needs_namespaces
@pytest.mark.parametrize("phase", ["unlink_files(parent, 'top', 'top', on, Crowd(0))", "print(*delete_tree(parent, 'top', 'top', on))"])
def test_another_filesystem_is_entered_in_neither_phase(tmp_path: Path, phase: str) -> None:
    for name in ("top/inner/below", "top/file"):
        write(tmp_path / name, 1)
    code = (
        "import os, sys; from arawn_cli.fs.delete import Crowd, unlink_files; from arawn_cli.fs.delete import delete_tree;"
        f"on = lambda: False; parent = os.open(sys.argv[1], os.O_RDONLY); {phase};"
        "print(os.listdir(sys.argv[1] + '/top'), os.listdir(sys.argv[1] + '/top/inner'))"
    )
    mounted = f'mount -t tmpfs none {tmp_path}/top/inner && touch {tmp_path}/top/inner/kept && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "['inner'] ['kept']", done.stderr
    assert ("Invalid cross-device link" in done.stdout) == ("take_apart" in phase)


def test_what_cannot_be_measured_again_is_not_told_as_freed() -> None:
    before, failure = Usage(100, 4096, 3), Failure.of("openat", "x", refuse(errno.EACCES))
    assert freed_bytes(before, Usage(30, 4096, 1)) == before.freed_bytes - Usage(30, 4096, 1).freed_bytes > 0
    assert freed_bytes(before, Usage(30, 4096, 1, failures=(failure,))) == 0
    assert freed_bytes(before, Usage(30, 4096, 1, other_filesystems=("x",))) == 0
    assert freed_bytes(before, Usage(200, 8192, 9)) == 0
