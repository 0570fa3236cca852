"""What `schedule install` and `remove` ask before they change files; how `status` is printed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.cli.options import Output
from arawn_cli.cli.schedule import Confirmation, install, print_statuses, remove
from arawn_cli.command_events import Condition, RunResult, ScheduleStatus
from arawn_cli.config.loader import Flags
from arawn_cli.errors import RefusedError
from arawn_cli.events import JobName
from arawn_cli.schedule.install import Place
from arawn_cli.schedule.managed_files import FileStore, UsageError, condition_of, with_header
from arawn_cli.schedule.places import Scheduler, Scope

BODY = {"unit": "a\nb\n"}
YES = Confirmation(yes=True, force=False, ask=None)
FORCE = Confirmation(yes=True, force=True, ask=None)
NO_TERMINAL = Confirmation(yes=False, force=False, ask=None)


def place_in(directory: Path) -> Place:
    """A place without a manager that would have to reload its files."""
    return Place(Scheduler.SYSTEMD, Scope.USER, FileStore(directory, ("unit", "other")), None)


def answering_no(questions: list[str]) -> Confirmation:
    def ask(question: str) -> bool:
        questions.append(question)
        return False

    return Confirmation(yes=False, force=False, ask=ask)


def test_without_a_terminal_and_without_yes_nothing_is_changed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="then add --yes"):
        install(place_in(tmp_path / "units"), BODY, NO_TERMINAL, Flags())
    assert os.listdir(tmp_path) == []
    install(place_in(tmp_path / "units"), BODY, YES, Flags())
    with pytest.raises(UsageError, match="then add --yes"):
        remove(place_in(tmp_path / "units"), NO_TERMINAL)
    assert os.listdir(tmp_path / "units") == ["unit"]


def test_the_difference_is_shown_and_a_no_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions: list[str] = []
    install(place_in(tmp_path / "units"), BODY, answering_no(questions), Flags())
    assert os.listdir(tmp_path) == []
    assert questions == ["Install 1 file and start the timers (--systemd --user)?"]
    lines = capsys.readouterr().out.splitlines()
    assert ("+a" in lines, lines[-1]) == (True, "Nothing changed.")


def test_yes_installs_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        install(place_in(tmp_path), BODY, YES, Flags(base_path="/x"))
    assert (tmp_path / "unit").read_text() == with_header(BODY["unit"])
    for _ in range(2):
        remove(place_in(tmp_path), YES)
    messages = [line for line in capsys.readouterr().out.splitlines() if line[:1] not in "+-@"]
    assert messages == [
        "Installed 1 file. See `arawn-cli schedule status --systemd --user --base-path /x`, and `arawn-cli doctor --base-path /x`.",
        "Installed already, nothing to change (--systemd --user).",
        "Removed 1 file.",
        "Nothing is installed (--systemd --user).",
    ]


@pytest.mark.parametrize("text", ["mine\n", with_header("a\nb\n") + "edited\n"])
def test_the_text_of_others_needs_its_own_answer(tmp_path: Path, text: str) -> None:
    unit = tmp_path / "unit"
    unit.write_text(text)
    with pytest.raises(RefusedError, match="nothing was changed"):
        install(place_in(tmp_path), BODY, YES, Flags())
    questions: list[str] = []
    install(place_in(tmp_path), BODY, answering_no(questions), Flags())
    assert unit.read_text() == text
    assert any(question.endswith("Overwrite it?") for question in questions)
    install(place_in(tmp_path), BODY, FORCE, Flags())
    assert condition_of(unit.read_text(), "a\nb\n") is Condition.CURRENT


def test_an_edited_file_is_not_removed_unasked(tmp_path: Path) -> None:
    edited = with_header("a\nb\n") + "edited\n"
    (tmp_path / "unit").write_text(edited)
    with pytest.raises(RefusedError, match="nothing was changed"):
        remove(place_in(tmp_path), YES)
    assert (tmp_path / "unit").read_text() == edited
    remove(place_in(tmp_path), FORCE)
    assert os.listdir(tmp_path) == []


def test_a_foreign_file_is_not_removed_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "unit").write_text("mine\n")
    remove(place_in(tmp_path), FORCE)
    assert (tmp_path / "unit").read_text() == "mine\n"


def test_a_masked_unit_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "unit").symlink_to("/dev/null")
    with pytest.raises(RefusedError):
        install(place_in(tmp_path), BODY, YES, Flags())
    assert os.readlink(tmp_path / "unit") == "/dev/null"


FAILED = ScheduleStatus(
    timestamp="",
    host="",
    root=None,
    dry_run=False,
    job=JobName.DISK_CHECK,
    scheduler="systemd",
    scope="user",
    installed=Condition.CURRENT,
    enabled=True,
    next_run=None,
    last_run=None,
    result=RunResult.FAILED,
    problems=("timers of this account stop",),
)


@pytest.mark.parametrize(
    ("status", "first", "command"),
    [
        (replace(FAILED, result=RunResult.SUCCESS, problems=()), "ok: ", None),
        (FAILED, "problem: disk-check (systemd, user). ", "doctor"),
        (replace(FAILED, installed=Condition.MISSING), "not installed (systemd, user): ", "schedule install"),
        (replace(FAILED, installed=Condition.MISSING, scheduler="cloacina", scope="sqlite"), "not registered (cloacina, sqlite): ", None),
    ],
)
def test_a_status_begins_with_what_is_wrong_and_the_command_that_helps(
    status: ScheduleStatus, first: str, command: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    print_statuses([status], Output(), Flags(config=Path("/etc/my arawn.toml")))
    told, second, *_ = capsys.readouterr().out.splitlines()
    assert told.startswith(first)
    assert (second == f"  arawn-cli {command} --config '/etc/my arawn.toml'") is (command is not None)


def test_each_cell_of_a_status_is_red_for_its_own_value(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_statuses([FAILED], Output(), Flags())
    drawn = capsys.readouterr().out
    assert [f"\x1b[{colour}m{word}" in drawn for colour, word in ((32, "current"), (31, "failed"), (31, "timers of"))] == [True] * 3
