"""A believable Arawn tree of any content: for the demo, and for tests."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from arawn_cli import instants
from arawn_cli.config import WORKSTREAMS
from arawn_cli.config_roots import DATABASE
from arawn_cli.instants import DAY
from arawn_cli.layout import MESSAGES, SESSIONS, WORK
from arawn_cli.model import SCRATCH

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE workstreams (id TEXT PRIMARY KEY, title TEXT NOT NULL, is_scratch INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'active', created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, workstream_id TEXT NOT NULL, started_at TEXT NOT NULL,
    ended_at TEXT, turn_count INTEGER);
"""


class SampleTree:
    """A root with a WAL database, a scratch workstream, and whatever is added; times are nanoseconds since the epoch."""

    def __init__(self, root: Path, now: int) -> None:
        """Makes the folders and the database of a new root; `now` is the instant that ages count back from."""
        self.root = root
        self.now = now
        self.workstreams = root / WORKSTREAMS
        self.sessions = self.workstreams / SCRATCH / SESSIONS
        self.messages = self.workstreams / SCRATCH / MESSAGES
        self.database = root / DATABASE
        self.sessions.mkdir(parents=True)
        for directory in (root, self.workstreams, self.workstreams / SCRATCH, self.sessions):
            directory.chmod(0o755)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executescript(_SCHEMA)
        self.workstream_row(SCRATCH, "Scratch", is_scratch=True)

    def ago(self, days: float) -> int:
        """The instant that lies some days before now."""
        return self.now - int(days * DAY)

    def workstream_row(self, workstream: str, title: str, *, is_scratch: bool = False) -> None:
        """A row of `workstreams`."""
        created = instants.render(self.ago(90))
        self._execute("INSERT INTO workstreams VALUES (?, ?, ?, 'active', ?, ?)", workstream, title, is_scratch, created, created)

    def session_row(self, session: str, started: int, ended: int | None = None, workstream: str = SCRATCH) -> None:
        """A row of `sessions`."""
        end = None if ended is None else instants.render(ended)
        self._execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, NULL)", session, workstream, instants.render(started), end)

    def turn(self, session: str | None, at: int, content: str = "hello", workstream: str = SCRATCH) -> None:
        """Appends a message to a workstream's log, as Arawn does: one write of one line."""
        seconds, nanoseconds = divmod(at, instants.SECOND)
        message = {
            "id": str(uuid4()),
            "workstream_id": workstream,
            "session_id": session,
            "role": "user",
            "content": content,
            "timestamp": f"{instants.render(seconds * instants.SECOND)[:19]}.{nanoseconds:09d}Z",
        }
        with (self.workstreams / workstream / MESSAGES).open("ab", buffering=0) as file:
            file.write(json.dumps(message).encode() + b"\n")

    def session(self, session: str, *, files: dict[str, int], age_days: float) -> Path:
        """A session directory with files of the given sizes; everything in it has one age."""
        directory = self.sessions / session
        (directory / WORK).mkdir(parents=True)
        for name, size in files.items():
            write(directory / WORK / name, size)
        set_age(directory, self.ago(age_days))
        return directory

    def workstream(self, workstream: str, title: str, files: dict[str, int]) -> Path:
        """A named workstream with its row, and files below its directory."""
        self.workstream_row(workstream, title)
        directory = self.workstreams / workstream
        directory.mkdir()
        for name, size in files.items():
            write(directory / name, size)
        return directory

    def _execute(self, statement: str, *parameters: str | int | None) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, parameters)


def write(path: Path, size: int) -> None:
    """A file of `size` bytes, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = b"The quick brown fox jumps over the lazy dog.\n"
    path.write_bytes((line * (size // len(line) + 1))[:size])


def set_age(top: Path, mtime: int) -> None:
    """Gives everything in a tree one mtime, from the leaves up; links themselves, not what they name."""
    for directory, directories, files in os.walk(top, topdown=False):
        for name in (*files, *directories):
            os.utime(os.path.join(directory, name), ns=(mtime, mtime), follow_symlinks=False)
    os.utime(top, ns=(mtime, mtime))
