"""Limits that a test sets for the pressure of a tree, and the levels that a check of it tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.check_events import DiskPressure
from arawn_cli.events import Event, Level

GIB = 1024**3
MIB = 1024**2


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Path]:
    """A configuration of pressure with limits high above what the tests make, but for those that
    are given."""

    def make(*, session_mb: float = 200.0, total_gb: float = 10.0, cleanup: dict[str, object] | None = None, **pressure: object) -> Path:
        path = tmp_path / "c.toml"
        sizes = {"session": int(session_mb * MIB), "total": int(total_gb * GIB)}
        calm = {
            "filesystem_warning_percent": 99,
            "filesystem_critical_percent": 100,
            "inode_warning_percent": 100,
            "inode_critical_percent": 100,
        }
        path.write_text(tomli_w.dumps({"maintenance": {"cleanup": cleanup or {}, "pressure": {**calm, **sizes, **pressure}}}))
        return path

    return make


def reported_levels(events: list[Event]) -> dict[str, Level]:
    return {event.scope: event.level for event in events if isinstance(event, DiskPressure)}
