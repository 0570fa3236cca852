"""The largest directories and the largest file of a workstream, against a walk of the whole
tree."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from arawn_cli.arawn.root import opened_root
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.largest import MAX_DIRECTORIES, Largest, largest_in
from arawn_cli.errors import StoppedError
from arawn_cli.fs.usage import Usage
from arawn_cli.state import State
from tests.support.tree import SampleTree


def search(tree: SampleTree, name: str, foreign: tuple[str, ...] = (), *, stopping: bool = False) -> Largest | None:
    context = RunContext(state=State.in_memory(), show=print, stopping=lambda: stopping)
    with opened_root(tree.root, [tree.database]) as root:
        return largest_in(root, name, foreign, lambda usage: usage.apparent_bytes, 1, context)


def grow(directory: Path, choice: random.Random, depth: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(choice.randrange(1, 4)):
        if depth < 4 and choice.random() < 0.5:
            grow(directory / f"d{number}", choice, depth + 1)
        else:
            (directory / f"f{number}").write_bytes(bytes(choice.randrange(1, 5000)))


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_parts_are_those_that_a_walk_finds(tree: SampleTree, seed: int) -> None:
    workstream = tree.workstream("blog", "blog", {})
    for area in ("production", "work"):
        grow(workstream / area, random.Random(seed + len(area)))  # noqa: S311 - a tree, not a secret
    found = search(tree, "blog")
    assert found is not None
    files = {path: path.stat().st_size for path in workstream.rglob("*") if path.is_file()}
    assert found.file_bytes == max(files.values()) == (workstream / found.file).stat().st_size
    inner = [path for area in ("production", "work") for path in (workstream / area).iterdir() if path.is_dir()]
    sizes = sorted((sum(size for file, size in files.items() if path in file.parents) for path in inner), reverse=True)
    assert [size for _, size in found.directories] == sizes[:MAX_DIRECTORIES]
    assert all((workstream / path).is_dir() for path, _ in found.directories)


def test_a_file_deep_below_is_given_by_its_directory(tree: SampleTree) -> None:
    deep = tree.workstream("deep", "deep", {}) / "work" / Path(*"abcdefghijklmnop")
    deep.mkdir(parents=True)
    (deep / "large").write_bytes(bytes(9000))
    found = search(tree, "deep")
    assert found is not None
    assert (found.file_bytes, found.file.endswith("/…")) == (9000, True)
    assert (tree.root / "workstreams" / "deep" / found.file.removesuffix("/…")).is_dir()


def test_nothing_is_found_in_an_empty_workstream_or_beside_a_foreign_mount(tree: SampleTree) -> None:
    work = tree.workstream("blog", "blog", {}) / "work"
    work.mkdir(exist_ok=True)
    (work / "f").write_bytes(b"x")
    tree.workstream("empty", "empty", {})
    assert search(tree, "blog", ("workstreams/blog/work/mount",)) is None
    assert search(tree, "blog", ("workstreams/blog2",)) is not None
    assert search(tree, "nothing") is None
    empty = search(tree, "empty")
    assert empty is None or empty.file_bytes == 0 or os.path.exists(tree.root / "workstreams" / "empty" / empty.file)


def test_a_signal_ends_the_search(tree: SampleTree) -> None:
    (tree.workstream("blog", "blog", {}) / "work" / "a").mkdir(parents=True)
    with pytest.raises(StoppedError):
        search(tree, "blog", stopping=True)


def test_sizes_are_those_of_the_configured_measure(tree: SampleTree) -> None:
    (tree.workstream("blog", "blog", {}) / "work" / "a").mkdir(parents=True)
    (tree.root / "workstreams/blog/work/a/f").write_bytes(b"x")
    context = RunContext(state=State.in_memory(), show=print)
    sizes: dict[str, int] = {}

    def allocated(usage: Usage) -> int:
        return usage.allocated_bytes

    with opened_root(tree.root, [tree.database]) as root:
        found = largest_in(root, "blog", (), allocated, 1, context)
    assert found is not None
    sizes.update(found.directories)
    assert sizes["work/a"] >= 4096
