"""Consent, ownership and a user's crontab; what systemd and cron make of it all is in test_timers.py and test_cron.py."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from arawn_cli.errors import RefusedError
from arawn_cli.sample_tree import SampleTree
from arawn_cli.schedule.changes import AskedWronglyError, NoSchedulerError, ScheduleError
from arawn_cli.schedule.files import FileStore, OwnDirectory
from arawn_cli.schedule.install import Consent, install, remove
from arawn_cli.schedule.installation import Place, require_rights
from arawn_cli.schedule.ownership import condition_of, made_with, sealed
from arawn_cli.schedule.settings import Scheduler, Scope
from arawn_cli.schedule.user_crontab import CrontabStore
from arawn_cli.vocabulary import Condition
from tests.conftest import COMMAND, Run, needs, snapshot

needs_crontab = needs(os.getuid() == 0 and all(shutil.which(name) for name in ("crontab", "unshare")), "root, crontab and unshare")

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


@pytest.fixture
def own_crontab(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Run]:
    """Commands that see a crontab spool of their own."""
    (tmp_path / "spool" / "crontabs").mkdir(parents=True)

    def call(*command: object, stdin: str = "") -> Run:
        script = f'mount --bind {tmp_path}/spool /var/spool/cron && exec "$@"'
        words = ["unshare", "-m", "sh", "-c", script, "sh", *map(str, command)]
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, env=environment, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    return call


@needs_crontab
def test_a_crontab_keeps_every_line_of_its_user(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    mine = "MAILTO=me\n# 100% mine\n0 4 * * * true \\% x\n"
    own_crontab("crontab", "-", stdin=mine)
    words = ("--cron", "--user", "--base-path", tree.root)
    assert own_crontab(COMMAND, "schedule", "install", *words, "--yes").code == 0
    crontab = own_crontab("crontab", "-l").stdout
    assert crontab.startswith(mine)
    assert "disk-check" in crontab[len(mine) :]
    assert "Installed already" in own_crontab(COMMAND, "schedule", "install", *words).stdout
    own_crontab("crontab", "-", stdin=crontab.replace("-59/5 ", "-59/6 ") + "1 1 * * * later\n")
    refused = own_crontab(COMMAND, "schedule", "remove", *words[:2], "--yes")
    assert (refused.code, "was edited" in refused.stderr) == (77, True)
    own_crontab("crontab", "-", stdin=crontab + "1 1 * * * later\n")
    assert own_crontab(COMMAND, "schedule", "remove", *words[:2], "--yes").code == 0
    assert own_crontab("crontab", "-l").stdout == mine + "1 1 * * * later\n"


@needs_crontab
def test_status_shows_what_is_installed_and_names_commands_with_what_they_need(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    words = ("--base-path", tree.root)
    installed = own_crontab(COMMAND, "schedule", "install", "--cron", "--user", *words, "--yes")
    located = f"--cron --user --base-path {tree.root}"
    assert f"`arawn-cli schedule status {located}`, and `arawn-cli doctor --base-path {tree.root}`" in installed.stdout.replace("\n", "")
    crontab = own_crontab("crontab", "-l").stdout
    own_crontab("crontab", "-", stdin=crontab.replace("-59/5 ", "-59/6 "))
    status = own_crontab(COMMAND, "schedule", "status", *words)
    assert status.code == 1
    assert {(event["scheduler"], event["scope"], event["installed"]) for event in status.events} == {("cron", "user", "edited")}
    assert status.stdout.count(f": run arawn-cli schedule install {located}") == 2
    own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--yes", "--force")


@needs_crontab
def test_a_crontab_that_was_made_for_the_lines_goes_with_them(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    own_crontab(COMMAND, "schedule", "install", "--cron", "--user", "--base-path", tree.root, "--yes")
    assert own_crontab("crontab", "-l").code == 0
    own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--yes")
    assert "no crontab for" in own_crontab("crontab", "-l").stderr


@needs_crontab
def test_each_root_has_a_block_of_its_own_that_comes_and_goes_alone(
    own_crontab: Callable[..., Run], tree: SampleTree, tmp_path: Path
) -> None:
    lab = SampleTree(tmp_path / "lab", tree.now)
    config = tmp_path / "c.toml"
    config.write_text(f"[paths]\nbase_path = '{tree.root}'\n[[maintenance.roots]]\nname = 'lab'\npath = '{lab.root}'\n")
    mine, main, named = (
        "0 4 * * * true\n",
        ("--cron", "--user", "--config", config),
        ("--cron", "--user", "--config", config, "--root", "lab"),
    )
    own_crontab("crontab", "-", stdin=mine)
    assert own_crontab(COMMAND, "schedule", "install", *named, "--yes").code == 0
    only_lab = own_crontab("crontab", "-l").stdout
    assert only_lab.count(f"--config {config} --root lab --unless-running") == 2
    assert {event["installed"] for event in own_crontab(COMMAND, "schedule", "status", *main).events} == {"missing"}
    installed = own_crontab(COMMAND, "schedule", "install", *main, "--yes")
    assert installed.code == 0
    both = own_crontab("crontab", "-l").stdout
    assert both.startswith(only_lab)
    assert (both.count("--root lab"), both.count("--unless-running")) == (2, 4)
    for words, root in ((main, None), (named, "lab")):
        events = own_crontab(COMMAND, "schedule", "status", *words).events
        assert {(event["installed"], event["root"]) for event in events} == {("current", root)}
        assert "Installed already" in own_crontab(COMMAND, "schedule", "install", *words).stdout
    config.unlink()
    assert own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--yes").code == 0
    assert own_crontab("crontab", "-l").stdout == only_lab
    assert "Nothing is installed (--cron --user)" in own_crontab(COMMAND, "schedule", "remove", "--cron", "--user").stdout
    assert own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--root", "lab", "--yes").code == 0
    assert own_crontab("crontab", "-l").stdout == mine


def test_a_name_that_no_root_can_have_reaches_no_file(run: Callable[..., Run]) -> None:
    done = run("schedule", "remove", "--cron", "--user", "--root", "../x")
    assert (done.code, done.stderr) == (2, "ERROR: --root ../x: no root can have this name\n")


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


def test_wrong_usage_is_exit_2_in_one_line(run: Callable[..., Run], tree: SampleTree) -> None:
    for words in (("install", "--cron", "--systemd"), ("install", "--cron", "--system"), ("install", "--systemd", "--user", "--yes")):
        done = run("schedule", *words, "--base-path", tree.root)
        assert (done.code, done.stderr.count("\n")) == (2, 1), done.stderr


def test_an_interval_that_cron_cannot_express_is_told_by_show(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.schedule]\ndisk_check = '90s'\n")
    done = run("schedule", "show", "--cron", "--config", config, "--base-path", tree.root)
    assert (done.code, done.stdout) == (78, "")
    assert "maintenance.schedule.disk_check = '90s': cron counts in whole minutes" in done.stderr
    shown = run("schedule", "show", "--systemd", "--user", "--config", config, "--base-path", tree.root)
    assert "OnUnitActiveSec=90s" in shown.stdout
    assert f"--config {config} --base-path {tree.root}" in shown.stdout


@needs_crontab
def test_on_a_terminal_the_difference_is_shown_and_a_question_asked(tree: SampleTree, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "spool" / "crontabs").mkdir(parents=True)
    ours, theirs = pty.openpty()
    script = f'mount --bind {tmp_path}/spool /var/spool/cron && "$@"; crontab -l'
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        str(COMMAND),
        "schedule",
        "install",
        "--cron",
        "--user",
        "--base-path",
        str(tree.root),
    ]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"})
    os.close(theirs)
    drawn = b""
    while b"(--cron --user)? [y/N]" not in drawn:
        drawn += os.read(ours, 65536)
    os.write(ours, b"n\n")
    with contextlib.suppress(OSError):  # EIO, once nobody has the other end open
        while more := os.read(ours, 65536):
            drawn += more
    process.wait()
    os.close(ours)
    assert b"+# BEGIN arawn-cli schedule" in drawn
    assert b"Nothing changed." in drawn
    assert b"no crontab for" in drawn


@pytest.mark.parametrize(("scheduler", "mend"), [("--cron", "install cron, or use --systemd"), ("--systemd", "use --cron")])
def test_a_scheduler_that_is_not_on_the_machine_is_a_usage_error(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path, scheduler: str, mend: str
) -> None:
    found = run("schedule", "install", scheduler, "--user", "--yes", "--base-path", tree.root, PATH=str(tmp_path))
    assert found.code == 2
    assert mend in " ".join(found.stderr.split())


def test_a_machine_without_a_folder_for_cron_is_told_as_one_without_crontab(tmp_path: Path) -> None:
    place = Place(Scheduler.CRON, Scope.USER, FileStore(tmp_path / "cron.d", ("arawn-cli",)), None)
    with pytest.raises(NoSchedulerError, match="install cron, or use --systemd") as raised:
        require_rights(place)
    assert raised.value.exit_code == 2
