from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from arawn_cli import timestamps
from arawn_cli.arawn import database
from arawn_cli.arawn.layout import MAIN, V0, Layout
from arawn_cli.sqlite import DatabaseUnreadableError
from tests.conftest import snapshot
from tests.support.tree import SampleTree

_SERVER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA wal_autocheckpoint = 0")
for line in sys.stdin:
    if line == "die\\n":
        os._exit(9)
    connection.execute(line)
    connection.commit()
    print("done", flush=True)
"""


class Server:
    """Another process that has the database open in WAL mode."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def say(self, statement: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        if statement != "die":
            self._process.stdout.readline()


def insert(session: str, started: str = "2026-01-01T00:00:00Z") -> str:
    return f"INSERT INTO sessions VALUES ('{session}', 'scratch', '{started}', NULL, NULL)"


@pytest.mark.parametrize("workstreams", [("scratch", "blog"), ("blog", "scratch")])
def test_a_session_with_two_rows_belongs_to_the_workstream_that_one_of_them_names(tree: SampleTree, workstreams: tuple[str, str]) -> None:
    with closing(sqlite3.connect(tree.database)) as server, server:
        for id_, workstream in zip(("s", b"s"), workstreams, strict=True):
            server.execute("INSERT INTO sessions VALUES (?, ?, '2026-01-01T00:00:00Z', NULL, NULL)", (id_, workstream))
    assert database.session_rows(tree.database, V0, {"s"}).rows["s"].workstream_id == "blog"


def test_rows_are_read_while_a_server_has_the_log_open_and_nothing_is_written(tree: SampleTree) -> None:
    with Server(tree.database) as server:
        server.say(insert("a"))
        before = snapshot(tree.root)
        assert set(database.session_rows(tree.database, V0, {"a", "b"}).rows) == {"a"}
        server.say(insert("b"))
        assert set(database.session_rows(tree.database, V0, {"a", "b"}).rows) == {"a", "b"}
        server.say("SELECT 1")
        changed = {path for path, state in snapshot(tree.root).items() if before.get(path) != state}
    assert {Path(path).name for path in changed} <= {"workstreams.db-wal", "workstreams.db-shm"}


def test_reading_a_closed_database_leaves_no_file_behind(tree: SampleTree) -> None:
    before = snapshot(tree.root)
    assert [row.id for row in database.workstream_rows(tree.database, V0)] == ["scratch"]
    assert snapshot(tree.root) == before


def test_rows_that_a_crashed_server_left_in_the_log_are_read(tree: SampleTree) -> None:
    with Server(tree.database) as server:
        server.say(insert("a"))
        server.say("die")
    assert (tree.root / "workstreams.db-wal").stat().st_size > 0
    before = snapshot(tree.root)
    assert set(database.session_rows(tree.database, V0, {"a", "b"}).rows) == {"a"}
    assert snapshot(tree.root) == before


def test_the_newest_time_of_a_row_counts_and_an_unreadable_one_is_told(tree: SampleTree) -> None:
    tree.session_row("a", tree.ago(60), tree.ago(3))
    with Server(tree.database) as server:
        server.say(insert("b", started="last week"))
    rows = database.session_rows(tree.database, V0, {"a", "b"}).rows
    assert rows["a"].newest == tree.ago(3) // 1000 * 1000
    assert (rows["b"].newest, rows["b"].unreadable) == (None, True)


@pytest.mark.parametrize("ids", [("'a'", "x'61'"), ("x'61'", "'a'")])
def test_of_several_rows_of_a_session_each_counts(tree: SampleTree, ids: tuple[str, str]) -> None:
    with Server(tree.database) as server:
        for id_, workstream, started in zip(ids, ("scratch", "thesis"), ("2026-03-01T00:00:00Z", "last week"), strict=True):
            server.say(f"INSERT INTO sessions VALUES ({id_}, '{workstream}', '{started}', NULL, NULL)")
        server.say("INSERT INTO sessions VALUES (x'6200', 'thesis', '2026-01-01T00:00:00Z', NULL, NULL)")
    rows = database.session_rows(tree.database, V0, {"a", "b"}).rows
    assert rows == {"a": database.SessionRow("thesis", timestamps.parse("2026-03-01T00:00:00Z"), unreadable=True)}


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to have a header" * 20])
def test_what_is_no_database_is_said_to_be_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "workstreams.db"
    path.write_bytes(content)
    with pytest.raises(DatabaseUnreadableError, match=r"workstreams.db: "):
        database.workstream_rows(path, V0)


def test_a_missing_database_is_unreadable_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreadableError, match="No such file"):
        database.workstream_rows(tmp_path / "workstreams.db", V0)
    assert os.listdir(tmp_path) == []


def test_a_rollback_journal_database_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "workstreams.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE sessions (id, workstream_id, started_at, ended_at, turn_count)")
        connection.execute("INSERT INTO sessions VALUES ('a', 'scratch', '1970-01-01T00:00:01Z', NULL, NULL)")
    assert database.session_rows(path, V0, {"a", "z"}).rows["a"].newest == timestamps.SECOND


def test_a_row_of_0_0_without_a_workstream_names_none(tree: SampleTree) -> None:
    """Arawn writes none; who adds one by hand may have meant any workstream."""
    path = tree.root / "loose.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (id, workstream_id, started_at, ended_at, turn_count)")
        connection.execute("INSERT INTO sessions VALUES ('a', NULL, '2026-01-01T00:00:00Z', NULL, 3)")
        connection.commit()
    found = database.session_rows(path, V0, {"a"})
    assert (found.rows["a"].workstream_id, found.workstreams_with_turns) == ("", frozenset())


@pytest.mark.parametrize("layout", [V0, MAIN])
def test_a_damaged_index_hides_no_row(tmp_path: Path, layout: Layout) -> None:
    """SQLite reads an index with all columns instead of the table."""
    path = tmp_path / "damaged.db"
    columns = {V0: "id, workstream_id, turn_count, started_at, ended_at", MAIN: "id, workstream_id, created_at"}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(
            f"CREATE TABLE workstreams (id, name); CREATE TABLE sessions ({columns[layout]}, more);"
            f"CREATE INDEX complete ON sessions ({columns[layout]});"
        )
        connection.execute("INSERT INTO sessions (id, workstream_id, more) VALUES ('a', 'thesis', ?)", ("x" * 3000,))
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'complete'")
        ((size,),) = connection.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x0a\0\0\0\0" + size.to_bytes(2, "big") + b"\0")  # a leaf without entries
    assert database.session_rows(path, layout, {"a"}).rows["a"].workstream_id == "thesis"
