"""Scopes, their limits, and the decision that a scope has vanished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.arawn.root import opened_root
from arawn_cli.diskcheck.levels import ScopeUsage
from arawn_cli.diskcheck.limits import FIXED, limit_of, scope_of, unmatched_limits, vanished_scopes
from arawn_cli.fs.mounts import filesystem_of, with_figures
from tests.support.in_process import checked, configuration_of
from tests.support.limits import configured
from tests.support.tree import SampleTree

__all__ = ["configured"]


def test_a_limit_is_found_by_id_and_then_by_title(tree: SampleTree, configured: Callable[..., Path]) -> None:
    row = WorkstreamRow("w1", "Blog")
    found = [
        limit_of(configuration_of(tree, configured(workstream=9, limits=limits)), row)
        for limits in ({"w1": 1, "Blog": 2}, {"Blog": 2}, {"other": 3})
    ]
    assert found == [1, 2, 9]
    assert unmatched_limits([row], {"w1": 1, "Blog": 2, "other": 3}) == ["other"]


def test_a_workstream_with_the_name_of_a_fixed_scope_has_a_scope_with_a_prefix() -> None:
    assert [scope_of(name) for name in ("blog", *sorted(FIXED))] == [
        "blog",
        "workstream:filesystem",
        "workstream:inodes",
        "workstream:own_files",
        "workstream:total",
    ]


def test_names_of_scopes_are_readable_and_differ(tree: SampleTree) -> None:
    ids = ("7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11", "c2d84e90-55a1-4b7c-9e3d-60f1b2a7c8e4")
    for id_ in ids:
        tree.workstream(id_, "Blog", {"work/f": 1})
    tree.workstream("thesis", "Thesis", {"work/f": 1})
    for session in ("one", *ids):
        tree.session(session, files={"f": 1}, age_days=1)
    mountpoint = filesystem_of(tree.root).mountpoint
    names = [verdict.usage.name for verdict in checked(tree)[0].verdicts]
    assert names == [
        "all workstreams",
        "Arawn's own files",
        "Blog, 7b1f3a52…",
        "Blog, c2d84e90…",
        "Scratch",
        "Thesis",
        "Scratch session 7b1f3a52…",
        "Scratch session c2d84e90…",
        "Scratch session one",
        f"Filesystem {mountpoint}",
        f"Inodes of {mountpoint}",
    ]


def test_a_scope_has_vanished_if_its_directory_does_not_exist(tree: SampleTree) -> None:
    for name in ("blog", "total"):
        tree.workstream(name, name, {"work/f": 1})
    tree.session("here", files={"f": 1}, age_days=1)
    (tree.workstreams / "link").symlink_to("nowhere")
    kept = {"blog", "workstream:total", "session:here", "link"}
    vanished = {"gone", "workstream:inodes", "session:gone", "inodes", "session:../../blog", "session:", "../blog", "workstream:"}
    found = [ScopeUsage(scope, scope, 1, 1, 2, complete=True) for scope in ("total", "filesystem")]
    with opened_root(tree.root, (tree.database,)) as root:
        assert vanished_scopes(root, kept | vanished | {"total", "filesystem"}, found, {}) == vanished
        silent = {"": with_figures("/")}
        assert vanished_scopes(root, {"filesystem", "inodes", "gone"}, [], silent) == {"gone"}
