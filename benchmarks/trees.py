"""Arawn roots of many files for benchmarks, built once and kept."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

from arawn_cli import timestamps
from arawn_cli.arawn.layout import MESSAGES
from arawn_cli.cli.demo import set_age

_PER_DIRECTORY = 45
_SESSIONS = 100
_WORKSTREAMS = 10
_DAY = 86_400
# The columns that Arawn 0.0 gives its tables, as far as a cleanup reads them. No session has a row.
_TABLES = """
CREATE TABLE workstreams (id TEXT PRIMARY KEY, title TEXT NOT NULL, is_scratch INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, workstream_id TEXT NOT NULL, started_at TEXT NOT NULL, ended_at TEXT, turn_count INTEGER);
"""


def tree(folder: Path, files: int) -> Path:
    """Return a root with so many files: half in scratch sessions, half in workstreams."""
    root = folder / f"files-{files}"
    if not root.exists():
        half = files // 2
        areas = [f"workstream-{number}/{area}" for number in range(_WORKSTREAMS) for area in ("work", "production")]
        _build(root, [(_session_places(), half), (areas, files - half)])
    return root


def sessions(folder: Path, files: int) -> Path:
    """Return a root whose scratch sessions contain so many files, and without messages."""
    root = folder / f"sessions-{files}"
    if not root.exists():
        _build(root, [(_session_places(), files)])
        (root / "workstreams" / "scratch" / MESSAGES).touch()
    return root


def inactive(folder: Path, name: str, files: int, number: int = _SESSIONS) -> Path:
    """Build a root with this number of inactive scratch sessions, and return it."""
    root = folder / name
    shutil.rmtree(root, ignore_errors=True)
    _build(root, [(_session_places(number), files)], per_directory=min(_PER_DIRECTORY, files // number))
    set_age(root, time.time_ns() - 30 * _DAY * timestamps.SECOND)
    os.sync()
    return root


def with_messages(folder: Path, files: int, size: int, *, due: bool) -> Path:
    """Return a root as `tree`, with old messages of `size` bytes, and a due session if `due`."""
    root = folder / f"messages-{files}-{size}{'-due' if due else ''}"
    if not root.exists():
        shutil.copytree(tree(folder, files), root, symlinks=True)
        if due:
            session = root / "workstreams" / "scratch" / "sessions" / "due"
            (session / "work").mkdir(parents=True)
            set_age(session, time.time_ns() - 30 * _DAY * timestamps.SECOND)
        with (root / "workstreams" / "scratch" / MESSAGES).open("wb") as log:
            while log.tell() < size:
                log.write(b"".join(_message(number, 30 * _DAY) for number in range(1000)))
    return root


def _session_places(count: int = _SESSIONS) -> list[str]:
    return [f"scratch/sessions/session-{number:03}/work" for number in range(count)]


def _message(number: int, age: int) -> bytes:
    at = timestamps.render((int(time.time()) - age) * timestamps.SECOND)
    session = f"session-{number % _SESSIONS:03}"
    message = {"id": str(number), "workstream_id": "scratch", "session_id": session, "role": "user", "content": "x" * 800, "timestamp": at}
    return json.dumps(message).encode() + b"\n"


def _build(root: Path, shares: list[tuple[list[str], int]], per_directory: int = _PER_DIRECTORY) -> None:
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for places, files in shares:
        for number in range(-(-files // per_directory)):
            directory = unfinished / "workstreams" / places[number % len(places)] / f"d{number % 97}" / f"e{number}"
            directory.mkdir(parents=True)
            _fill(directory, min(per_directory, files - number * per_directory))
    database = sqlite3.connect(unfinished / "workstreams.db")
    database.executescript(_TABLES)
    database.close()
    for directory in (unfinished, unfinished / "workstreams"):
        directory.chmod(0o755)
    unfinished.rename(root)


def _fill(directory: Path, files: int) -> None:
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(files):
        file = os.open(f"file-{number}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=parent)
        os.write(file, b"x" * 700)
        os.close(file)
    os.close(parent)
