"""Deleting trees: every kind of file, any depth, failing calls and signals, in C and in Python."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from arawn_cli.errors import Failure
from arawn_cli.fs import measure
from arawn_cli.fs.delete import delete_tree, delete_trees, freed_bytes
from arawn_cli.fs.openat import open_directory
from arawn_cli.fs.usage import Usage
from tests.conftest import Run, RunCommand, make_deep, needs_chattr, needs_namespaces, needs_strace
from tests.support.cleanup import clean
from tests.support.errors import os_error
from tests.support.tree import SampleTree, write


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("a/x", "a/b/y", "c/z"):
        write(tmp_path / "top" / name, 1)
    return tmp_path / "top"


@pytest.fixture(params=["C", "Python"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete once in C and once in Python."""
    if request.param == "Python":
        monkeypatch.setattr(measure, "native", None)
    elif measure.native is None:
        pytest.skip("needs the native module")


def delete(top: Path, stopping: Callable[[], bool] = lambda: False) -> list[tuple[str, str, int]]:
    """Delete a tree and return its failures. Tests that replace a function of Python delete with
    Python alone."""
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        return shown(delete_tree(parent, top.name, top.name, stopping))
    finally:
        os.close(parent)


def delete_all(tops: list[Path], stopping: Callable[[], bool] = lambda: False) -> list[list[tuple[str, str, int]]]:
    """Delete trees of one directory with four threads, and return the failures of each."""
    parent = os.open(tops[0].parent, os.O_RDONLY)
    try:
        return [shown(failures) for failures in delete_trees(parent, [top.name for top in tops], "in", 4, stopping)]
    finally:
        os.close(parent)


def shown(failures: list[Failure]) -> list[tuple[str, str, int]]:
    return [(failure.operation, failure.path, failure.errno) for failure in failures]


def paths_below(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def refuse_to_unlink(monkeypatch: pytest.MonkeyPatch, refused: Callable[[str], bool]) -> None:
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        if refused(name):
            raise os_error(errno.EPERM)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)


# ---- What is deleted


@pytest.mark.usefixtures("both")
def test_a_tree_with_every_kind_of_file_is_deleted_and_no_link_is_followed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write(top / "a" / "b" / "c", 10)
    write(tmp_path / "outside" / "kept", 10)
    names = ["new\nline", os.fsdecode(bytes(range(1, 47)) + bytes(range(48, 256))), "x" * 255, *map(str, range(100))]
    for name in names:
        (top / "a" / name).touch()
    Path(os.fsdecode(os.fsencode(top) + b"/\xff")).mkdir()
    os.mkfifo(top / "fifo")
    (top / "dangling").symlink_to("nowhere")
    (top / "link").symlink_to("../outside")
    write(top / "a" / "readonly" / "file", 1)
    (top / "a" / "readonly").chmod(0o555)
    assert delete_all([top]) == [[]]
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["kept"]


@pytest.mark.usefixtures("both")
def test_a_file_or_link_is_deleted_and_a_missing_entry_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path / "file", 3)
    (tmp_path / "link").symlink_to("file")
    assert delete_all([tmp_path / "link", tmp_path / "missing"]) == [[], []]
    assert os.listdir(tmp_path) == ["file"]
    assert delete_all([tmp_path / "file"]) == [[]]


