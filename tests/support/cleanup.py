"""`scratch-cleanup` as the installed command runs it on a tree."""

from __future__ import annotations

from arawn_cli.cli.demo import SampleTree
from tests.conftest import Run, RunCommand


def clean(run: RunCommand, tree: SampleTree, *arguments: object, prefix: tuple[str, ...] = (), **extra: str) -> Run:
    return run("scratch-cleanup", "--base-path", tree.root, *arguments, prefix=prefix, **extra)
