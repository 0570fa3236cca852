"""Which files are this tool's to write, to change and to remove."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from arawn_cli.command_events import Condition
from arawn_cli.schedule.managed_files import (
    FileStore,
    ScheduleError,
    StateDirectory,
    condition_of,
    with_header,
)

BODY = {"unit": "a\nb\n"}
_PATH_MAX = os.pathconf("/", "PC_PATH_MAX")


def install(store: FileStore, bodies: dict[str, str]) -> None:
    store.apply(store.changes_to_install(bodies))


def remove(store: FileStore) -> None:
    store.apply(store.changes_to_remove())


def test_the_first_line_distinguishes_an_edit_from_an_old_version() -> None:
    text = with_header("a\nb\n")
    assert condition_of(None, "a\nb\n") is Condition.MISSING
    assert condition_of(text, "a\nb\n") is Condition.CURRENT
    assert condition_of(text, "new\n") is Condition.OUTDATED
    assert condition_of(text, None) is Condition.OUTDATED
    assert condition_of(text.replace("b", "c"), "a\nb\n") is Condition.EDITED
    assert condition_of(text.replace("b", "c"), "a\nc\n") is Condition.CURRENT
    assert condition_of("a\nb\n", "a\nb\n") is Condition.FOREIGN


def test_a_state_directory_is_created_for_the_jobs_alone_and_stays(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "a" / "state", os.getuid())
    store = FileStore(tmp_path / "config" / "units", ("unit", "other"), state)
    install(store, BODY)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/state")] == [0o700, 0o700]
    install(store, {"unit": "c\n"})
    remove(store)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert state.path.is_dir()


def test_a_foreign_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "unit").write_text("mine\n")
    assert FileStore(tmp_path, ("unit",)).changes_to_remove() == []


def test_a_link_that_masks_a_unit_is_foreign_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "unit").symlink_to("/dev/null")
    (change,) = FileStore(tmp_path, ("unit",)).changes_to_install(BODY)
    assert (change.condition, change.is_of_others) == (Condition.FOREIGN, True)


def test_a_link_that_masks_a_unit_is_replaced_if_the_user_agrees(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("of others")
    (tmp_path / "unit").symlink_to(target)
    install(FileStore(tmp_path, ("unit",)), BODY)
    assert not (tmp_path / "unit").is_symlink()
    assert ((tmp_path / "unit").read_text(), target.read_text()) == (with_header("a\nb\n"), "of others")


def test_a_directory_in_the_place_of_a_file_is_one_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "unit" / "x").mkdir(parents=True)
    with pytest.raises(ScheduleError, match=r"cannot read .*unit: not a regular file"):
        install(FileStore(tmp_path, ("unit",)), BODY)
    assert os.listdir(tmp_path) == ["unit"]


def test_a_file_that_cannot_be_written_is_one_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ScheduleError, match=rf"^cannot change {re.escape(str(tmp_path))}/unit: No space left on device$"):
        install(FileStore(tmp_path, ("unit",)), BODY)
    assert os.listdir(tmp_path) == []


def test_a_file_that_changed_in_the_meantime_is_kept(tmp_path: Path) -> None:
    store = FileStore(tmp_path, ("unit",))
    changes = store.changes_to_install(BODY)
    (tmp_path / "unit").write_text("mine\n")
    with pytest.raises(ScheduleError, match="changed in the meantime"):
        store.apply(changes)
    assert (tmp_path / "unit").read_text() == "mine\n"
