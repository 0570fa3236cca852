"""Whatever happens to the state file: both jobs go on, the second run is clean, and no event
reaches another relay."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.errors import RefusedError
from arawn_cli.state import State
from arawn_cli.state_file import FILE
from arawn_cli.timestamps import DAY, SECOND
from tests.support.in_process import checked, cleaned, reported
from tests.support.tree import SampleTree

OTHER_RELAY = "0123456789abcdef" * 4
RELAYS = ("", OTHER_RELAY)
PAGE = 4096

# The strongest values that a column can hold in spite of its type.
_VALUES = (
    "9223372036854775807",
    "-9223372036854775808",
    "''",
    "'purple'",
    "CAST(x'fffe00' AS TEXT)",
    "replace(hex(zeroblob(100000)), '00', 'ab')",
    "x'ff00'",
    "NULL",
)


@dataclass(frozen=True)
class Damaged:
    """A state directory to damage, and the source of chance."""

    directory: Path
    random: random.Random

    @property
    def file(self) -> Path:
        return self.directory / FILE

    def some_file(self) -> Path:
        """The file itself, or sometimes its log."""
        return self.random.choice([self.file, self.file, self.file, self.directory / f"{FILE}-wal"])

    def edit(self, change: Callable[[bytearray], object], path: Path | None = None) -> None:
        path = path or self.some_file()
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)


def _flip_bytes(damaged: Damaged) -> None:
    chance, count = damaged.random, damaged.random.choice([1, 1, 2, 10, 200])

    def flip(content: bytearray) -> None:
        for _ in range(count):
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)

    damaged.edit(flip)


def _flip_in_the_first_page(damaged: Damaged) -> None:
    def flip(content: bytearray) -> None:
        content[damaged.random.randrange(PAGE)] ^= damaged.random.randrange(1, 256)

    damaged.edit(flip, damaged.file)


def _flip_in_the_header(damaged: Damaged) -> None:
    def flip(content: bytearray) -> None:
        content[damaged.random.randrange(100)] ^= damaged.random.randrange(1, 256)

    damaged.edit(flip, damaged.file)


def _truncate(damaged: Damaged) -> None:
    path = damaged.some_file()
    os.truncate(path, damaged.random.choice([0, 1, 50, 100, PAGE, damaged.random.randrange(path.stat().st_size)]))


def _overwrite(damaged: Damaged) -> None:
    chance = damaged.random
    length = chance.choice([16, 512, PAGE, 3 * PAGE])

    def overwrite(content: bytearray) -> None:
        start = chance.randrange(len(content))
        length_here = min(length, len(content) - start)
        content[start : start + length_here] = chance.choice([bytes(length_here), b"\xff" * length_here, chance.randbytes(length_here)])

    damaged.edit(overwrite)


def _swap_pages(damaged: Damaged) -> None:
    def swap(content: bytearray) -> None:
        one, two = (PAGE * damaged.random.randrange(len(content) // PAGE) for _ in range(2))
        content[one : one + PAGE], content[two : two + PAGE] = content[two : two + PAGE], content[one : one + PAGE]

    damaged.edit(swap, damaged.file)


def _append(damaged: Damaged) -> None:
    damaged.edit(lambda content: content.extend(damaged.random.randbytes(damaged.random.choice([1, 3 * PAGE]))))


def _replace_with_garbage(damaged: Damaged) -> None:
    damaged.file.write_bytes(damaged.random.choice([b"", b"SQLite format 3\0", b"text\n" * 999, damaged.random.randbytes(9999)]))


def _change_values(damaged: Damaged) -> None:
    with closing(sqlite3.connect(damaged.file, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")]
        for _ in range(damaged.random.choice([1, 1, 5])):
            table = damaged.random.choice(tables)
            column = damaged.random.choice([name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")])
            try:
                connection.execute(f"UPDATE OR REPLACE {table} SET {column} = {damaged.random.choice(_VALUES)}")
            except sqlite3.IntegrityError:
                continue  # the type of the column excludes the value


def _change_schema(damaged: Damaged) -> None:
    statements = (
        "DROP TABLE {table}",
        "ALTER TABLE {table} RENAME TO other",
        "ALTER TABLE {table} RENAME COLUMN root TO roof",
        "UPDATE sqlite_master SET sql = replace(sql, 'TEXT', 'BLOB') WHERE name = '{table}'",
        "UPDATE sqlite_master SET rootpage = 3 WHERE name = '{table}'",
        "PRAGMA user_version = {number}",
        "PRAGMA application_id = {number}",
        "CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM outbox; END",
    )
    table = damaged.random.choice(["outbox", "runs", "clocks", "alerts", "sizes", "samples", "scopes"])
    number = damaged.random.choice([0, 1, 5, 102, -1, 2**31 - 1, damaged.random.randrange(1000, 2**31)])
    with closing(sqlite3.connect(damaged.file, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        try:
            connection.execute(damaged.random.choice(statements).format(table=table, number=number))
        except sqlite3.Error:
            connection.execute(f"DROP TABLE {table}")  # it has no such column


def _put_something_else_there(damaged: Damaged) -> None:
    path = damaged.directory / f"{FILE}{damaged.random.choice(['', '-wal', '-shm', '-journal'])}"
    path.unlink(missing_ok=True)
    match damaged.random.randrange(6):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to("/dev/zero")
        case 2:
            path.symlink_to("nowhere")
        case 3:
            os.mkfifo(path)
        case 4:
            path.write_bytes(damaged.random.randbytes(5000))
        case _:
            path.write_bytes(bytes.fromhex("d9d505f920a163d7") + damaged.random.randbytes(5000))  # begins like a journal


_KINDS = (
    _flip_bytes,
    _flip_bytes,
    _flip_in_the_first_page,
    _flip_in_the_header,
    _truncate,
    _overwrite,
    _swap_pages,
    _append,
    _replace_with_garbage,
    _change_values,
    _change_values,
    _change_schema,
    _put_something_else_there,
)


def _event(number: int) -> OutgoingEvent:
    return OutgoingEvent(f"event-{number}", "disk_pressure", "2026-01-01T00:00:00Z", "//h/arawn-cli", b'{"a":1}', "total", "warning")


def _events_by_relay(directory: Path) -> dict[str, list[OutgoingEvent]]:
    with closing(State(directory, lambda: 0)) as state:
        return {relay: [queued.event for queued in Outbox(state, 1000, relay).next(0, 1000)] for relay in RELAYS}


def _filled_state(tree: SampleTree) -> tuple[Path, Path]:
    """A state directory with rows in every table, a log beside the file, and a configuration for
    it."""
    directory = tree.root.parent / "state"
    settings = tree.root.parent / "damage.toml"
    settings.write_text("[maintenance.pressure]\ntotal = '1KiB'\nworkstream = '1KiB'\nsession = '1KiB'\nremeasure_hours = 5\n")
    for number in range(5):
        tree.session(f"s{number}", files={"f": 2000}, age_days=2)
    for _ in range(5):
        tree.now += DAY // 8
        checked(tree, settings)
    cleaned(tree, config=settings)
    with closing(State(directory, lambda: tree.now)) as state:
        state.open()
        for number in range(60):
            Outbox(state, 1000, RELAYS[number % 2], "/r").append(_event(number), "503" if number % 3 else None)
        shutil.copytree(directory, copy := tree.root.parent / "filled")  # with its log, as after a kill
    return copy, settings


def _survives(tree: SampleTree, settings: Path, damage: Callable[[Damaged], None], seed: int, told: pytest.LogCaptureFixture) -> None:
    directory = tree.root.parent / "state"
    shutil.rmtree(directory)
    shutil.copytree(tree.root.parent / "filled", directory)
    damage(Damaged(directory, random.Random(seed)))  # noqa: S311 - seeded, for a test
    tree.now += 10 * SECOND
    checked(tree, settings, dry_run=True)
    reported(tree, settings)
    refused = 0
    for _ in range(2):
        told.clear()
        before = sorted(path.name for path in directory.iterdir())
        checked(tree, settings)
        try:
            cleaned(tree, config=settings)
        except RefusedError:  # a wrong time of the last cleanup looks like a wrong clock, once
            refused += 1
        for relay, events in _events_by_relay(directory).items():
            own = {_event(number).event_id: _event(number) for number in range(60) if RELAYS[number % 2] == relay}
            assert [event for event in events if own.get(event.event_id) != event] == []
    assert refused < 2
    assert [path for path in before if "damaged" in path] == sorted(path.name for path in directory.iterdir() if "damaged" in path.name)
    assert [record.getMessage() for record in told.records if "state" in record.getMessage() and record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("group", range(4))
def test_any_damage_is_healed_by_the_first_run(tree: SampleTree, told: pytest.LogCaptureFixture, group: int) -> None:
    _, settings = _filled_state(tree)
    for number in range(group * 10, group * 10 + 10):
        _survives(tree, settings, _KINDS[number % len(_KINDS)], number, told)


@pytest.mark.long
def test_five_hundred_kinds_of_damage_are_healed_by_the_first_run(tree: SampleTree, told: pytest.LogCaptureFixture) -> None:
    _, settings = _filled_state(tree)
    for number in range(40, 540):
        _survives(tree, settings, _KINDS[number % len(_KINDS)], number, told)
