"""`scratch-cleanup` as the installed command runs it on a tree."""

from __future__ import annotations

from tests.conftest import Run, RunCommand
from tests.support.tree import SampleTree


def clean(run: RunCommand, tree: SampleTree, *arguments: object, prefix: tuple[str, ...] = (), **extra: str) -> Run:
    return run("scratch-cleanup", "--base-path", tree.root, *arguments, prefix=prefix, **extra)
