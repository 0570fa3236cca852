"""`demo`, and the sample tree that it shows."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import tomli_w
import typer
from rich.console import Console

from arawn_cli import timestamps
from arawn_cli.arawn.layout import DATABASE_V0, MESSAGES, SCRATCH, SESSIONS, WORK, WORKSTREAMS
from arawn_cli.cli.options import Output
from arawn_cli.cli.terminal import configure_logging
from arawn_cli.errors import ConfigurationError, ExitCode
from arawn_cli.schedule.settings import command
from arawn_cli.timestamps import DAY

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE workstreams (id TEXT PRIMARY KEY, title TEXT NOT NULL, is_scratch INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'active', created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, workstream_id TEXT NOT NULL, started_at TEXT NOT NULL,
    ended_at TEXT, turn_count INTEGER);
"""


class SampleTree:
    """An Arawn 0.0 root with a WAL database and an empty scratch workstream, to be filled.

    Instants are nanoseconds since the epoch.
    """

    def __init__(self, root: Path, now: int) -> None:
        """Create the directories and the database of a new root. Ages count back from `now`."""
        self.root = root
        self.now = now
        self.workstreams = root / WORKSTREAMS
        self.sessions = self.workstreams / SCRATCH / SESSIONS
        self.messages = self.workstreams / SCRATCH / MESSAGES
        self.database = root / DATABASE_V0
        self.sessions.mkdir(parents=True)
        for directory in (root, self.workstreams, self.workstreams / SCRATCH, self.sessions):
            directory.chmod(0o755)
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executescript(_SCHEMA)
        self.workstream_row(SCRATCH, "Scratch", is_scratch=True)

    def ago(self, days: float) -> int:
        """Return the instant this number of days before now."""
        return self.now - int(days * DAY)

    def workstream_row(self, workstream: str, title: str, *, is_scratch: bool = False) -> None:
        """Add a row to the table `workstreams`."""
        created = timestamps.render(self.ago(90))
        self._execute("INSERT INTO workstreams VALUES (?, ?, ?, 'active', ?, ?)", workstream, title, is_scratch, created, created)

    def session_row(self, session: str, started: int, ended: int | None = None, workstream: str = SCRATCH) -> None:
        """Add a row to the table `sessions`."""
        end = None if ended is None else timestamps.render(ended)
        self._execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, NULL)", session, workstream, timestamps.render(started), end)

    def turn(self, session: str | None, at: int, content: str = "hello", workstream: str = SCRATCH) -> None:
        """Append a message to a workstream, as Arawn does: one write of one line."""
        seconds, nanoseconds = divmod(at, timestamps.SECOND)
        message = {
            "id": str(uuid4()),
            "workstream_id": workstream,
            "session_id": session,
            "role": "user",
            "content": content,
            "timestamp": f"{timestamps.render(seconds * timestamps.SECOND)[:19]}.{nanoseconds:09d}Z",
        }
        with (self.workstreams / workstream / MESSAGES).open("ab", buffering=0) as file:
            file.write(json.dumps(message).encode() + b"\n")

    def session(self, session: str, *, files: dict[str, int], age_days: float) -> Path:
        """Create a session directory with files of these sizes, all of the same age."""
        directory = self.sessions / session
        (directory / WORK).mkdir(parents=True)
        for name, size in files.items():
            write(directory / WORK / name, size)
        set_age(directory, self.ago(age_days))
        return directory

    def workstream(self, workstream: str, title: str, files: dict[str, int]) -> Path:
        """Create a workstream with its row, and files of these sizes below its directory."""
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
    """Write a file of `size` bytes, and create its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = b"The quick brown fox jumps over the lazy dog.\n"
    path.write_bytes((line * (size // len(line) + 1))[:size])


def set_age(top: Path, mtime: int) -> None:
    """Set the mtime of everything in a tree, from the leaves up. Links are not followed."""
    for directory, directories, files in os.walk(top, topdown=False):
        for name in (*files, *directories):
            os.utime(os.path.join(directory, name), ns=(mtime, mtime), follow_symlinks=False)
    os.utime(top, ns=(mtime, mtime))


_MB = 1_000_000

_BLOG = "7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11"
_THESIS = "c2d84e90-55a1-4b7c-9e3d-60f1b2a7c8e4"

_STEPS = (
    ("A dry run shows every decision and changes nothing.", ["scratch-cleanup", "--dry-run", "--verbose"]),
    (
        "A real run moves each inactive session to the trash in one rename. `trash restore` brings it back for three days.",
        ["scratch-cleanup", "--yes"],
    ),
    ("A disk check measures usage. The limits of the sample are low, so that some are exceeded.", ["disk-check"]),
)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the sample tree.")] = False,
) -> None:
    """Run both jobs on a sample tree in a temporary folder."""
    configure_logging(Output())
    console = Console(highlight=False, soft_wrap=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix="arawn-demo-"))
    except OSError as error:
        raise ConfigurationError(f"cannot make a folder for the sample tree: {error.strerror}; set TMPDIR to another folder") from error
    try:
        config = build(folder, time.time_ns())
        console.print(f"A sample Arawn root: {folder / 'arawn'}")
        codes = [_step(console, explanation, [*arguments, "--config", str(config)]) for explanation, arguments in _STEPS]
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"cannot write the sample tree to {folder}: {error}; set TMPDIR to another folder") from error
    finally:
        if not keep:
            shutil.rmtree(folder)
    console.print(f"\nThe sample tree is in {folder}." if keep else "\nThe sample tree was removed. --keep keeps it.")
    raise typer.Exit(next((code for code in codes if code), ExitCode.DONE))


def build(folder: Path, now: int) -> Path:
    """Create the sample tree in `<folder>/arawn`, and a configuration; return its path."""
    tree = SampleTree(folder / "arawn", now)
    tree.workstream(_BLOG, "My blog", {"production/site.tar": 6 * _MB, "work/drafts/photos.bin": 9 * _MB})
    tree.turn(None, tree.ago(2), "hello " * 6_633, workstream=_BLOG)
    tree.workstream(_THESIS, "Thesis", {"production/thesis.pdf": 2 * _MB, "work/data/survey.csv": 21 * _MB})
    # Sessions of several ages, with different evidence of their last use.
    tree.session("old-and-forgotten", files={"report.md": 12_000, "dataset.csv": 3 * _MB}, age_days=41)
    tree.session("no-row-no-message", files={"notes.txt": 700}, age_days=30)
    tree.session("long-lived", files={"model.bin": 5 * _MB}, age_days=60)
    tree.session("edited-an-hour-ago", files={"draft.md": 4_000}, age_days=20)
    tree.session("keep-for-audit", files={"evidence.log": 90_000}, age_days=80)
    tree.session("yesterday", files={"plot.svg": 250_000}, age_days=1)
    for session, started in (("old-and-forgotten", 41), ("long-lived", 60), ("edited-an-hour-ago", 20), ("keep-for-audit", 80)):
        tree.session_row(session, tree.ago(started))
        tree.turn(session, tree.ago(started))
    tree.turn("long-lived", tree.ago(1))
    tree.turn("yesterday", tree.ago(1))
    write(tree.sessions / "edited-an-hour-ago" / "work" / "draft.md", 4_100)
    set_age(tree.sessions / "edited-an-hour-ago" / "work" / "draft.md", tree.ago(1 / 24))
    config = folder / "config.toml"
    tables = {
        "paths": {"usage": {"session_warning_mb": 4}, "cleanup": {"scratch_cleanup_days": 7}},
        "maintenance": {
            "root": str(tree.root),
            "state_dir": str(folder / "state"),
            "cleanup": {"protect": ["keep-*"]},
            "pressure": {"total": "100MiB", "workstream": "10MiB", "limits": {"My blog": "20MiB"}},
        },
    }
    config.write_text(tomli_w.dumps(tables))
    return config


def _step(console: Console, explanation: str, arguments: list[str]) -> int:
    console.print(f"\n[bold]{explanation}[/bold]")
    console.print(f"[dim]$ arawn-cli {shlex.join(arguments)}[/dim]", soft_wrap=True)
    return subprocess.run([*command(), *arguments, "--format", "table"], check=False).returncode
