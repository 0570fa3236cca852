"""Databases are read while they change, and left as they are."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from arawn_cli import sqlite
from arawn_cli.sqlite import DatabaseUnreadableError, query


def test_a_database_that_keeps_changing_is_read_again_with_pauses_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "database"
    path.write_bytes(b"no database, and long enough to have a header" * 20)
    changes = itertools.count()
    pauses: list[float] = []
    monkeypatch.setattr(sqlite, "signature", lambda _path: (next(changes),))
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(DatabaseUnreadableError, match="changes faster than it can be read"):
        query(path, "SELECT 1 FROM sqlite_master", ())
    assert len(pauses) == 50
    assert 0.1 < sum(pauses) < 5
