"""Runs that find another one in progress: exit 75, and with `--unless-running` exit 0 without a
message."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arawn_cli.locks import lock_file
from tests.conftest import Run, needs_strace
from tests.support.tree import SampleTree


@contextmanager
def held(path: Path) -> Iterator[None]:
    holder = os.open(path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(holder)


@contextmanager
def held_by_a_run(tree: SampleTree, environment: dict[str, str], job: str) -> Iterator[Path]:
    """Hold the lock of a job on a tree, in the state directory of its runs; yield the file."""
    path = lock_file(state_of(environment), job, tree.root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.touch()
    os.utime(path, (0, 0))
    with held(path):
        yield path


def state_of(environment: dict[str, str]) -> Path:
    return Path(environment["HOME"], ".local", "state", "arawn-cli")


def test_a_cleanup_beside_another_ends_with_75_and_with_the_option_with_0(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str]
) -> None:
    with held_by_a_run(tree, environment, "scratch-cleanup"):
        told = run("scratch-cleanup", "--base-path", tree.root)
        silent = run("scratch-cleanup", "--base-path", tree.root, "--unless-running")
        asked = run("scratch-cleanup", "--base-path", tree.root, "--unless-running", "--verbose")
        tested = run("scratch-cleanup", "--base-path", tree.root, "--dry-run")
    assert (told.code, "another run" in told.stderr, f"(process {os.getpid()} " in told.stderr) == (75, True, True)
    assert (silent.code, silent.stdout, silent.stderr) == (0, "", "")
    assert (asked.code, "another run" in asked.stderr) == (0, True)
    assert (tested.code, tested.stdout) == (75, "")
    assert run("scratch-cleanup", "--base-path", tree.root, "--unless-running").code == 0


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_check_always_takes_its_lock_which_no_cleanup_needs(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str], dry_run: tuple[str, ...]
) -> None:
    with held_by_a_run(tree, environment, "disk-check"):
        told = run("disk-check", "--base-path", tree.root, *dry_run)
        assert (told.code, told.stdout, "another check" in told.stderr) == (75, "", True)
        silent = run("disk-check", "--base-path", tree.root, *dry_run, "--unless-running")
        assert (silent.code, silent.stdout, silent.stderr) == (0, "", "")
        assert run("scratch-cleanup", "--base-path", tree.root, *dry_run).code == 0
    assert run("disk-check", "--base-path", tree.root, *dry_run).code == 0


def test_a_plugin_that_finds_another_check_in_progress_is_unknown(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str]
) -> None:
    with held_by_a_run(tree, environment, "disk-check"):
        done = run("disk-check", "--base-path", tree.root, "--format", "nagios")
    assert (done.code, "DISK UNKNOWN - another check" in done.stdout) == (3, True)


@pytest.mark.parametrize("job", ["scratch-cleanup", "disk-check"])
def test_a_lock_that_refuses_for_more_than_a_day_is_an_error_until_a_run_gets_it(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str], job: str
) -> None:
    with held_by_a_run(tree, environment, job) as path:
        before = time.time_ns()
        assert run(job, "--base-path", tree.root, "--unless-running").code == 0
        assert before <= path.stat().st_mtime_ns <= time.time_ns()
        for age, codes in ((0.9, (0, 75)), (1.1, (1, 1))):
            first = time.time() - age * 86400
            os.utime(path, (first, first))
            done = [run(job, "--base-path", tree.root, *option) for option in (("--unless-running",), ())]
            assert tuple(each.code for each in done) == codes
        assert all("has refused runs since" in each.stderr and f"(process {os.getpid()} " in each.stderr for each in done)
    assert run(job, "--base-path", tree.root).code == 0
    with held(path):
        assert run(job, "--base-path", tree.root).code == 75


def test_a_lock_on_a_directory_of_the_tree_is_only_a_warning(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    with held(tree.root), held(tree.workstreams), held(tree.sessions):
        checked = run("disk-check", "--base-path", tree.root)
        done = run("scratch-cleanup", "--base-path", tree.root)
    assert (checked.code, done.code, done.removed()) == (0, 0, {"s"})
    assert f"another program (process {os.getpid()} " in done.stderr
    assert "holds a lock in" in done.stderr


def test_a_dry_run_creates_no_lock(run: Callable[..., Run], tree: SampleTree, environment: dict[str, str]) -> None:
    for job in ("scratch-cleanup", "disk-check"):
        assert run(job, "--base-path", tree.root, "--dry-run").code == 0
    assert not state_of(environment).exists()


@pytest.mark.parametrize("plant", [lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/null")])
def test_where_no_lock_file_can_be_locks_on_the_tree_decide(
    run: Callable[..., Run], tree: SampleTree, environment: dict[str, str], plant: Callable[[Path], None]
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    state_of(environment).mkdir(parents=True, mode=0o700)
    for job in ("scratch-cleanup", "disk-check"):
        plant(lock_file(state_of(environment), job, tree.root))
    with held(tree.sessions):
        done = run("scratch-cleanup", "--base-path", tree.root)
    assert (done.code, f"(process {os.getpid()} " in done.stderr, os.listdir(tree.sessions)) == (75, True, ["s"])
    assert run("disk-check", "--base-path", tree.root).code == 0
    done = run("scratch-cleanup", "--base-path", tree.root)
    assert (done.code, done.removed()) == (0, {"s"})


@needs_strace
def test_without_any_lock_a_cleanup_is_refused(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    without = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=without, traced=True)
    assert (done.code, "no lock can be taken, neither in" in done.stderr, os.listdir(tree.sessions)) == (77, True, ["s"])


def test_other_trouble_is_told_in_a_crontab_too(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.root.chmod(0o777)
    for job in ("scratch-cleanup", "disk-check"):
        done = run(job, "--base-path", tree.root, "--unless-running")
        assert (done.code, "writable by everyone" in done.stderr) == (77, True)


@needs_strace
def test_a_filesystem_without_locks_costs_the_lock_and_not_the_check(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    tracing = ("-e", "trace=flock", "-e", "inject=flock:error=ENOLCK:when=1")
    done = run("disk-check", "--base-path", tree.root, prefix=("strace", "-f", "-qq", "-o", "/dev/null", *tracing), traced=True)
    assert (done.code, done.stderr) == (0, "")
