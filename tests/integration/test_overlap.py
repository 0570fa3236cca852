"""What a scheduler starts while another run is at work: it ends with 75, and a line in a crontab says nothing of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from arawn_cli.cli.demo import SampleTree
from tests.conftest import Run, needs_strace


@contextmanager
def held(directory: Path) -> Iterator[None]:
    holder = os.open(directory, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(holder)


def test_a_cleanup_beside_another_says_so_to_a_person_and_not_in_a_crontab(run: Callable[..., Run], tree: SampleTree) -> None:
    with held(tree.workstreams):
        told = run("scratch-cleanup", "--base-path", tree.root)
        silent = run("scratch-cleanup", "--base-path", tree.root, "--unless-running")
        asked = run("scratch-cleanup", "--base-path", tree.root, "--unless-running", "--verbose")
    assert (told.code, "another run is at work" in told.stderr) == (75, True)
    assert (silent.code, silent.stdout, silent.stderr) == (75, "", "")
    assert (asked.code, "another run is at work" in asked.stderr) == (75, True)
    assert run("scratch-cleanup", "--base-path", tree.root, "--unless-running").code == 0


def test_checks_of_a_crontab_do_not_pile_up_and_keep_nobody_else_from_the_tree(run: Callable[..., Run], tree: SampleTree) -> None:
    with held(tree.root):
        silent = run("disk-check", "--base-path", tree.root, "--unless-running")
        assert (silent.code, silent.stdout, silent.stderr) == (75, "", "")
        assert run("disk-check", "--base-path", tree.root).code == 0
        assert run("scratch-cleanup", "--base-path", tree.root, "--unless-running").code == 0
    assert run("disk-check", "--base-path", tree.root, "--unless-running").code == 0


def test_other_trouble_is_told_in_a_crontab_too(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.root.chmod(0o777)
    for job in ("scratch-cleanup", "disk-check"):
        done = run(job, "--base-path", tree.root, "--unless-running")
        assert (done.code, "writable by everyone" in done.stderr) == (77, True)


@needs_strace
def test_a_filesystem_without_locks_costs_the_lock_and_not_the_check(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    tracing = ("-e", "trace=flock", "-e", "inject=flock:error=ENOLCK:when=1")
    done = run(
        "disk-check", "--base-path", tree.root, "--unless-running", prefix=("strace", "-f", "-qq", "-o", "/dev/null", *tracing), traced=True
    )
    assert (done.code, done.stderr) == (0, "")
