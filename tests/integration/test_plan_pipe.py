"""Plans on standard output and input, questions before a removal, and sessions by name."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import COMMAND, RunCommand, needs
from tests.support.terminal import CTRL_C, answered, on_a_terminal
from tests.support.tree import SampleTree

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def listed(tree: SampleTree) -> list[str]:
    return sorted(os.listdir(tree.sessions))


@needs(shutil.which("jq") is not None, "jq")
@pytest.mark.parametrize("works", [True, False])
def test_the_recipe_archives_what_it_then_removes_and_nothing_without_an_archive(
    environment: dict[str, str], tree: SampleTree, tmp_path: Path, works: bool
) -> None:
    for name, days in (("old", 30), ("older", 40), ("new", 1)):
        tree.session(name, files={"f": 10}, age_days=days)
    (recipe,) = (text for text in re.findall(r"```sh\n(.*?)```", RECIPES.read_text(), re.DOTALL) if "--plan-out" in text)
    script = "set -o pipefail\n" + re.sub(r"sessions=.*", f"sessions={tree.sessions}" if works else "sessions=/nonexistent", recipe)
    run = {**environment, "ARAWN_BASE_PATH": str(tree.root), "PATH": f"{COMMAND.parent}:{environment['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, listed(tree)) == ((0, ["new"]) if works else (78, ["new", "old", "older"])), done
    if works:
        (archive,) = tmp_path.glob("archive-*.tar.gz")
        with tarfile.open(archive) as tar:
            assert {"old/work/f", "older/work/f"} <= set(tar.getnames())


def test_a_plan_on_standard_output_is_alone_there(run: RunCommand, tree: SampleTree) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    done = run("scratch-cleanup", "-n", "--plan-out", "-", "--base-path", tree.root)
    assert [session["session_id"] for session in json.loads(done.stdout)["sessions"]] == ["old"]
    assert listed(tree) == ["old"]


def test_named_sessions_are_handled_and_no_others(run: RunCommand, tree: SampleTree) -> None:
    for name, days in (("old", 30), ("older", 40), ("new", 1)):
        tree.session(name, files={"f": 10}, age_days=days)
    arguments = ("--base-path", tree.root)
    told = run("scratch-cleanup", "-n", "old", "new", "--format", "table", *arguments).stdout
    assert "new: kept: recent files: " in told
    assert "old: would trash: newest: " in told
    assert "older" not in told
    unknown = run("scratch-cleanup", "old", "not-there", *arguments)
    assert (unknown.code, unknown.stdout, len(listed(tree))) == (2, "", 3)
    assert "no scratch session not-there" in unknown.stderr
    assert run("scratch-cleanup", "old", "new", *arguments).reasons() == {"old": "expired", "new": "recent_files"}
    assert listed(tree) == ["new", "older"]


def test_a_named_session_is_one_of_all_for_the_removal_limit(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\nmax_percent = 50\n")
    for name in ("a", "b"):
        tree.session(name, files={"f": 10}, age_days=30)
    assert run("scratch-cleanup", "--base-path", tree.root, "--config", config).code == 77
    assert run("scratch-cleanup", "a", "--base-path", tree.root, "--config", config).code == 0
    assert listed(tree) == ["b"]


@pytest.mark.parametrize("option", [(), ("--ask",)])
@pytest.mark.parametrize("keys", [b"n", b"y"])
def test_the_first_run_on_a_terminal_shows_what_it_would_remove_and_asks(
    environment: dict[str, str], tree: SampleTree, option: tuple[str, ...], keys: bytes
) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    command = (COMMAND, "scratch-cleanup", "--base-path", tree.root, *option)
    code, drawn = answered(environment, b"Remove 1 session?", keys + b"\n", *command)
    assert code == 0
    assert "would trash" in drawn
    assert ("nothing was removed" in drawn, listed(tree)) == ((True, ["old"]) if keys == b"n" else (False, []))
    if keys == b"y":
        assert drawn.count("Scratch sessions") == 2
        tree.session("later", files={"f": 10}, age_days=30)
        code, drawn = answered(environment, b"Remove", b"", COMMAND, "scratch-cleanup", "--base-path", tree.root)
        assert (code, listed(tree)) == (0, [])


def test_a_warning_of_the_dry_run_is_not_repeated_after_the_answer_and_a_new_one_is_shown(
    environment: dict[str, str], tree: SampleTree
) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    tree.turn("old", tree.ago(30))
    tree.database.unlink()
    directory = os.open(tree.workstreams, os.O_RDONLY)
    cleanup = (COMMAND, "scratch-cleanup", "--base-path", tree.root)
    try:
        code, drawn = answered(environment, b"Remove 1 session?", b"y\n", *cleanup, before=lambda: fcntl.flock(directory, fcntl.LOCK_EX))
    finally:
        os.close(directory)
    assert (code, listed(tree)) == (0, [])
    assert drawn.count("no database of Arawn's was found: ") == 1
    assert re.findall(r"Scratch sessions|Remove 1|holds a lock in", drawn) == [
        "Scratch sessions",
        "Remove 1",
        "holds a lock in",
        "Scratch sessions",
    ]
    purge = (COMMAND, "trash", "purge", "old", "missing", "--base-path", tree.root)
    code, drawn = answered(environment, b"Delete 1 session for good?", b"y\n", *purge)
    assert (code, drawn.count("no session missing in the trash"), drawn.count("purged old")) == (1, 1, 1)


@pytest.mark.parametrize(
    ("command", "question"), [(("scratch-cleanup", "--ask"), b"Remove 1 session?"), (("trash", "purge", "--all"), b"good?")]
)
def test_ctrl_c_ends_a_question_at_once_and_nothing_is_removed(
    run: RunCommand, environment: dict[str, str], tree: SampleTree, command: tuple[str, ...], question: bytes
) -> None:
    for session in ("purged", "old"):
        tree.session(session, files={"f": 10}, age_days=30)
    run("scratch-cleanup", "purged", "--base-path", tree.root)
    code, drawn = answered(environment, question, CTRL_C, COMMAND, *command, "--base-path", tree.root)
    assert (code, "interrupted" in drawn.splitlines()[-1]) == (130, True), drawn
    assert (listed(tree), len(run("trash", "list", "--base-path", tree.root).events)) == (["old"], 1)


def test_nobody_is_asked_without_a_terminal_or_with_yes(run: RunCommand, environment: dict[str, str], tree: SampleTree) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    assert run("scratch-cleanup", "--ask", "--base-path", tree.root).code == 2
    code, drawn = answered(environment, b"Remove", b"n\n", COMMAND, "scratch-cleanup", "--yes", "--base-path", tree.root)
    assert (code, "Remove 1 session?" in drawn, listed(tree)) == (0, False, [])
    tree.session("old", files={"f": 10}, age_days=30)
    assert run("scratch-cleanup", "--base-path", tree.root).code == 0
    assert listed(tree) == []


def test_a_question_is_asked_only_if_something_can_be_removed(environment: dict[str, str], tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "limited.toml"
    config.write_text("[maintenance.cleanup]\nmax_sessions = 1\n")
    for name in ("a", "b"):
        tree.session(name, files={"f": 10}, age_days=30)
    arguments = ("scratch-cleanup", "--base-path", tree.root)
    for options in ((), ("--ask",)):  # the first run, and any run with the option
        code, drawn = on_a_terminal(environment, *arguments, "--config", config, *options)
        assert code == 77, drawn
        assert "removal limit" in drawn
        assert "changed_since_plan" not in drawn
        assert "[y/N]" not in drawn
    code, drawn = on_a_terminal(environment, *arguments, "--ask", "--dry-run")
    assert code == 0, drawn
    assert "[y/N]" not in drawn
    assert on_a_terminal(environment, *arguments, "--ask", "--plan-out", "-")[0] == 2, "the table would not be shown"
    assert sorted(path.name for path in tree.sessions.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("keys", [b"n", b"y"])
@pytest.mark.parametrize("output", ["", " | cat", " --format json"])
def test_purge_asks_on_a_terminal_wherever_its_output_goes(
    run: RunCommand, environment: dict[str, str], tree: SampleTree, output: str, keys: bytes
) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    run("scratch-cleanup", "--base-path", tree.root)
    command = f"{COMMAND} trash purge --all --base-path {tree.root}{output}"
    _, drawn = answered(environment, b"Delete 1 session for good?", keys + b"\n", "sh", "-c", command)
    left = run("trash", "list", "--base-path", tree.root).events
    assert (len(left), drawn.count("Nothing purged"), '"dry_run":true' in drawn) == ((1, 1, False) if keys == b"n" else (0, 0, False))


@pytest.mark.parametrize("keys", [b"n", b"y"])
def test_the_first_cleanup_that_a_check_at_a_terminal_starts_asks_too(
    environment: dict[str, str], tree: SampleTree, tmp_path: Path, keys: bytes
) -> None:
    config = tmp_path / "critical.toml"
    config.write_text("[maintenance.pressure]\ntotal = 10\n[maintenance.cleanup]\ncleanup_on = 'critical'\n")
    tree.session("old", files={"f": 1000}, age_days=30)
    command = (COMMAND, "disk-check", "--base-path", tree.root, "--config", config)
    _, drawn = answered(environment, b"Remove 1 session?", keys + b"\n", *command)
    assert ("Remove 1 session?" in drawn, listed(tree)) == (True, ["old"] if keys == b"n" else [])


def test_a_plan_leaves_the_trash_alone_also_if_there_is_no_directory_of_sessions(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config, plan = tmp_path / "settings.toml", tmp_path / "plan"
    arguments = ("scratch-cleanup", "--base-path", tree.root, "--config", config)
    config.write_text("")
    tree.session("old", files={"f": 10}, age_days=30)
    run(*arguments)
    config.write_text("[maintenance.cleanup]\ntrash_days = 0\n")
    tree.sessions.rmdir()
    assert run(*arguments, "--dry-run", "--plan-out", plan).code == 0
    for options, left in ((("--apply", plan), 1), ((), 0)):
        assert run(*arguments, *options).code == 0
        assert len(run("trash", "list", "--base-path", tree.root).events) == left
