"""Runs that find another one in progress: exit 75, and with `--unless-running` exit 0 without a message."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Run, needs_strace
from tests.support.tree import SampleTree


@contextmanager
def held(directory: Path) -> Iterator[None]:
    holder = os.open(directory, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(holder)


def test_a_cleanup_beside_another_ends_with_75_and_with_the_option_with_0(run: Callable[..., Run], tree: SampleTree) -> None:
    with held(tree.workstreams):
        told = run("scratch-cleanup", "--base-path", tree.root)
        silent = run("scratch-cleanup", "--base-path", tree.root, "--unless-running")
        asked = run("scratch-cleanup", "--base-path", tree.root, "--unless-running", "--verbose")
    assert (told.code, "another run" in told.stderr) == (75, True)
    assert (silent.code, silent.stdout, silent.stderr) == (0, "", "")
    assert (asked.code, "another run" in asked.stderr) == (0, True)
    assert run("scratch-cleanup", "--base-path", tree.root, "--unless-running").code == 0


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_check_always_takes_its_lock_which_no_cleanup_needs(run: Callable[..., Run], tree: SampleTree, dry_run: tuple[str, ...]) -> None:
    with held(tree.root):
        told = run("disk-check", "--base-path", tree.root, *dry_run)
        assert (told.code, told.stdout, "another check" in told.stderr) == (75, "", True)
        silent = run("disk-check", "--base-path", tree.root, *dry_run, "--unless-running")
        assert (silent.code, silent.stdout, silent.stderr) == (0, "", "")
        assert run("scratch-cleanup", "--base-path", tree.root, *dry_run).code == 0
    assert run("disk-check", "--base-path", tree.root, *dry_run).code == 0


def test_a_plugin_that_finds_another_check_in_progress_is_unknown(run: Callable[..., Run], tree: SampleTree) -> None:
    with held(tree.root):
        done = run("disk-check", "--base-path", tree.root, "--format", "nagios")
    assert (done.code, "DISK UNKNOWN - another check" in done.stdout) == (3, True)


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
