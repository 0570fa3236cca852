"""Databases are read while they change, left as they are, and never waited for long."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from arawn_cli import sqlite
from arawn_cli.arawn.database import session_rows, workstream_rows
from arawn_cli.arawn.layout import V0
from arawn_cli.errors import StoppedError
from arawn_cli.sqlite import DatabaseUnreadableError, query, read_database
from tests.conftest import needs_root

_TABLES = "CREATE TABLE workstreams (id, title, state); CREATE TABLE sessions (id, workstream_id, started_at, ended_at, turn_count);"
_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "workstreams.db", _TABLES + "INSERT INTO workstreams VALUES ('scratch', 'Scratch', 'active')")


def make(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(script)
    return path


def test_a_database_that_keeps_changing_is_read_again_with_pauses_and_then_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = itertools.count()
    pauses: list[float] = []
    now = itertools.count()
    monkeypatch.setattr(sqlite, "signature", lambda _path: (next(changes),))
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(now) / 10)
    with pytest.raises(DatabaseUnreadableError, match="changes faster than it can be read"):
        query(path, "SELECT 1 FROM sqlite_master", ())
    assert 2 < len(pauses) < 50
    assert min(pauses) > 0


@pytest.mark.parametrize("name", ["workstreams", "sessions", "SESSIONS"])
@pytest.mark.parametrize(
    "instead",
    [f"CREATE VIEW {{}} AS {_ENDLESS} SELECT x AS id, x AS title, x AS state, x AS workstream_id, x AS started_at, x AS ended_at,"
     " 1 AS turn_count FROM c", "CREATE VIRTUAL TABLE {} USING fts5(id, title, state, workstream_id, started_at, ended_at, turn_count)"],
    ids=["view", "virtual"],
)  # fmt: skip
def test_a_view_or_virtual_table_in_place_of_a_table_is_refused(path: Path, name: str, instead: str) -> None:
    make(path, f"DROP TABLE {name}; {instead.format(name)}")
    with pytest.raises(DatabaseUnreadableError, match=f"{name.lower()} is not an ordinary table"):
        session_rows(path, V0, ())
    with pytest.raises(DatabaseUnreadableError, match=f"{name.lower()} is not an ordinary table"):
        workstream_rows(path, V0)


def test_an_endless_query_ends_at_a_deadline_and_at_a_signal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_QUERY_SECS", 0.2)
    with pytest.raises(DatabaseUnreadableError, match="takes longer"):
        query(path, f"{_ENDLESS} SELECT count(*) FROM c", ())
    monkeypatch.setattr(sqlite, "_QUERY_SECS", 60)
    calls = itertools.count()
    with pytest.raises(StoppedError):
        read_database(
            path, lambda database: sum(1 for _ in database.execute(f"{_ENDLESS} SELECT x FROM c")), stopping=lambda: next(calls) > 20
        )


def test_ctrl_c_ends_an_endless_query(path: Path) -> None:
    """The key is sent until it arrives: Python drops an exception that a finalizer raises."""
    ended = threading.Event()

    def interrupt(*_: object) -> None:
        if not ended.is_set():
            raise KeyboardInterrupt

    def press() -> None:
        while not ended.wait(0.3):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, interrupt)
    keys = threading.Thread(target=press)
    keys.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            query(path, f"{_ENDLESS} SELECT count(*) FROM c", ())
    finally:
        ended.set()
        keys.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_database_that_is_locked_for_ever_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str) -> None:
    monkeypatch.setattr(sqlite, "_RETRY_SECS", 0.2)
    path = tmp_path / "workstreams.db"
    with closing(sqlite3.connect(path)) as holder:
        holder.executescript(f"PRAGMA journal_mode = {journal}; PRAGMA locking_mode = EXCLUSIVE; {_TABLES}")
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("INSERT INTO sessions VALUES ('a', 'scratch', NULL, NULL, 1)")
        with pytest.raises(DatabaseUnreadableError):
            session_rows(path, V0, {"a"})


def test_a_lock_that_is_held_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "workstreams.db"
    with closing(sqlite3.connect(path, check_same_thread=False)) as holder:
        holder.executescript(f"PRAGMA journal_mode = DELETE; {_TABLES}")
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("INSERT INTO sessions VALUES ('a', 'scratch', NULL, NULL, 1)")
        timer = threading.Timer(0.3, holder.commit)
        timer.start()
        assert set(session_rows(path, V0, {"a"}).rows) == {"a"}
        timer.join()


@pytest.mark.parametrize("value", ["zeroblob(2000000)", "'a' || hex(zeroblob(400000))", "printf('%.*c', 900000, 'x')", "1e308", "NULL"])
def test_gigantic_and_odd_ids_are_left_out_or_refused_in_bounded_memory(path: Path, value: str) -> None:
    make(
        path,
        f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 20) "
        f"INSERT INTO sessions SELECT {value}, {value}, 1, 1, 1 FROM c;"
        f"INSERT INTO workstreams VALUES ({value}, {value}, 'active')",
    )
    script = (
        "import resource, sys; from pathlib import Path; from arawn_cli.arawn import database, layout; from arawn_cli import sqlite\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 26, 1 << 26))\n"
        "for read in (database.workstream_rows, lambda *a: database.session_rows(*a, {'a'}).workstreams_with_turns):\n"
        "    try: print(max((len(str(row)) for row in read(Path(sys.argv[1]), layout.V0)), default=0))\n"
        "    except sqlite.DatabaseUnreadableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=60)
    for line in done.stdout.splitlines():
        assert "too big" in line or int(line) < 2000


@pytest.mark.slow
def test_a_million_sessions_are_counted_in_bounded_memory_without_an_index(path: Path) -> None:
    make(
        path,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000000) INSERT INTO sessions "
        "SELECT 's' || x, 'w' || (x % 500), '2026-01-01T00:00:00Z', NULL, 1 FROM c; "
        "INSERT INTO workstreams SELECT DISTINCT workstream_id, 't', 'a' FROM sessions",
    )
    rows = workstream_rows(path, V0)
    assert sum(row.sessions for row in rows) == 1_000_000
    found = session_rows(path, V0, {"s7", "x"})
    assert set(found.rows) == {"s7"}
    assert len(found.workstreams_with_turns) == 500


def test_a_name_that_is_not_utf_8_is_damage(path: Path) -> None:
    make(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = re.sub(rb"(?i)create table", b"creatx table", path.read_bytes().replace(b"s", b"\xff"))
    path.write_bytes(content)
    with pytest.raises(DatabaseUnreadableError):
        session_rows(path, V0, ())


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    path.with_name("elsewhere").write_bytes(b"")


def _hard_link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"x")
    os.link(path.with_name("elsewhere"), path)


@pytest.mark.parametrize("plant", [_fifo, _zero, _link, _hard_link, Path.mkdir])
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_file_beside_the_database_that_sqlite_did_not_make_is_refused(
    path: Path, plant: Callable[[Path], None], suffix: str, journal: str
) -> None:
    make(path, f"PRAGMA journal_mode = {journal}")
    plant(path.with_name(path.name + suffix))
    with pytest.raises(DatabaseUnreadableError, match=f"{path.name}{suffix}: (not a regular file|the file has several names)"):
        session_rows(path, V0, ())


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _zero_header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def _rollback_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:18] + b"\1\1" + content[20:])


@pytest.mark.parametrize("damage", [_truncate, _zero_header, _rollback_header])
@pytest.mark.parametrize("has_index", [True, False])
def test_a_log_beside_a_damaged_database_stays_as_it_is(
    path: Path, tmp_path: Path, damage: Callable[[Path], None], *, has_index: bool
) -> None:
    copy = tmp_path / "copy"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO workstreams VALUES ('blog', 'Blog', 'active')")
        connection.commit()
        shutil.copytree(tmp_path, copy)
    damage(copy / path.name)
    if not has_index:
        (copy / f"{path.name}-shm").unlink()
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with suppress(DatabaseUnreadableError):
        workstream_rows(copy / path.name, V0)
    assert len(before[f"{path.name}-wal"]) > 0
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.mark.parametrize(
    "special", [_fifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/dev/tty")]
)
def test_a_special_file_is_no_database(tmp_path: Path, special: Callable[[Path], None]) -> None:
    special(tmp_path / "workstreams.db")
    with pytest.raises(DatabaseUnreadableError, match="not a regular file"):
        query(tmp_path / "workstreams.db", "SELECT 1", ())


# ---- Root and the database of another account


@pytest.fixture
def foreign(path: Path) -> Generator[Path, None, None]:
    """A database of another account, in a directory that it can reach."""
    directory = Path(tempfile.mkdtemp(prefix="arawn-cli-test-"))
    moved = directory / path.name
    shutil.copyfile(path, moved)
    for owned in (directory, moved):
        os.chown(owned, NOBODY, NOBODY)
    yield moved
    shutil.rmtree(directory)


@needs_root
def test_a_log_of_a_third_account_is_refused(foreign: Path) -> None:
    foreign.with_name(foreign.name + "-wal").write_bytes(b"x")
    with pytest.raises(DatabaseUnreadableError, match="belongs to another account"):
        query(foreign, "SELECT 1", ())
