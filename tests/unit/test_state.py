"""The state file is private, and a file that cannot be used is renamed without losing events."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli import sqlite, state_file
from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.errors import StateUnavailableError
from arawn_cli.state import State, _replace, exclusive_lock
from arawn_cli.state_file import FILE, SCHEMA_VERSION, connect
from tests.conftest import needs_root

NOW = 1_700_000_000


def opened(directory: Path) -> State:
    state = State(directory, lambda: NOW * 10**9)
    state.open()
    return state


def event(number: int, scope: str = "", level: str = "") -> OutgoingEvent:
    return OutgoingEvent(f"event-{number}", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", b"{}", scope, level)


def stored(directory: Path) -> list[str]:
    state = opened(directory)
    try:
        return [queued.event.event_id for queued in Outbox(state, 1000).next(0, 1000)]
    finally:
        state.close()


def test_only_the_owner_can_read_any_of_it(tmp_path: Path) -> None:
    directory = tmp_path / "deeper" / "state"
    before = os.umask(0)
    try:
        state = opened(directory)
        Outbox(state, 10).append(event(1))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {
            FILE: 0o600,
            f"{FILE}-wal": 0o600,
            f"{FILE}-shm": 0o600,
        }
        state.close()
    finally:
        os.umask(before)


def test_a_file_that_became_readable_is_made_private_again(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / FILE).chmod(0o644)
    opened(tmp_path).close()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_file_that_is_unreadable_once_is_not_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).close()
    connect = state_file.connect
    failures = [state_file.DamagedError("Page 5: unable to get the page")]

    def connect_later(path: Path) -> sqlite3.Connection:
        if failures:
            raise failures.pop()
        return connect(path)

    monkeypatch.setattr(state_file, "connect", connect_later)
    opened(tmp_path).close()
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(
    "plant", [os.mkfifo, os.mkdir, lambda path: os.link(path.parents[1] / "victim", path), lambda path: path.symlink_to("../victim")]
)
def test_what_is_no_file_of_its_own_is_set_aside_once_and_not_followed(
    tmp_path: Path, suffix: str, plant: Callable[[Path], None], told: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "state"
    (tmp_path / "victim").write_text("mine")
    state = opened(directory)
    Outbox(state, 10).append(event(1))
    state.close()
    if not suffix:
        (directory / FILE).unlink()
    plant(directory / f"{FILE}{suffix}")
    assert stored(directory) == (["event-1"] if suffix else [])
    assert f"{FILE}{suffix} was not a regular file with one name: renamed to {FILE}.damaged-{NOW}{suffix}" in told.text
    told.clear()
    assert stored(directory) == (["event-1"] if suffix else [])
    assert told.text == ""
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_file_with_a_second_name_keeps_its_events(tmp_path: Path) -> None:
    state = opened(tmp_path / "state")
    Outbox(state, 10).append(event(1))
    state.close()
    os.link(tmp_path / "state" / FILE, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    assert stored(tmp_path / "state") == ["event-1"]
    assert (tmp_path / "backup").read_bytes() == before


def test_a_file_that_is_not_open_is_read_as_it_is_at_that_time(tmp_path: Path) -> None:
    reading, writing = State(tmp_path, lambda: 0), opened(tmp_path)
    counts = []
    for number in range(3):
        counts += reading.select("SELECT count(*) FROM outbox", ())
        Outbox(writing, 10).append(event(number))
    writing.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    counts += reading.select("SELECT count(*) FROM outbox", ())
    assert counts == [(number,) for number in range(4)]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "reading changes nothing"
    reading.close()


def test_a_file_that_another_program_locks_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_RETRY_SECS", 0.2)
    opened(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as holder:
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateUnavailableError, match="keeps it locked"):
            State(tmp_path, lambda: 0).select("SELECT 1 FROM outbox", ())


@pytest.mark.parametrize("identity", [0, 7])
def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path, identity: int) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE kv (k TEXT, v TEXT)")
        connection.execute(f"PRAGMA application_id = {identity}")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StateUnavailableError, match="belongs to another program and was not changed: set state_dir"):
        opened(tmp_path)
    with pytest.raises(StateUnavailableError, match="belongs to another program"):
        State(tmp_path, lambda: 0).select("SELECT * FROM runs", ())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(FILE, before)]


@pytest.mark.parametrize("pragma", ["application_id = 0", "application_id = 7", "user_version = 0", "user_version = 104"])
def test_a_file_with_our_tables_gets_its_application_id_and_version_back(
    tmp_path: Path, pragma: str, told: pytest.LogCaptureFixture
) -> None:
    state = opened(tmp_path)
    Outbox(state, 10).append(event(1))
    state.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA {pragma}")
    assert stored(tmp_path) == ["event-1"]
    assert told.text == ""
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        values = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")]
    assert values == [(0x6172776E,), (SCHEMA_VERSION,)]


@pytest.mark.parametrize("change", ["target = ''", "root = '/other'", "body = x'7b'", "event_id = 'x'", "scope = 'total'"])
def test_a_changed_event_is_neither_sent_nor_in_the_way(tmp_path: Path, change: str, told: pytest.LogCaptureFixture) -> None:
    state = opened(tmp_path)
    Outbox(state, 10, "other-relay", "/r").append(event(1), "503")
    Outbox(state, 10, "other-relay", "/r").append(event(2), "503")
    state.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute(f"UPDATE outbox SET {change} WHERE sequence = 1")
    with pytest.raises(StateUnavailableError, match="an event in the outbox is damaged"):
        Outbox(State(tmp_path, lambda: 0), 10).next(0, 10)
    assert stored(tmp_path) == []
    state = opened(tmp_path)
    assert [(queued.event, queued.answer) for queued in Outbox(state, 10, "other-relay").next(0, 10)] == [(event(2), "503")]
    assert state.select("SELECT root FROM outbox", ()) == [("/r",)]
    state.close()
    assert told.text.count("with 1 undelivered events, others may be lost") == 1


@pytest.mark.parametrize(
    "row",
    [
        "alerts VALUES ('/r', 'total', 'Total', 'bytes', 1, 1, 1, 'purple', 0, 0, NULL)",
        "alerts VALUES ('/r', 'total', 'Total', 'bytes', 1, 1, 1, 'ok', 9223372036854775807, 0, NULL)",
        "samples VALUES (9223372036854775807, 1, 5)",
        "samples VALUES (5, 1, -5)",
        "log_positions VALUES ('/r', 'x:y', 5)",
        "runs VALUES ('disk-check', '/r', 5, 5, -1, 0)",
    ],
)
def test_a_row_that_no_run_writes_is_damage(tmp_path: Path, row: str, told: pytest.LogCaptureFixture) -> None:
    opened(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"INSERT INTO {row}")
    opened(tmp_path).close()
    opened(tmp_path).close()
    assert told.text.count("CHECK constraint failed") == 1


def test_what_is_stored_is_there_the_next_time(tmp_path: Path) -> None:
    state = opened(tmp_path)
    Outbox(state, 10).append(event(1))
    state.checkpoint()
    state.close()
    assert stored(tmp_path) == ["event-1"]


@pytest.mark.parametrize(
    "damage", [b"this is no database at all, but long enough to look at" * 40, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_a_damaged_file_is_renamed_and_a_new_one_begun(tmp_path: Path, damage: bytes, told: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        (tmp_path / FILE).write_bytes(damage)
        state = opened(tmp_path)
        Outbox(state, 10).append(event(1))
        state.close()
    assert stored(tmp_path) == ["event-1"]
    assert (tmp_path / f"{FILE}.damaged-{NOW}").read_bytes() == damage
    assert (tmp_path / f"{FILE}.damaged-{NOW}-2").read_bytes() == damage
    assert told.text.count("renamed to") == 2


def test_damage_inside_the_outbox_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    state = opened(tmp_path)
    outbox = Outbox(state, 1000)
    for number in range(200):
        outbox.append(event(number, f"scope-{number}", "warning"))
    state.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[4096 * 3 :] = os.urandom(len(content) - 4096 * 3)
    (tmp_path / FILE).write_bytes(content)
    assert stored(tmp_path) == []
    assert (tmp_path / f"{FILE}.damaged-{NOW}").exists()


def test_two_runs_that_find_damage_at_once_lose_nothing_of_the_new_file(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 500)
    gate = threading.Barrier(2)

    def run(number: int) -> None:
        gate.wait()
        state = opened(tmp_path)
        Outbox(state, 10).append(event(number))
        state.close()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored(tmp_path)) == ["event-0", "event-1"]


def test_a_file_of_a_newer_program_is_left_as_it_is(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.execute("CREATE TABLE more (kept TEXT)")
    connection.close()
    with pytest.raises(StateUnavailableError, match="of a newer version"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_file_of_an_older_version_is_replaced_and_its_events_are_kept(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    """The tables are those of version 5, which had other names for some columns."""
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE marks (root TEXT PRIMARY KEY, identity TEXT NOT NULL, position INTEGER NOT NULL) STRICT")
        connection.execute(
            "CREATE TABLE outbox (sequence INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, "
            "time TEXT NOT NULL, source TEXT NOT NULL, scope TEXT NOT NULL, level TEXT NOT NULL, worth INTEGER NOT NULL, "
            "body BLOB NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, answer TEXT, target TEXT NOT NULL DEFAULT '', "
            "root TEXT NOT NULL DEFAULT '') STRICT"
        )
        for table in ("runs", "alerts", "sizes", "transitions"):
            connection.execute(f"CREATE TABLE {table} (x TEXT)")
        for number in (2, 1):
            connection.execute(
                "INSERT INTO outbox VALUES (NULL, ?, 'disk_pressure', '', '', 'total', 'warning', 2, x'7b7d', 3, '503', 'relay', '/r')",
                (f"event-{number}",),
            )
        connection.execute("PRAGMA user_version = 5")
    state = State(tmp_path, lambda: NOW * 10**9)
    assert state.select("SELECT identity FROM log_positions", ()) == []
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "reading changes nothing"
    state.open()
    rows = state.select("SELECT event_id, drop_priority, body, refusals, answer, target, root FROM outbox ORDER BY sequence", ())
    assert rows == [(f"event-{number}", 2, b"{}", 0, "503", "relay", "/r") for number in (2, 1)]
    assert state.select("SELECT count(*) FROM alerts", ()) == [(0,)]
    state.close()
    assert (tmp_path / f"{FILE}.damaged-{NOW}").exists()
    assert "its version is 5, and this program uses" in told.text


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    state = opened(tmp_path)
    with contextlib.suppress(ZeroDivisionError), state.transaction() as connection:
        Outbox(state, 10).add(connection, [event(1)])
        raise ZeroDivisionError
    state.close()
    assert stored(tmp_path) == []


@pytest.mark.parametrize("plant", [os.mkfifo, Path.touch])
@pytest.mark.parametrize("below", ["", "state", "a/state"])
def test_a_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, below: str, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "place")
    with pytest.raises(StateUnavailableError, match=r"cannot be used: (it is not a directory|Not a directory) \(name another"):
        opened(tmp_path / "place" / below)
    assert not (tmp_path / "place").is_dir()


def test_the_lock_of_a_directory_has_one_holder(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path) as first, exclusive_lock(tmp_path) as second:
        assert (first, second) == (True, False)
    with exclusive_lock(tmp_path) as again:
        assert again


@pytest.mark.parametrize(
    "breaking",
    [
        "DROP TABLE outbox",
        "DROP TABLE samples",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE alerts ADD COLUMN c TEXT",
        "DROP INDEX outbox_by_drop_priority",
    ],
)
def test_a_file_without_a_table_or_of_another_version_is_replaced(tmp_path: Path, breaking: str, told: pytest.LogCaptureFixture) -> None:
    state = opened(tmp_path)
    Outbox(state, 10).append(event(1))
    state.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.execute(breaking)
    assert stored(tmp_path) == ([] if "TABLE outbox" in breaking else ["event-1"])
    assert ("others may be lost" in told.text) is ("TABLE outbox" in breaking)


@pytest.mark.parametrize("use", [lambda state: state.select("SELECT count(*) FROM samples", ()), lambda _: None], ids=["select", "delete"])
def test_damage_that_a_transaction_finds_is_replaced_and_events_are_copied(
    tmp_path: Path, use: Callable[[State], object], told: pytest.LogCaptureFixture
) -> None:
    """Two thousand samples are overwritten after the file was opened and checked."""
    state = opened(tmp_path)
    with state.transaction() as connection:
        connection.execute("INSERT INTO scopes VALUES (1, '/r', 'total')")
        connection.executemany("INSERT INTO samples VALUES (?, 1, 5)", [(hour,) for hour in range(2000)])
    Outbox(state, 10).append(event(1))
    ((page,),) = state.select("SELECT rootpage FROM sqlite_master WHERE name = 'samples'", ())
    assert isinstance(page, int)
    state.close()
    state = opened(tmp_path)
    state.select("PRAGMA shrink_memory", ())
    with (tmp_path / FILE).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StateUnavailableError), state.transaction() as connection:
        connection.execute("DELETE FROM samples" if use(state) is None else "")
    assert "with 1 undelivered events" in told.text
    with state.transaction() as connection:
        connection.execute("DELETE FROM samples")
    state.close()
    assert stored(tmp_path) == ["event-1"]


def set_aside(directory: Path) -> None:
    """Do what another run does that finds the file damaged."""
    _replace(directory, (directory / FILE).stat().st_ino, NOW, "damaged")


class Killed(BaseException):
    """The end of a run in the middle of a step."""


@pytest.mark.parametrize("step", range(1, 9))
def test_a_run_that_is_killed_while_it_replaces_the_file_loses_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, told: pytest.LogCaptureFixture
) -> None:
    """The steps are four attempts to rename the file or one beside it, one connection to the new
    file, and four renamings again."""
    state = opened(tmp_path)
    for number in range(3):
        Outbox(state, 10).append(event(number))
    steps = itertools.count()

    def dying(act: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if next(steps) == step:
                raise Killed
            return act(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying(os.rename))
        patch.setattr("arawn_cli.state.connect", dying(connect))
        with pytest.raises(Killed):
            set_aside(tmp_path)
    state.close()
    assert stored(tmp_path) == ["event-0", "event-1", "event-2"]
    opened(tmp_path).close()
    assert not list(tmp_path.glob("*.replaced*"))
    assert told.text.count("began a new one") == 1


@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_run_whose_file_another_one_sets_aside_goes_on_with_the_new_file(tmp_path: Path, when: str) -> None:
    state = opened(tmp_path)
    outbox = Outbox(state, 10)
    outbox.append(event(1))
    (queued,) = outbox.next(0, 1)

    def add_and_set_aside() -> None:
        with state.transaction() as connection:
            outbox.add(connection, [event(2)])
            set_aside(tmp_path)

    if when == "within":
        with pytest.raises(StateUnavailableError, match="set aside"):
            add_and_set_aside()
    else:
        if when == "after":
            outbox.append(event(2))
        set_aside(tmp_path)
    Outbox(opened(tmp_path), 10).append(event(3))
    outbox.append(event(2))
    outbox.remove([queued])
    state.close()
    assert sorted(stored(tmp_path)) == ["event-2", "event-3"]


def test_events_that_another_run_has_sent_from_the_new_file_are_not_read_from_the_old_one(tmp_path: Path) -> None:
    state = opened(tmp_path)
    outbox = Outbox(state, 10)
    outbox.append(event(1))
    outbox.append(event(2))
    set_aside(tmp_path)
    other = Outbox(opened(tmp_path), 10)
    other.remove(other.next(0, 1))
    assert [queued.event.event_id for queued in outbox.next(0, 10)] == ["event-2"]


def has_stored_event(state: State, new: OutgoingEvent) -> bool:
    try:
        Outbox(state, 1000).append(new)
    except StateUnavailableError:
        return False
    return True


def test_no_event_is_lost_or_doubled_while_another_run_sets_the_file_aside_again_and_again(tmp_path: Path) -> None:
    wanted = [f"event-{number}" for number in range(300)]
    state = opened(tmp_path)
    has_stored, is_over = threading.Event(), threading.Event()

    def interfere() -> None:
        while not is_over.is_set():
            if has_stored.wait(0.1):
                set_aside(tmp_path)
                has_stored.clear()  # the run opens the new file before it is set aside, too

    other = threading.Thread(target=interfere, daemon=True)
    other.start()
    for number in range(len(wanted)):
        while not has_stored_event(state, event(number)):
            pass
        has_stored.set()
    is_over.set()
    other.join()
    state.close()
    assert sorted(stored(tmp_path)) == sorted(wanted)


@needs_root
def test_what_belongs_to_others_or_is_open_to_them_is_not_used(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    opened(directory).close()
    for path in (directory / FILE, directory):
        os.chown(path, 65534, 65534)
        with pytest.raises(StateUnavailableError, match="belongs to another account"):
            opened(directory)
        os.chown(path, 0, 0)
    directory.chmod(0o777)
    with pytest.raises(StateUnavailableError, match="chmod go-w"):
        opened(directory)


def test_of_one_process_no_descriptor_but_the_database_itself_is_closed_on_an_open_file(tmp_path: Path) -> None:
    """Closing one drops the locks of the process: POSIX locks of the open file must still be there
    after all other uses."""
    state = opened(tmp_path)
    Outbox(state, 10).append(event(1))
    state.select("SELECT 1 FROM outbox", ())
    state.checkpoint()
    inode = (tmp_path / FILE).stat().st_ino
    locks = Path("/proc/locks").read_text()
    assert re.search(rf"POSIX .* READ {os.getpid()} \S+:{inode} ", locks)
    state.close()
