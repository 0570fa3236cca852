"""A tree and a configuration for the tests of what monitoring systems read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tests.support.tree import SampleTree


@pytest.fixture
def filled(tree: SampleTree) -> SampleTree:
    tree.workstream("blog", "My blog", {"work/a": 3_000, "production/b": 500})
    tree.session("old", files={"f": 2_000}, age_days=30)
    tree.session("fresh", files={"f": 10}, age_days=0.1)
    return tree


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(*, limit: int = 10**9, for_checks: int = 1, **maintenance: object) -> Path:
        path = tmp_path / "c.toml"
        pressure = {
            "for_checks": for_checks,
            "limits": {"blog": limit},
            "filesystem_warning_percent": 99,
            "filesystem_critical_percent": 100,
        }
        state = str(tmp_path / "state")
        path.write_text(tomli_w.dumps({"maintenance": {"state_dir": state, "pressure": pressure, **maintenance}}))
        return path

    return write
