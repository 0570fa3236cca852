"""Taking a tree apart when single calls fail; strace does the same to the whole command in test_faults."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest

from arawn_cli import remove
from arawn_cli.crowd import Crowd
from arawn_cli.descriptors import open_directory
from arawn_cli.dismantle import freed_bytes, take_apart
from arawn_cli.model import Failure, Identity, Usage
from arawn_cli.sample_tree import SampleTree, write
from arawn_cli.unlinking import unlink
from tests.conftest import needs_namespaces
from tests.in_process import cleaned


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("a/x", "a/b/y", "c/z"):
        write(tmp_path / "top" / name, 1)
    return tmp_path / "top"


def apart(top: Path, stopping: Callable[[], bool] = lambda: False, crowd: Crowd | None = None) -> list[tuple[str, str, int]]:
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        failures = take_apart(parent, top.name, top.name, stopping, crowd)
        return [(failure.operation, failure.path, failure.errno) for failure in failures]
    finally:
        os.close(parent)


def test_a_folder_that_cannot_be_opened_stays_with_those_above_it(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open_directory

    def opening(name: str, parent: int) -> int:
        if name == "b":
            raise refuse(errno.EACCES)
        return real(name, parent)

    monkeypatch.setattr("arawn_cli.descent.open_directory", opening)
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

    monkeypatch.setattr("arawn_cli.dismantle.unlink", lambda _directory, names, _stopping: [(name, errno.EPERM) for name in names])
    parent = os.open(tmp_path, os.O_RDONLY)
    failures = take_apart(parent, "top", "top", lambda: False)
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
    monkeypatch.setattr("arawn_cli.dismantle.unlink", unlink_twice)
    assert apart(top) == []
    assert not top.exists()


def test_stopping_ends_after_the_entry_in_hand_and_is_no_failure(top: Path) -> None:
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return len(asked) > 3

    assert apart(top, stopping) == []
    assert top.exists()


def many_files(top: Path) -> None:
    for folder in ("wide", "deep/er/still"):
        (top / folder).mkdir(parents=True)
        for number in range(1000):
            (top / folder / str(number)).touch()
    (top / "wide" / "link").symlink_to(top.parent / "outside")
    (top.parent / "outside").mkdir()
    (top.parent / "outside" / "kept").touch()


@pytest.mark.parametrize("threads", [0, 1, 8])
def test_many_threads_remove_a_large_tree_and_nothing_else(top: Path, threads: int) -> None:
    many_files(top)
    before = set(os.listdir("/proc/self/fd"))
    with Crowd(threads) as crowd:
        assert apart(top, crowd=crowd) == []
    assert os.listdir(top.parent) == ["outside"]
    assert os.listdir(top.parent / "outside") == ["kept"]
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_many_threads_cannot_unlink_is_told_and_stays(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many_files(top)

    def unlinking(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
        stuck = [(name, errno.EPERM) for name in names if name == "500"]
        return [*stuck, *unlink(directory, [name for name in names if name != "500"], stopping)]

    monkeypatch.setattr("arawn_cli.dismantle.unlink", unlinking)
    monkeypatch.setattr("arawn_cli.crowd.unlink", unlinking)
    with Crowd(4) as crowd:
        failures = apart(top, crowd=crowd)
    assert sorted(failures) == [("unlinkat", "top/deep/er/still/500", errno.EPERM), ("unlinkat", "top/wide/500", errno.EPERM)]
    assert sorted(path.name for path in top.rglob("*") if path.is_file()) == ["500", "500"]


def test_many_threads_stop_when_they_are_told_to(top: Path) -> None:
    many_files(top)
    steps = iter(range(10**6))
    with Crowd(4) as crowd:
        assert apart(top, lambda: next(steps) > 10, crowd) == []
    assert sum(path.is_file() for path in top.rglob("*")) > 1000


@pytest.mark.parametrize("allowed", [0, 1])
def test_where_the_machine_gives_no_thread_sessions_go_and_are_told_of_all_the_same(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """As under TasksMax= of systemd, RLIMIT_NPROC, or pids.max of a container."""
    for name in ("one", "two", "three"):
        tree.session(name, files={"file": 1}, age_days=30)
    begun: list[None] = []
    start = Thread.start

    def starting(thread: Thread) -> None:
        if len(begun) == allowed:
            raise RuntimeError("can't start new thread")
        begun.append(None)
        start(thread)

    monkeypatch.setattr(Thread, "start", starting)
    summary, _ = cleaned(tree)
    assert sorted(summary.cleaned_session_ids) == ["one", "three", "two"]
    assert os.listdir(tree.sessions.parent) == ["sessions"]


def test_what_a_thread_raises_arrives_where_the_answers_are_asked_for() -> None:
    with Crowd(2) as crowd, pytest.raises(ZeroDivisionError):
        list(crowd.map(lambda number: 1 // number, [1, 0]))


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EBUSY, {"mount_inside": 1}), (errno.ENOENT, {"changed_since_plan": 1}), (errno.EIO, {})],
)
def test_a_rename_that_fails_leaves_the_session_in_its_place(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, number: int, told: dict[str, int]
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def renaming(*_: object, **__: object) -> None:
        raise refuse(number)

    monkeypatch.setattr(os, "rename", renaming)
    summary, _ = cleaned(tree)
    monkeypatch.undo()
    assert (summary.sessions_skipped, summary.sessions_cleaned) == (told, 0)
    assert [failure.operation for failure in summary.failures] == ([] if told else ["renameat"])
    assert (tree.sessions / "s" / "work" / "f").exists()


@pytest.mark.parametrize("look", [1, 2])
def test_processes_that_cannot_be_looked_at_keep_the_session_whole(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    looks: list[None] = []

    def occupied(directories: object) -> frozenset[Identity]:
        looks.append(None)
        if len(looks) == look:
            raise refuse(errno.ENFILE)
        return frozenset()

    monkeypatch.setattr(remove, "occupied", occupied)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.errno for failure in summary.failures]) == (0, [errno.ENFILE])
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.mark.parametrize("seen", ["in_use", "mount_inside"])
def test_what_shows_only_after_the_rename_puts_the_session_back(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, seen: str) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    identity = (session.stat().st_dev, session.stat().st_ino)
    calls: list[None] = []

    def occupied(directories: object) -> frozenset[Identity]:
        calls.append(None)
        return frozenset({identity}) if seen == "in_use" and len(calls) == 2 else frozenset()

    def mounts() -> frozenset[str]:
        held = list(tree.workstreams.rglob("held.s.*"))
        return frozenset(f"{path}/work" for path in held) if seen == "mount_inside" else frozenset()

    monkeypatch.setattr(remove, "occupied", occupied)
    monkeypatch.setattr(remove, "mount_points", mounts)
    assert cleaned(tree)[0].sessions_skipped == {seen: 1}
    assert (tree.sessions / "s" / "work" / "f").exists()


def test_a_mount_that_shows_only_after_planning_keeps_the_session_in_its_place(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    monkeypatch.setattr(remove, "mount_points", lambda: frozenset({f"{session}/work"}))
    monkeypatch.setattr(os, "rename", None)
    assert cleaned(tree)[0].sessions_skipped == {"mount_inside": 1}
    assert (session / "work" / "f").exists()


def test_the_threads_leave_signals_to_the_one_that_handles_them() -> None:
    def blocked(_: int) -> set[signal.Signals]:
        return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    with Crowd(3) as crowd:
        assert all({signal.SIGTERM, signal.SIGINT} <= found for found in crowd.map(blocked, range(9)))
    assert not {signal.SIGTERM, signal.SIGINT} & blocked(0)


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

    monkeypatch.setattr("arawn_cli.dismantle.unlink", unlinking)
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
@pytest.mark.parametrize("phase", ["unlink_files(parent, 'top', 'top', on, Crowd(0))", "print(*take_apart(parent, 'top', 'top', on))"])
def test_another_filesystem_is_entered_in_neither_phase(tmp_path: Path, phase: str) -> None:
    for name in ("top/inner/below", "top/file"):
        write(tmp_path / name, 1)
    code = (
        "import os, sys; from arawn_cli.crowd import Crowd, unlink_files; from arawn_cli.dismantle import take_apart;"
        f"on = lambda: False; parent = os.open(sys.argv[1], os.O_RDONLY); {phase};"
        "print(os.listdir(sys.argv[1] + '/top'), os.listdir(sys.argv[1] + '/top/inner'))"
    )
    mounted = f'mount -t tmpfs none {tmp_path}/top/inner && touch {tmp_path}/top/inner/kept && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "['inner'] ['kept']", done.stderr
    assert ("Invalid cross-device link" in done.stdout) == ("take_apart" in phase)


def test_an_order_that_fails_ends_no_thread_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("arawn_cli").propagate = True

    def failing() -> None:
        raise MemoryError("no more")

    with Crowd(1) as crowd:
        for _ in range(3):
            crowd.do(failing)
        assert list(crowd.map(str, [1, 2])) == ["1", "2"]
    assert caplog.text.count("MemoryError: no more") == 3


def test_what_cannot_be_measured_again_is_not_told_as_freed() -> None:
    before, failure = Usage(100, 4096, 3), Failure.of("openat", "x", refuse(errno.EACCES))
    assert freed_bytes(before, Usage(30, 4096, 1)) == before.freed_bytes - Usage(30, 4096, 1).freed_bytes > 0
    assert freed_bytes(before, Usage(30, 4096, 1, failures=(failure,))) == 0
    assert freed_bytes(before, Usage(30, 4096, 1, other_filesystems=("x",))) == 0
    assert freed_bytes(before, Usage(200, 8192, 9)) == 0
