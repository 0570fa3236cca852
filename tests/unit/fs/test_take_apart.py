"""Real trees taken apart: every kind of file, any depth, and what cannot be removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from arawn_cli.cli.demo import SampleTree, write
from arawn_cli.fs.delete import delete_tree
from tests.conftest import Run, make_deep, needs_root


def apart(top: Path) -> list[str]:
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        return [str(failure) for failure in delete_tree(parent, top.name, top.name, lambda: False)]
    finally:
        os.close(parent)


def test_a_tree_with_every_kind_of_file_is_taken_apart(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write(top / "a" / "b" / "c", 10)
    write(top / "a" / "new\nline", 10)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff")).mkdir()
    os.mkfifo(top / "fifo")
    (top / "dangling").symlink_to("nowhere")
    (top / "a" / "readonly").mkdir(mode=0o555)
    assert apart(top) == []
    assert os.listdir(tmp_path) == []


def test_ten_thousand_levels_are_taken_apart(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    make_deep(top, 10_000)
    assert apart(top) == []
    assert os.listdir(tmp_path) == []


def test_a_file_or_link_is_taken_apart_and_a_missing_entry_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path / "file", 3)
    (tmp_path / "link").symlink_to("file")
    assert apart(tmp_path / "link") == apart(tmp_path / "gone") == []
    assert os.listdir(tmp_path) == ["file"]
    assert apart(tmp_path / "file") == []


@needs_root
def test_what_cannot_be_removed_stays_with_what_is_above_it_and_the_rest_goes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("a/stuck", "a/free", "b/free"):
        write(top / name, 1)
    subprocess.run(["chattr", "+i", str(top / "a" / "stuck")], check=True)
    try:
        assert apart(top) == ["unlinkat top/a/stuck: Operation not permitted"]
        assert [str(path.relative_to(top)) for path in sorted(top.rglob("*"))] == ["a", "a/stuck"]
    finally:
        subprocess.run(["chattr", "-i", str(top / "a" / "stuck")], check=True)


@needs_root
def test_a_failed_removal_is_reported_with_exit_1_and_tried_again(run: Callable[..., Run], tree: SampleTree) -> None:
    directory = tree.session("s", files={"stuck": 10, "free": 5}, age_days=30)
    inode = (directory / "work" / "stuck").stat().st_ino
    subprocess.run(["chattr", "+i", str(directory / "work" / "stuck")], check=True)
    try:
        for action in ("failed", None):
            done = run("scratch-cleanup", "--base-path", tree.root)
            assert done.code == 1
            failures = done.last["failures"]
            assert isinstance(failures, list)
            assert [(failure["session_id"], failure["errno"], failure["operation"]) for failure in failures] == [("s", 1, "unlinkat")]
            assert done.stderr.count("Operation not permitted") == 1
            assert done.sessions("failed") == ({"s"} if action else set())
            assert done.last["bytes_reclaimed"] == (5 if action else 0)
            assert done.last["sessions_cleaned"] == 0
    finally:
        stuck = next(path for path in tree.root.rglob("stuck") if path.stat().st_ino == inode)
        subprocess.run(["chattr", "-i", str(stuck)], check=True)
    assert run("scratch-cleanup", "--base-path", tree.root).last["bytes_reclaimed"] == 10
