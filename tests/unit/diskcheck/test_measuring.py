"""Measuring a root in portions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.arawn.root import opened_root
from arawn_cli.diskcheck.measuring import measure_root
from tests.support.in_process import configuration_of, context
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, write


def filled_tree(tmp_path: Path) -> SampleTree:
    tree = SampleTree(tmp_path / "tree", time.time_ns())
    tree.workstream("blog", "My blog", {"work/f": 10, "production/g": 20, "h": 30})
    for name in ("old", "older"):
        tree.session(name, files={"f": 40}, age_days=30)
    os.link(tree.sessions / "old" / "work" / "f", tree.workstreams / "blog" / "linked")
    return tree


def filled_main(tmp_path: Path) -> MainTree:
    main = MainTree(tmp_path / "main", time.time_ns())
    for number in range(3):
        main.session(session_id(number), files={"f": 50 + number}, age_days=30)
    for number in range(20):
        write(main.workstreams / "thesis" / f"file{number}", 100 + number)
    write(main.workstreams / "thesis" / "memory.db", 7)
    for number in range(5):
        os.link(main.workstreams / "thesis" / f"file{number}", main.workstreams / "thesis" / f"linked{number}")
    (main.sessions / session_id(0) / "f").rename(main.workstreams / "foreign file")
    return main


@pytest.mark.parametrize("filled", [filled_tree, filled_main])
@pytest.mark.parametrize("most", [1, 2, 7])
def test_portions_give_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: Callable[[Path], SampleTree | MainTree], most: int
) -> None:
    tree = filled(tmp_path)
    config = configuration_of(tree, None)
    with opened_root(config.root, config.databases) as root:
        at_once = measure_root(root, config, context(tree.now, [], tmp_path / "state"), {})
        monkeypatch.setattr("arawn_cli.diskcheck.measuring._PORTION", most)
        in_portions = measure_root(root, config, context(tree.now, [], tmp_path / "state"), {})
    assert replace(in_portions, filesystems={}) == replace(at_once, filesystems={})  # others write to the disk
    assert at_once.total.files + at_once.total.directories > most
