"""A second root beside the main one, and a configuration that names both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tests.support.tree import SampleTree


@pytest.fixture
def lab(tmp_path: Path) -> SampleTree:
    """The tree of a second root."""
    return SampleTree(tmp_path / "lab", time.time_ns())


@pytest.fixture
def config(tmp_path: Path, tree: SampleTree, lab: SampleTree) -> Callable[..., Path]:
    """A file with a main root of seven days and the root `lab`, with what a test gives it of its
    own."""

    def write(*, maintenance: dict[str, object] | None = None, **own: object) -> Path:
        path = tmp_path / "c.toml"
        roots = [{"name": "lab", "path": str(lab.root), **own}]
        tables = {"state_dir": str(tmp_path / "state"), "roots": roots, **(maintenance or {})}
        path.write_text(tomli_w.dumps({"maintenance": {"root": str(tree.root), **tables}}))
        return path

    return write
