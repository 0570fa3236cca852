"""Arawn's own files: in which directory they are, and what of it is measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arawn_cli.arawn.layout import MAIN, V0, Layout
from arawn_cli.arawn.root import Root
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.own_files import OwnFiles, measure_entries, own_directory
from arawn_cli.state import State
from tests.conftest import RunCommand, needs_namespaces, needs_setpriv
from tests.support.tree import write


def root_at(path: Path, database: Path | None, layout: Layout = V0) -> Root:
    return Root(path, -1, layout, database)


def measured(directory: Path, excluded: Path, tmp_path: Path) -> OwnFiles:
    return measure_entries(directory, excluded, 1, RunContext(state=State(tmp_path / "state", lambda: 0), show=lambda _event: None))


def sizes(found: OwnFiles) -> dict[str, int]:
    return {name: usage.apparent_bytes for name, usage in found.entries.items()}


def test_the_directory_is_the_root_on_main_and_that_of_the_database_in_0_0(tmp_path: Path) -> None:
    data = tmp_path / "config" / "workstreams"
    data.mkdir(parents=True)
    assert own_directory(root_at(tmp_path, None, MAIN)) == tmp_path
    assert own_directory(root_at(tmp_path, tmp_path / "elsewhere" / "arawn.db", MAIN)) == tmp_path
    assert own_directory(root_at(data, data.parent / "workstreams.db")) == data.parent
    assert own_directory(root_at(data, data / "workstreams.db")) == data
    assert own_directory(root_at(tmp_path / "far" / "away", data / "workstreams.db")) == data


def test_without_a_database_at_its_default_name_the_directory_is_not_known(tmp_path: Path) -> None:
    assert own_directory(root_at(tmp_path, None)) is None
    assert own_directory(root_at(tmp_path / "workstreams", tmp_path / "named.db")) is None


def test_a_directory_with_files_of_others_is_not_arawns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    assert own_directory(root_at(data, Path("/workstreams.db"))) is None
    assert own_directory(root_at(data, Path("/var/workstreams.db"))) is None
    tmp_path.chmod(0o1777)
    assert own_directory(root_at(data, tmp_path / "workstreams.db")) is None
    tmp_path.chmod(0o755)
    assert own_directory(root_at(data, tmp_path / "workstreams.db")) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_directory(root_at(data, tmp_path / "workstreams.db")) is None


def test_every_entry_is_measured_except_the_workstreams(tmp_path: Path) -> None:
    directory = tmp_path / "config"
    for path, size in {
        "workstreams.db": 100,
        "workstreams.db-wal": 20,
        "workstreams.db-shm": 3,
        "notes-wal": 5,
        "models/a/b": 1000,
        "workstreams/beside": 7,
        "workstreams/workstreams/scratch/messages.jsonl": 10_000,
    }.items():
        write(directory / path, size)
    (directory / "to-etc").symlink_to("/etc")
    found = measured(directory, directory / "workstreams" / "workstreams", tmp_path)
    assert sizes(found) == {"models/": 1000, "notes-wal": 5, "to-etc": 0, "workstreams.db": 123, "workstreams/": 7}
    assert (found.total.apparent_bytes, found.total.complete) == (1135, True)
    assert sizes(measured(directory, tmp_path / "elsewhere", tmp_path))["workstreams/"] == 10_007


def test_a_file_linked_from_two_entries_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "own" / "a" / "f", 100)
    (tmp_path / "own" / "b").mkdir()
    os.link(tmp_path / "own" / "a" / "f", tmp_path / "own" / "b" / "f")
    found = measured(tmp_path / "own", tmp_path / "x", tmp_path)
    assert (sizes(found), found.total.apparent_bytes) == ({"a/": 100, "b/": 100}, 100)


def test_a_directory_that_cannot_be_opened_is_a_failure(tmp_path: Path) -> None:
    found = measured(tmp_path / "gone", tmp_path / "x", tmp_path)
    assert (found.entries, found.total.complete) == ({}, False)
    (failure,) = found.total.failures
    assert (failure.operation, failure.path) == ("open", "gone")


@needs_namespaces
def test_another_filesystem_is_not_entered(run: RunCommand, tmp_path: Path) -> None:
    """A main branch whose `data/` is a mount: it may be as large and slow as it likes."""
    root = tmp_path / "arawn"
    write(root / "logs" / "f", 1000)
    for name in ("workstreams", "data"):
        (root / name).mkdir()
    write(root / "arawn.db", 0)
    script = f'mount -t tmpfs tmpfs {root}/data && head -c 100000 /dev/zero > {root}/data/f && exec "$@"'
    done = run("disk-check", "--base-path", root, prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    assert done.last["own_files_bytes"] == 1000, done.stderr


@needs_setpriv
def test_what_cannot_be_read_makes_the_check_incomplete(run: RunCommand, tmp_path: Path) -> None:
    root = tmp_path / "arawn"
    write(root / "logs" / "f", 1000)
    (root / "workstreams").mkdir()
    write(root / "arawn.db", 0)
    (root / "logs").chmod(0)
    os.chown(root / "logs", 12345, 12345)
    done = run("disk-check", "--base-path", root, prefix=("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"))
    assert (done.code, done.last["complete"], done.last["level"]) == (1, False, "unknown")
