"""A root of Arawn's main branch with sessions in scratch, for tests."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

from tests.support.tree import set_age, write

DAY = 86_400 * 10**9

_SCHEMA = """
CREATE TABLE workstreams (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, root_dir TEXT NOT NULL, created_at TEXT NOT NULL,
    display_name TEXT, archived INTEGER NOT NULL DEFAULT 0);
CREATE TABLE sessions (id TEXT PRIMARY KEY, workstream_id TEXT, created_at TEXT NOT NULL);
"""


def session_id(number: int) -> str:
    """Return a readable UUID."""
    return str(UUID(int=number))


class MainTree:
    """A root with a database and an empty scratch; instants are nanoseconds since the epoch."""

    def __init__(self, root: Path, now: int) -> None:
        self.root = root
        self.now = now
        self.workstreams = root / "workstreams"
        self.sessions = self.workstreams / "scratch"
        self.trash = self.sessions / ".trash"
        self.database = root / "arawn.db"
        self.sessions.mkdir(parents=True)
        for directory in (root, self.workstreams, self.sessions):
            directory.chmod(0o755)
        self._execute(_SCHEMA)
        self.workstream("thesis")

    def ago(self, days: float) -> int:
        return self.now - int(days * DAY)

    def workstream(self, name: str) -> Path:
        directory = self.workstreams / name
        directory.mkdir()
        self._execute(f"INSERT INTO workstreams VALUES ('{name}-id', '{name}', '{directory}', '2026-01-01T00:00:00+00:00', NULL, 0)")
        return directory

    def session(self, session: str, *, files: dict[str, int], age_days: float, turns: int = 2) -> Path:
        """Create a session with its row, messages and files of these sizes, all of the same age."""
        directory = self.sessions / session
        directory.mkdir()
        (directory / "messages.jsonl").write_text('{"_version":1}\n' + "".join(self.line(f"turn {turn}") for turn in range(turns)))
        for name, size in files.items():
            write(directory / name, size)
        set_age(directory, self.ago(age_days))
        self._execute(f"INSERT INTO sessions VALUES ('{session}', NULL, '2026-01-01T00:00:00+00:00')")
        return directory

    @staticmethod
    def line(content: str) -> str:
        return json.dumps({"id": str(uuid4()), "role": "user", "content": content}) + "\n"

    def _execute(self, statements: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executescript(statements)
