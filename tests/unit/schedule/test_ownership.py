"""Consent and ownership: which files and lines of a crontab are the tool's to write, to change and to remove."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar

import pytest

from arawn_cli.errors import RefusedError
from arawn_cli.events import Condition
from arawn_cli.schedule.install import Consent, Place, install, remove
from arawn_cli.schedule.managed_files import AskedWronglyError, FileStore, OwnDirectory, ScheduleError, condition_of, made_with, sealed
from arawn_cli.schedule.settings import Scheduler, Scope
from arawn_cli.schedule.user_crontab import CrontabStore
from tests.conftest import snapshot

BODY = {"unit": "a\nb\n"}
_PATH_MAX = os.pathconf("/", "PC_PATH_MAX")


def place_in(directory: Path, *own: OwnDirectory) -> Place:
    """A place of files that nobody has to be told about."""
    return Place(Scheduler.SYSTEMD, Scope.USER, FileStore(directory, ("unit", "other"), own), None)


def consent(answers: list[bool] | None = None, *, yes: bool = False, force: bool = False) -> tuple[Consent, list[str]]:
    told: list[str] = []

    def ask(question: str) -> bool:
        told.append(question)
        return answers.pop(0) if answers else False

    return Consent(yes, force, None if answers is None else ask, told.append), told


def test_a_first_line_tells_an_edit_from_an_old_version() -> None:
    text = sealed("a\nb\n", ("/x/y z",))
    assert condition_of(None, "a\nb\n") is Condition.MISSING
    assert condition_of(text, "a\nb\n") is Condition.CURRENT
    assert condition_of(text, "new\n") is Condition.OUTDATED
    assert condition_of(text, None) is Condition.OUTDATED
    assert condition_of(text.replace("b", "c"), "a\nb\n") is Condition.EDITED
    assert condition_of(text.replace("b", "c"), "a\nc\n") is Condition.CURRENT
    assert condition_of("a\nb\n", "a\nb\n") is Condition.FOREIGN
    assert made_with(text) == ("/x/y z",)
    assert made_with("# arawn-cli schedule sha256=" + "0" * 64 + " made=[\n") == ()


def test_directories_that_were_made_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = {path: entry[0] for path, entry in snapshot(tmp_path).items()}
    place = place_in(tmp_path / "there" / "config" / "units", OwnDirectory(tmp_path / "a" / "state", os.getuid(), os.getgid()))
    assert install(place, BODY, consent(yes=True)[0]) == 0
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    assert install(place, {"unit": "c\n"}, consent(yes=True)[0]) == 0
    assert remove(place, consent(yes=True)[0]) == 0
    assert {path: entry[0] for path, entry in snapshot(tmp_path).items()} == before


def test_a_directory_that_others_use_by_now_stays(tmp_path: Path) -> None:
    place = place_in(tmp_path / "units")
    install(place, BODY, consent(yes=True)[0])
    (tmp_path / "units" / "mine").touch()
    remove(place, consent(yes=True)[0])
    assert os.listdir(tmp_path / "units") == ["mine"]


def test_without_a_terminal_and_without_yes_nothing_happens(tmp_path: Path) -> None:
    with pytest.raises(AskedWronglyError, match="say --yes"):
        install(place_in(tmp_path / "units"), BODY, consent()[0])
    assert os.listdir(tmp_path) == []


def test_a_no_leaves_everything(tmp_path: Path) -> None:
    agreement, told = consent([False])
    install(place_in(tmp_path / "units"), BODY, agreement)
    assert os.listdir(tmp_path) == []
    assert "+a" in told
    assert told[-1] == "Nothing changed."


@pytest.mark.parametrize("text", ["mine\n", sealed("a\nb\n") + "edited\n"])
def test_what_somebody_else_wrote_takes_a_question_of_its_own(tmp_path: Path, text: str) -> None:
    unit = tmp_path / "unit"
    unit.write_text(text)
    with pytest.raises(RefusedError, match="left as it is, nothing was changed"):
        install(place_in(tmp_path), BODY, consent(yes=True)[0])
    agreement, told = consent([False])
    install(place_in(tmp_path), BODY, agreement)
    assert unit.read_text() == text
    assert any(line.endswith("Overwrite it?") for line in told)
    install(place_in(tmp_path), BODY, consent(yes=True, force=True)[0])
    assert condition_of(unit.read_text(), "a\nb\n") is Condition.CURRENT


def test_a_foreign_file_is_not_removed_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "unit").write_text("mine\n")
    remove(place_in(tmp_path), consent(yes=True, force=True)[0])
    assert (tmp_path / "unit").read_text() == "mine\n"


def test_a_masked_unit_is_not_overwritten_without_a_question(tmp_path: Path) -> None:
    (tmp_path / "unit").symlink_to("/dev/null")
    with pytest.raises(RefusedError):
        install(place_in(tmp_path), BODY, consent(yes=True)[0])
    assert os.readlink(tmp_path / "unit") == "/dev/null"


def test_a_folder_in_the_place_of_a_file_is_one_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "unit" / "x").mkdir(parents=True)
    with pytest.raises(ScheduleError, match=r"cannot read .*unit: Is a directory"):
        install(place_in(tmp_path), BODY, consent(yes=True, force=True)[0])
    assert os.listdir(tmp_path) == ["unit"]


def test_a_file_that_cannot_be_written_is_one_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path
    while (room := _PATH_MAX - 10 - len(str(directory))) > 1:  # what is left is enough for `/unit`, and not for its first name
        directory /= "d" * min(room - 1, 200)
    directory.mkdir(parents=True)
    with pytest.raises(ScheduleError, match=rf"^cannot change {re.escape(str(directory))}/.*unit.*: File name too long$"):
        install(place_in(directory), BODY, consent(yes=True)[0])
    assert os.listdir(directory) == []


def test_directories_that_were_made_for_a_file_go_again_when_it_cannot_be_written(tmp_path: Path) -> None:
    directory = tmp_path
    while (room := _PATH_MAX - 14 - len(str(directory))) > 1:
        directory /= "d" * min(room - 1, 200)
    directory.mkdir(parents=True)
    with pytest.raises(ScheduleError, match="File name too long"):
        install(place_in(directory / "new"), BODY, consent(yes=True)[0])
    assert os.listdir(directory) == []


class Crontab(CrontabStore):
    """A crontab that is handed over, and changed by somebody else as soon as it was read."""

    texts: ClassVar[list[str | None]] = []

    def _crontab(self) -> str | None:
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


BLOCK = "# BEGIN arawn-cli schedule: touched\n* * * * * x\n# END arawn-cli schedule\n"


@pytest.mark.parametrize("lines", [BLOCK[:-27], BLOCK[36:], BLOCK + BLOCK], ids=["no-end", "no-begin", "twice"])
def test_lines_that_would_run_besides_the_block_are_an_error(lines: str) -> None:
    Crontab.texts = [lines]
    for look in (lambda: Crontab("me").text("crontab"), Crontab("me").removing, lambda: Crontab("me").installing({"crontab": "x\n"})):
        with pytest.raises(ScheduleError, match="put them right with crontab -e"):
            look()


def test_blocks_of_two_roots_that_stand_in_each_other_are_an_error_for_the_outer_one() -> None:
    inner = BLOCK.replace("schedule", "schedule of root lab")
    begin, rest = BLOCK.split("\n", 1)
    Crontab.texts = [f"{begin}\n{inner}{rest}"]
    with pytest.raises(ScheduleError, match="no other block between"):
        Crontab("me").removing()
    assert Crontab("me", "lab").text("crontab") == "* * * * * x\n"
    Crontab.texts = [BLOCK + inner]
    assert [(Crontab("me", name).removing()[0].after) for name in (None, "lab")] == [inner, BLOCK]


def test_a_block_in_a_crontab_with_other_line_ends_is_found_and_asked_about() -> None:
    Crontab.texts = [BLOCK.replace("\n", "\r\n")]
    (change,) = Crontab("me").installing({"crontab": "x\n"})
    assert (change.condition, change.after and change.after.count("BEGIN")) == (Condition.FOREIGN, 1)


def test_a_last_line_without_an_end_is_not_run_into() -> None:
    Crontab.texts = ["1 1 * * * mine"]
    (change,) = Crontab("me").installing({"crontab": "x\n"})
    assert change.after is not None
    assert change.after.startswith("1 1 * * * mine\n# BEGIN")


def test_what_somebody_changes_while_the_question_is_open_is_not_lost(tmp_path: Path) -> None:
    Crontab.texts = ["mine\n", "mine\n", "mine, and more\n"]
    (change,) = Crontab("me").installing({"crontab": "x\n"})
    with pytest.raises(ScheduleError, match="changed meanwhile"):
        Crontab("me").apply([change])
    store = FileStore(tmp_path, ("unit",))
    changes = store.installing(BODY)
    (tmp_path / "unit").write_text("mine\n")
    with pytest.raises(ScheduleError, match="changed meanwhile"):
        store.apply(changes)
    assert (tmp_path / "unit").read_text() == "mine\n"
