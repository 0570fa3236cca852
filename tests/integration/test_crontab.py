"""An account's own crontab: its lines stay, and each root's block is added and removed alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import COMMAND, Run, needs_root
from tests.support.terminal import answered
from tests.support.tree import SampleTree


@pytest.fixture
def own_crontab(environment: dict[str, str]) -> Callable[..., Run]:
    """Run commands with the crontab(1) of the tests.

    The real one is in tests/system/test_installation.py.
    """

    def call(*command: object, stdin: str = "") -> Run:
        done = subprocess.run([*map(str, command)], input=stdin, capture_output=True, text=True, env=environment, check=False)
        return Run(done.returncode, done.stdout, done.stderr)

    return call


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
    assert status.stdout.count(f"/arawn-cli schedule install {located}") == 2
    own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--yes", "--force")


def test_remove_finds_what_is_installed_where_no_option_names_it(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    own_crontab(COMMAND, "schedule", "install", "--cron", "--user", "--base-path", tree.root, "--yes")
    removed = own_crontab(COMMAND, "schedule", "remove", "--yes")
    assert (removed.code, "Removed 1 file." in removed.stdout) == (0, True)
    assert "no crontab for" in own_crontab("crontab", "-l").stderr
    nothing = own_crontab(COMMAND, "schedule", "remove").stdout
    assert all(f"--{scheduler} --{scope}" in nothing for scheduler in ("systemd", "cron") for scope in ("system", "user"))
    assert nothing.startswith("Nothing is installed (")


@needs_root
def test_remove_names_what_it_leaves_in_another_place(
    own_crontab: Callable[..., Run], tree: SampleTree, environment: dict[str, str]
) -> None:
    directory = Path(environment["HOME"], "machine", "cron.d")
    directory.mkdir(parents=True)
    words = (COMMAND, "schedule")
    for scope in ("--user", "--system"):
        assert own_crontab(*words, "install", "--cron", scope, "--base-path", tree.root, "--yes").code == 0
    assert os.listdir(directory) == ["arawn-cli"]
    removed = own_crontab(*words, "remove", "--cron", "--yes").stdout
    assert "Still installed (--cron --user): to remove that too, run arawn-cli schedule remove --cron --user" in removed
    assert (os.listdir(directory), own_crontab("crontab", "-l").code) == ([], 0)
    assert "Still" not in own_crontab(*words, "remove", "--cron", "--yes").stdout
    assert "no crontab for" in own_crontab("crontab", "-l").stderr


@pytest.mark.parametrize("words", [("remove",), ("status", "--base-path")])
def test_wrong_marker_lines_are_an_error(own_crontab: Callable[..., Run], tree: SampleTree, words: tuple[str, ...]) -> None:
    own_crontab("crontab", "-", stdin="# BEGIN arawn-cli schedule\n* * * * * x\n")
    done = own_crontab(COMMAND, "schedule", *words, *([tree.root] if words[1:] else []))
    assert (done.code, "correct it with crontab -e" in done.stderr) == (1, True)


def test_a_crontab_that_was_made_for_the_lines_goes_with_them(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    own_crontab(COMMAND, "schedule", "install", "--cron", "--user", "--base-path", tree.root, "--yes")
    assert own_crontab("crontab", "-l").code == 0
    own_crontab(COMMAND, "schedule", "remove", "--cron", "--user", "--yes")
    assert "no crontab for" in own_crontab("crontab", "-l").stderr


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


@pytest.mark.parametrize(
    ("keys", "code", "said"),
    [(b"n\n", 0, "Nothing changed."), (b"\x04", 0, "Nothing changed."), (b"\x03", 130, "interrupted")],
    ids=["no", "Ctrl-D", "Ctrl-C"],
)
def test_on_a_terminal_the_difference_is_shown_and_a_question_asked(
    tree: SampleTree, environment: dict[str, str], keys: bytes, code: int, said: str
) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    words = ("schedule", "install", "--cron", "--user", "--base-path", tree.root)
    ended, drawn = answered(environment, b"(--cron --user)? [y/N]", keys, COMMAND, *words)
    assert "+# BEGIN arawn-cli schedule" in drawn
    assert "Would remove 1 session of 1: " in drawn
    assert "No removal limit is set. Set one in [maintenance.cleanup]" in drawn
    assert (tree.sessions / "old").exists()
    assert (ended, said in drawn.splitlines()[-1]) == (code, True)
    assert not Path(environment["HOME"], "crontab").exists()


def test_after_a_removal_the_sessions_in_the_trash_are_named(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    at = {"ARAWN_BASE_PATH": str(tree.root)}
    tree.session("old", files={"f": 10}, age_days=30)
    own_crontab(COMMAND, "scratch-cleanup", "--base-path", tree.root)
    words = ("env", *(f"{name}={value}" for name, value in at.items()), COMMAND, "schedule")
    assert own_crontab(*words, "install", "--cron", "--user", "--yes").code == 0
    done = own_crontab(*words, "remove", "--cron", "--user", "--yes")
    assert f"The trash of {tree.root} holds 1 removed session, 10 bytes, and no timer purges it any more" in done.stdout
    assert "The trash" not in own_crontab(*words, "remove", "--cron", "--user", "--yes").stdout


def test_lines_that_could_not_be_shown_are_not_installed(own_crontab: Callable[..., Run], tree: SampleTree) -> None:
    words = ("schedule", "install", "--cron", "--user", "--base-path", tree.root, "--yes")
    done = own_crontab("bash", "-c", 'exec "$0" "$@" >/dev/full', COMMAND, *words)
    assert (done.code, done.stderr.splitlines()[-1]) == (69, "ERROR: cannot write to standard output: No space left on device")
    assert "no crontab for" in own_crontab("crontab", "-l").stderr


@pytest.mark.parametrize("kind", ["none", "busybox"])
@pytest.mark.parametrize("scope", ["user", pytest.param("system", marks=needs_root)])
def test_what_no_cron_will_read_is_written_and_is_exit_1_everywhere(
    own_crontab: Callable[..., Run], environment: dict[str, str], tree: SampleTree, kind: str, scope: str
) -> None:
    machine = Path(environment["HOME"], "machine")
    (machine / "cron.d").mkdir(parents=True)
    (machine / "cron").write_text(kind)
    is_read = (kind, scope) == ("busybox", "user")
    where = ("--cron", f"--{scope}", "--base-path", tree.root)
    said = "cron is not running, so no job runs" if kind == "none" else "busybox's, which does not read /etc/cron.d"
    for _ in range(2):  # also if everything is installed already
        installed = own_crontab(COMMAND, "schedule", "install", *where, "--yes")
        assert (installed.code, said in installed.stderr) == (int(not is_read), not is_read)
    written = own_crontab("crontab", "-l").stdout if scope == "user" else (machine / "cron.d" / "arawn-cli").read_text()
    assert "disk-check" in written
    status = own_crontab(COMMAND, "schedule", "status", *where)
    assert (status.code, said in status.stdout) == (int(not is_read), not is_read)
    assert {event["enabled"] for event in status.events} == {is_read}
    checks = {
        str(event["check"]): event["status"] for event in own_crontab(COMMAND, "doctor", "--base-path", tree.root).of_type("doctor_check")
    }
    assert {checks["disk-check timer"], checks["scratch-cleanup timer"]} == {"ok" if is_read else "fail"}
    assert (checks["cron"] == "fail") is not is_read