@pytest.mark.usefixtures("both")
def test_ten_thousand_levels_are_deleted(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 10_000)
    assert delete_all([tmp_path / "deep"]) == [[]]
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("folders", ["wide", "deep/er/still", "many"])
def test_large_directories_are_deleted_and_every_descriptor_is_closed(tmp_path: Path, folders: str) -> None:
    for folder in [folders] if folders != "many" else [f"many/{number}" for number in range(100)]:
        for number in range(3000 if folders != "many" else 40):
            write(tmp_path / "top" / folder / str(number), 0)
    before = set(os.listdir("/proc/self/fd"))
    assert delete_all([tmp_path / "top"]) == [[]]
    assert os.listdir(tmp_path) == []
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.usefixtures("both")
def test_sixteen_descriptors_are_enough(tmp_path: Path) -> None:
    for number in range(500):
        write(tmp_path / "top" / str(number), 0)
        write(tmp_path / "top" / "/".join("abcdefghijklmnopqrstuvwxyz") / str(number), 0)
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 6, usual[1]))
        assert delete_trees(parent, ["top"], "in", 4, lambda: False) == [[]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        os.close(parent)
    assert os.listdir(tmp_path) == []


@needs_namespaces
@pytest.mark.parametrize("start", ["", "measure.native = None;"], ids=["C", "Python"])
def test_another_filesystem_is_not_entered(tmp_path: Path, start: str) -> None:
    for name in ("top/inner/below", "top/file"):
        write(tmp_path / name, 1)
    code = (
        f"import os, sys; from arawn_cli.fs import measure; {start} from arawn_cli.fs.delete import delete_trees;"
        "print(*delete_trees(os.open(sys.argv[1], os.O_RDONLY), ['top'], 'in', 4, lambda: False)[0]);"
        "print(os.listdir(sys.argv[1] + '/top'), os.listdir(sys.argv[1] + '/top/inner'))"
    )
    mounted = f'mount -t tmpfs none {tmp_path}/top/inner && touch {tmp_path}/top/inner/kept && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "open in/top/inner: Invalid cross-device link\n['inner'] ['kept']\n", done.stderr


# ---- What cannot be deleted


@needs_chattr
@pytest.mark.usefixtures("both")
def test_what_cannot_be_deleted_stays_with_what_is_above_it_and_the_rest_is_deleted(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("a/stuck", "a/free", "b/free", *(f"a/{number}" for number in range(100)), "../other/free"):
        write(top / name, 1)
    subprocess.run(["chattr", "+i", str(top / "a" / "stuck")], check=True)
    try:
        assert delete_all([tmp_path / "other", top]) == [[], [("delete", "in/top/a/stuck", errno.EPERM)]]
        assert os.listdir(tmp_path) == ["top"]
        assert paths_below(top) == ["a", "a/stuck"]
    finally:
        subprocess.run(["chattr", "-i", str(top / "a" / "stuck")], check=True)


@needs_chattr
@pytest.mark.parametrize("flag", ["i", "a"])
def test_a_session_with_a_flagged_file_stays_whole_until_the_flag_is_removed(
    run: Callable[..., Run], tree: SampleTree, at_once: Path, flag: str
) -> None:
    stuck = tree.session("s", files={"stuck": 10, "free": 5}, age_days=30) / "work" / "stuck"
    subprocess.run(["chattr", f"+{flag}", str(stuck)], check=True)
    try:
        # A problem that lasts is logged once a day, and in every dry run.
        for words, logged in ((("--dry-run",), 1), ((), 1), ((), 0)):
            done = run("scratch-cleanup", "--base-path", tree.root, *words)
            assert (done.code, done.reasons()) == (1, {"s": "not_permitted"})
            assert done.stderr.count(f"work/stuck is immutable or append-only: sudo chattr -i -a {stuck}") == logged
            assert sorted(os.listdir(stuck.parent)) == ["free", "stuck"]
    finally:
        subprocess.run(["chattr", f"-{flag}", str(stuck)], check=True)
    assert run("scratch-cleanup", "--base-path", tree.root, "--config", at_once).last["bytes_freed"] == 15


def test_failures_are_reported_with_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("wide", "deep/er/still"):
        for number in range(1000):
            write(tmp_path / "top" / folder / str(number), 0)
    refuse_to_unlink(monkeypatch, lambda name: name == "500")
    failures = delete(tmp_path / "top")
    assert sorted(failures) == [("delete", "top/deep/er/still/500", errno.EPERM), ("delete", "top/wide/500", errno.EPERM)]
    assert paths_below(tmp_path / "top") == ["deep", "deep/er", "deep/er/still", "deep/er/still/500", "wide", "wide/500"]


def test_after_64_failures_the_others_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        write(tmp_path / "top" / str(number), 1)
    refuse_to_unlink(monkeypatch, lambda _name: True)
    parent = os.open(tmp_path, os.O_RDONLY)
    failures = delete_tree(parent, "top", "top", lambda: False)
    os.close(parent)
    assert len(failures) == 65
    assert failures[-1].detail == "and 36 more failures in this tree"


def test_a_folder_that_cannot_be_opened_stays_with_those_above_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_directory

    def opening(name: str, parent: int) -> int:
        if name == "b":
            raise os_error(errno.EACCES)
        return real(name, parent)

    monkeypatch.setattr("arawn_cli.fs.openat.open_directory", opening)
    assert delete(top) == [("open", "top/a/b", errno.EACCES)]
    assert paths_below(top) == ["a", "a/b", "a/b/y"]


def test_a_folder_that_cannot_be_listed_stays_with_those_above_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir
    broken = os.stat(top / "a" / "b").st_ino

    def listing(directory: int) -> object:
        if os.fstat(directory).st_ino == broken:
            raise os_error(errno.EIO)
        return real(directory)

    monkeypatch.setattr(os, "scandir", listing)
    assert delete(top) == [("list", "top/a/b", errno.EIO)]
    monkeypatch.undo()
    assert (top / "a" / "b" / "y").exists()
    assert not (top / "c").exists()


def test_what_is_read_before_a_listing_breaks_off_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        write(tmp_path / "top" / str(number), 1)
    real = os.scandir

    @contextmanager
    def breaking_off(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            with real(directory) as listing:
                yield from islice(listing, 30)
            raise os_error(errno.EIO)

        yield entries()

    monkeypatch.setattr(os, "scandir", breaking_off)
    assert delete(tmp_path / "top") == [("list", "top", errno.EIO)]
    assert len(os.listdir(tmp_path / "top")) == 10


# ---- What others change meanwhile


@pytest.mark.parametrize(("times", "left"), [(3, False), (100, True)])
def test_a_folder_that_fills_again_is_emptied_again_for_some_rounds(
    top: Path, monkeypatch: pytest.MonkeyPatch, times: int, left: bool
) -> None:
    real = os.rmdir
    filled: list[None] = []

    def rmdir(name: str, *, dir_fd: int) -> None:
        if name == "c" and len(filled) < times:
            filled.append(None)
            write(top / "c" / "again", 1)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir)
    assert delete(top) == ([("delete", "top/c", errno.ENOTEMPTY)] if left else [])
    assert top.exists() == left
    assert len(filled) == (8 if left else 3)


def test_what_vanishes_meanwhile_is_no_failure(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(real: Callable[..., None]) -> Callable[..., None]:
        def call(name: str, *, dir_fd: int) -> None:
            real(name, dir_fd=dir_fd)
            real(name, dir_fd=dir_fd)

        return call

    monkeypatch.setattr(os, "rmdir", twice(os.rmdir))
    monkeypatch.setattr(os, "unlink", twice(os.unlink))
    assert delete(top) == []
    assert not top.exists()


def test_a_file_that_becomes_a_folder_meanwhile_is_deleted_as_one(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.unlink
    replaced: list[str] = []

    def unlink(name: str, *, dir_fd: int) -> None:
        if name == "y" and not replaced:
            replaced.append(name)
            real(name, dir_fd=dir_fd)
            os.mkdir(name, dir_fd=dir_fd)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    assert delete(top) == []
    assert replaced
    assert not top.exists()


def test_a_tree_that_is_moved_away_is_left_alone_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More levels than stay open: the way back leads through `..`, and to another directory."""
    inner = tmp_path / "top" / "/".join(map(str, range(60)))
    write(inner / "file", 1)
    write(tmp_path / "elsewhere" / "kept", 1)
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        (tmp_path / "top" / "0" / "1").rename(tmp_path / "elsewhere" / "1")
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    ((operation, _, number),) = delete(tmp_path / "top")
    assert (operation, number) == ("open", errno.ESTALE)
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["1", "kept"]


# ---- Stopping


def test_stopping_ends_after_the_current_entry_and_is_no_failure(top: Path) -> None:
    asked = iter(range(10**6))
    assert delete(top, lambda: next(asked) > 3) == []
    assert top.exists()


def test_stopping_ends_in_the_middle_of_a_large_folder(tmp_path: Path) -> None:
    for number in range(3000):
        write(tmp_path / "top" / str(number), 0)
    asked = iter(range(10**6))
    assert delete(tmp_path / "top", lambda: next(asked) > 300) == []
    assert 2600 < len(os.listdir(tmp_path / "top")) < 3000


def test_stopping_ends_in_the_middle_of_a_folder_of_folders(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / "top" / str(number)).mkdir(parents=True)
    asked = iter(range(10**6))
    assert delete(tmp_path / "top", lambda: next(asked) > 3) == []
    assert next(asked) < 10


@needs_strace
@pytest.mark.parametrize("start", ["", "measure.native = None;"], ids=["C", "Python"])
def test_on_a_slow_disk_each_thread_ends_after_its_current_file(tmp_path: Path, start: str) -> None:
    """Each file takes 40 ms, and stopping begins after half a second."""
    for number in range(1000):
        write(tmp_path / "top" / str(number % 4) / str(number), 0)
    code = (
        f"import os, sys, time; from arawn_cli.fs import measure; {start} from arawn_cli.fs.delete import delete_trees;"
        "parent = os.open(sys.argv[1], os.O_RDONLY); end = time.monotonic() + 0.5;"
        "print(*delete_trees(parent, ['top'], 'in', 4, lambda: time.monotonic() > end), time.monotonic() - end < 1)"
    )
    slow = ["strace", "-f", "-o", os.devnull, "-e", "trace=unlinkat", "-e", "inject=unlinkat:delay_exit=40000"]
    done = subprocess.run([*slow, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "[] True\n", done.stderr
    assert 900 < sum(1 for path in (tmp_path / "top").rglob("*") if path.is_file()) < 1000


# ---- Threads


@needs_strace
def test_sessions_are_removed_if_no_thread_can_be_started(run: RunCommand, tree: SampleTree, at_once: Path) -> None:
    """As under TasksMax= of systemd, RLIMIT_NPROC, or pids.max of a container."""
    for name in ("one", "two", "three"):
        tree.session(name, files={"file": 1}, age_days=30)
    fault = ("strace", "-f", "-o", os.devnull, "-e", "inject=clone,clone3:error=EAGAIN")
    done = clean(run, tree, "--config", at_once, prefix=fault)
    assert (done.code, done.last["sessions_cleaned"]) == (0, 3)
    assert os.listdir(tree.sessions.parent) == ["sessions"]


# ---- Freed bytes


def test_nothing_counts_as_freed_if_the_rest_cannot_be_measured() -> None:
    before, failure = Usage(100, 4096, 3), Failure.of("open", "x", os_error(errno.EACCES))
    assert freed_bytes(before, Usage(30, 4096, 1)) == before.freed_bytes - Usage(30, 4096, 1).freed_bytes > 0
    assert freed_bytes(before, Usage(30, 4096, 1, failures=(failure,))) == 0
    assert freed_bytes(before, Usage(30, 4096, 1, other_filesystems=("x",))) == 0
    assert freed_bytes(before, Usage(200, 8192, 9)) == 0
