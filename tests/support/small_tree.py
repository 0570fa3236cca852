"""A small tree that is taken apart with each failure told, and errors as the kernel gives them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli.cli.demo import write
from arawn_cli.fs.delete import Crowd, delete_tree


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("a/x", "a/b/y", "c/z"):
        write(tmp_path / "top" / name, 1)
    return tmp_path / "top"


def apart(top: Path, stopping: Callable[[], bool] = lambda: False, crowd: Crowd | None = None) -> list[tuple[str, str, int]]:
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        failures = delete_tree(parent, top.name, top.name, stopping, crowd)
        return [(failure.operation, failure.path, failure.errno) for failure in failures]
    finally:
        os.close(parent)
