"""Many threads that take a tree apart: what they remove, what they tell, signals, and a machine that gives none."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

import pytest

from arawn_cli.cli.demo import SampleTree
from arawn_cli.fs.delete import Crowd, unlink
from tests.support.in_process import cleaned
from tests.support.small_tree import apart, top

__all__ = ["top"]


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

    monkeypatch.setattr("arawn_cli.fs.delete.unlink", unlinking)
    monkeypatch.setattr("arawn_cli.fs.delete.unlink", unlinking)
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


def test_the_threads_leave_signals_to_the_one_that_handles_them() -> None:
    def blocked(_: int) -> set[signal.Signals]:
        return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    with Crowd(3) as crowd:
        assert all({signal.SIGTERM, signal.SIGINT} <= found for found in crowd.map(blocked, range(9)))
    assert not {signal.SIGTERM, signal.SIGINT} & blocked(0)


def test_an_order_that_fails_ends_no_thread_and_is_told(told: pytest.LogCaptureFixture) -> None:
    def failing() -> None:
        raise MemoryError("no more")

    with Crowd(1) as crowd:
        for _ in range(3):
            crowd.do(failing)
        assert list(crowd.map(str, [1, 2])) == ["1", "2"]
    assert told.text.count("MemoryError: no more") == 3
