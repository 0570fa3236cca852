"""`trash list`, `restore` and `purge`, and days in the trash."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from arawn_cli import timestamps
from arawn_cli.arawn.root import opened_root
from arawn_cli.cleanup.trash import list_trash_entries, put_back
from arawn_cli.cleanup.trash_entry import confirmed_name, deleting_name, pending_name
from arawn_cli.cleanup_events import ScratchSessionEvent
from arawn_cli.events import Event
from arawn_cli.fs import measure
from arawn_cli.fs.openat import opened_directory
from arawn_cli.locks import lock_file
from arawn_cli.timestamps import DAY, SECOND
from tests.conftest import COMMAND, WITHOUT_FILE_POWERS, RunCommand, needs_chattr, needs_root, needs_setpriv, needs_strace
from tests.support.errors import os_error
from tests.support.in_process import brought_back, cleaned, in_trash
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree, write


@pytest.fixture
def keeping(tmp_path: Path) -> Path:
    path = tmp_path / "trash.toml"
    path.write_text("[maintenance.cleanup]\ntrash_days = 5\n")
    return path


def removed(tree: SampleTree, session: str, days: float, size: int = 10) -> Path:
    directory = tree.sessions.parent / ".trash" / confirmed_name(pending_name(session, tree.ago(days)))
    write(directory / "work" / "f", size)
    return directory


def test_a_removed_session_waits_for_trash_days_across_runs(tree: SampleTree, keeping: Path) -> None:
    tree.session("s", files={"f": 100}, age_days=30)
    summary, _ = cleaned(tree, config=keeping)
    assert (summary.cleaned_session_ids, summary.bytes_freed, summary.trash_bytes) == (("s",), 0, 100)
    tree.now += 4 * DAY
    assert cleaned(tree, config=keeping)[0].trash_bytes == 100
    tree.now += 2 * DAY
    summary, _ = cleaned(tree, config=keeping)
    assert (summary.bytes_freed, summary.trash_bytes) == (100, 0)


def test_the_trash_is_listed_oldest_first(run: RunCommand, tree: SampleTree) -> None:
    removed(tree, "new", 1, 20)
    removed(tree, "old", 9, 30)
    done = run("trash", "list", "--base-path", tree.root)
    assert [(event["session_id"], event["bytes"], event["action"]) for event in done.events] == [
        ("old", 30, "listed"),
        ("new", 20, "listed"),
    ]


def test_the_trash_is_a_table_for_people(run: RunCommand, tree: SampleTree, keeping: Path) -> None:
    removed(tree, "young", 1, 20)
    removed(tree, "old", 9, 3000)
    begun = removed(tree, "begun", 3)
    begun.rename(begun.with_name(deleting_name(begun.name)))
    shown = run("trash", "list", "--base-path", tree.root, "--format", "table", "--config", keeping, COLUMNS="120").stdout
    cells = [re.split("  +", line.strip()) for line in shown.splitlines()[1:]]
    day, due = (time.strftime("%Y-%m-%d", time.gmtime(tree.ago(ago) // SECOND)) for ago in (9, 9 - 5))
    assert cells[:2] == [["session", "removed", "purged from", "size", "files"], ["old", day, due, "2.9 KiB", "1"]]
    assert [row[0] for row in cells[2:]] == ["begun (being purged)", "young"]


def test_an_empty_trash_prints_a_sentence_for_people_and_nothing_for_programs(run: RunCommand, tree: SampleTree) -> None:
    for command, sentence in ((("list",), "The trash is empty.\n"), (("purge", "--all"), "Nothing to purge.\n")):
        assert run("trash", *command, "--base-path", tree.root, "--format", "table").stdout == sentence
        assert run("trash", *command, "--base-path", tree.root).stdout == ""
    removed(tree, "s", 1)
    kept = run("trash", "purge", "--older-than-days", 3, "--base-path", tree.root, "--format", "table")
    assert kept.stdout == "Nothing to purge.\n"
    assert "purged s: " in run("trash", "purge", "--all", "--base-path", tree.root, "--format", "table").stdout


@needs_setpriv
def test_a_trash_that_cannot_be_read_is_not_called_empty(run: RunCommand, tree: SampleTree) -> None:
    removed(tree, "s", 1).parent.chmod(0)
    done = run("trash", "list", "--base-path", tree.root, "--format", "table", prefix=WITHOUT_FILE_POWERS)
    assert (done.code, done.stdout) == (1, "")


def test_the_trash_behind_a_link_is_not_called_empty(run: RunCommand, tree: SampleTree) -> None:
    removed(tree, "s", 1)
    scratch = tree.sessions.parent
    scratch.rename(tree.root / "moved")
    scratch.symlink_to(tree.root / "moved")
    done = run("trash", "list", "--base-path", tree.root)
    assert (done.code, "scratch is a link" in done.stderr) == (1, True)


def test_a_table_of_the_trash_that_a_full_disk_does_not_take_is_an_error(environment: dict[str, str], tree: SampleTree) -> None:
    removed(tree, "s", 1)
    with open("/dev/full", "w") as full:
        command = [str(COMMAND), "trash", "list", "--base-path", str(tree.root), "--format", "table"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (69, "ERROR: cannot write to standard output: No space left on device\n")


def test_a_restored_session_is_whole_and_survives_the_next_cleanup(run: RunCommand, tree: SampleTree, keeping: Path) -> None:
    tree.session("s", files={"f": 100}, age_days=30)
    run("scratch-cleanup", "--base-path", tree.root, "--config", keeping)
    assert os.listdir(tree.sessions) == []
    done = run("trash", "restore", "s", "--base-path", tree.root)
    assert (done.code, done.last["action"]) == (0, "restored")
    assert (tree.sessions / "s" / "work" / "f").stat().st_size == 100
    assert run("scratch-cleanup", "--base-path", tree.root).reasons() == {"s": "recent_files"}


@needs_root
def test_the_trash_that_root_makes_belongs_to_the_owner_of_its_directory(tree: SampleTree, keeping: Path) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    os.chown(tree.sessions.parent, 1234, 2345)
    assert cleaned(tree, config=keeping)[0].sessions_cleaned == 1
    status = (tree.sessions.parent / ".trash").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o700)


def test_restore_overwrites_nothing(run: RunCommand, tree: SampleTree) -> None:
    waiting = removed(tree, "s", 1)
    tree.session("s", files={"mine": 1}, age_days=0)
    done = run("trash", "restore", "s", "--base-path", tree.root)
    assert (done.code, done.last["action"]) == (1, "failed")
    assert "File exists" in done.stderr
    assert (waiting / "work" / "f").exists()
    assert (tree.sessions / "s" / "work" / "mine").exists()


def test_a_session_whose_id_was_cut_in_the_trash_is_not_restored_by_another_name(tree: SampleTree) -> None:
    waiting = removed(tree, "x" * 255, 1)
    with opened_root(tree.root, ()) as root:
        ((entry,), _) = list_trash_entries(root)
        failures = [put_back(root, entry, dry_run=dry_run) for dry_run in (True, False)]
    assert [failure.errno for failure in failures if failure] == [errno.ENAMETOOLONG] * 2
    assert (waiting.exists(), os.listdir(tree.sessions)) == (True, [])


def test_the_last_removed_of_one_id_is_restored(run: RunCommand, tree: SampleTree) -> None:
    removed(tree, "s", 9, 1)
    removed(tree, "s", 2, 2)
    run("trash", "restore", "s", "--base-path", tree.root)
    assert (tree.sessions / "s" / "work" / "f").stat().st_size == 2


def test_what_is_not_in_the_trash_cannot_be_restored(run: RunCommand, tree: SampleTree) -> None:
    done = run("trash", "restore", "../../x", "--base-path", tree.root)
    assert (done.code, done.stdout) == (1, "")
    assert "no session ../../x in the trash" in done.stderr


def test_purge_frees_what_is_old_enough_and_a_dry_run_only_names_it(run: RunCommand, tree: SampleTree) -> None:
    young, old = removed(tree, "young", 1), removed(tree, "old", 9)
    dry = run("trash", "purge", "--base-path", tree.root, "--older-than-days", 3, "--dry-run")
    assert [(event["session_id"], event["action"]) for event in dry.events] == [("old", "would_purge")]
    assert old.exists()
    done = run("trash", "purge", "--base-path", tree.root, "--older-than-days", 3)
    assert [(event["session_id"], event["action"], event["bytes"]) for event in done.events] == [("old", "purged", 10)]
    assert (young.exists(), old.exists()) == (True, False)
    run("trash", "purge", "--all", "--base-path", tree.root)
    assert not young.exists()


def test_a_pending_session_is_not_purged_by_the_command(run: RunCommand, tree: SampleTree) -> None:
    pending = tree.sessions.parent / ".trash" / pending_name("s", time.time_ns())
    write(pending / "f", 1)
    assert run("trash", "purge", "--all", "--base-path", tree.root).events == []
    assert pending.exists()


@pytest.mark.parametrize("arguments", ["purge", "purge s --all", "purge --all --older-than-days 1", "restore", "restore s --last"])
def test_a_trash_command_does_not_guess_which_sessions_are_meant(run: RunCommand, tree: SampleTree, arguments: str) -> None:
    waiting = removed(tree, "s", 1)
    assert run("trash", *arguments.split(), "--base-path", tree.root).code == 2
    assert waiting.exists()


def test_only_the_named_sessions_are_purged_and_restored(run: RunCommand, tree: SampleTree) -> None:
    for name in ("a", "b", "c", "d", "e"):
        removed(tree, name, 1)
    done = run("trash", "purge", "a", "b", "not-there", "--base-path", tree.root)
    assert (done.code, [event["session_id"] for event in done.of_type("trash_entry")]) == (1, ["a", "b"])
    assert "no session not-there in the trash" in done.stderr
    assert run("trash", "restore", "c", "d", "--base-path", tree.root).code == 0
    assert sorted(os.listdir(tree.sessions)) == ["c", "d"]
    assert [event["session_id"] for event in run("trash", "list", "--base-path", tree.root).events] == ["e"]


def test_last_restores_what_the_last_run_removed_that_removed_something(run: RunCommand, tree: SampleTree, keeping: Path) -> None:
    arguments = ("--base-path", tree.root, "--config", keeping)
    assert "name the ids" in run("trash", "restore", "--last", *arguments).stderr
    for names in (("earlier",), ("s1", "s2"), ()):
        for name in names:
            tree.session(name, files={"f": 10}, age_days=30)
        assert run("scratch-cleanup", *arguments).code == 0
    assert run("trash", "restore", "--last", *arguments).code == 0
    assert sorted(os.listdir(tree.sessions)) == ["s1", "s2"]
    assert run("trash", "restore", "--last", *arguments).code == 0
    assert sorted(os.listdir(tree.sessions)) == ["earlier", "s1", "s2"]
    assert run("trash", "restore", "--last", *arguments).code == 1


def test_a_removal_is_recorded_until_a_year_after_it_was_purged_and_forgotten_if_it_is_restored(tree: SampleTree, keeping: Path) -> None:
    for name in ("purged", "restored"):
        tree.session(name, files={"f": 100}, age_days=30)
    began = tree.now
    cleaned(tree, config=keeping)
    recorded = in_trash(tree, keeping, everything=True)
    assert {event.session_id for event in recorded} == {"purged", "restored"}
    assert all(event.action == "listed" and event.reason and event.reason.startswith("expired: newest:") for event in recorded)
    brought_back(tree, keeping, "restored")
    shutil.rmtree(tree.sessions / "restored")
    tree.now += 6 * DAY
    cleaned(tree, config=keeping)
    (purged,) = in_trash(tree, keeping, everything=True)
    assert (purged.session_id, purged.action, purged.bytes) == ("purged", "purged", 100)
    assert purged.purged_at == timestamps.render(tree.now)
    assert in_trash(tree, keeping) == []
    for later, kept in ((360, 1), (370, 0)):
        tree.now = began + later * DAY
        cleaned(tree, config=keeping, force=True)
        assert len(in_trash(tree, keeping, everything=True)) == kept


def test_a_trash_that_arawn_promoted_with_scratch_is_listed_restored_there_and_purged(tree: SampleTree, keeping: Path) -> None:
    for name in ("wanted", "old"):
        tree.session(name, files={"f": 100}, age_days=30)
    cleaned(tree, config=keeping)
    promoted = tree.workstreams / "promoted"
    tree.sessions.parent.rename(promoted)
    tree.sessions.mkdir(parents=True)
    assert {event.session_id for event in in_trash(tree, keeping)} == {"wanted", "old"}
    brought_back(tree, keeping, "wanted")
    assert (promoted / "sessions" / "wanted" / "work" / "f").exists()
    tree.now += 6 * DAY
    assert cleaned(tree, config=keeping)[0].bytes_freed == 100
    assert os.listdir(promoted) == ["sessions"]


def test_what_a_killed_run_had_begun_to_delete_is_never_restored_and_always_finished(
    run: RunCommand, tree: SampleTree, keeping: Path
) -> None:
    begun = removed(tree, "s", 1)
    begun.rename(begun.with_name(deleting_name(begun.name)))
    assert run("trash", "list", "--base-path", tree.root).last["action"] == "being_purged"
    done = run("trash", "restore", "s", "--base-path", tree.root)
    assert (done.code, os.listdir(tree.sessions)) == (1, [])
    run("scratch-cleanup", "--base-path", tree.root, "--config", keeping)
    assert list(tree.workstreams.rglob("*.*Z.*")) == []


@needs_strace
def test_a_session_killed_half_way_is_no_session_to_restore(run: RunCommand, tree: SampleTree, at_once: Path) -> None:
    tree.session("s", files={f"f{number}": 1 for number in range(40)}, age_days=30)
    kill = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=unlinkat", "-e", "inject=unlinkat:signal=KILL:when=20")
    run("scratch-cleanup", "--base-path", tree.root, "--config", at_once, prefix=kill, traced=True)
    (left,) = tree.workstreams.rglob("gone.s.*")
    assert 0 < len(os.listdir(left / "work")) < 40
    assert run("trash", "restore", "s", "--base-path", tree.root).code == 1
    assert run("scratch-cleanup", "--base-path", tree.root).code == 0
    assert not left.exists()


def test_restore_waits_for_a_cleanup_even_without_a_sessions_folder(run: RunCommand, tree: SampleTree, environment: dict[str, str]) -> None:
    removed(tree, "s", 1)
    state = Path(environment["HOME"], ".local", "state", "arawn-cli")
    state.mkdir(parents=True, mode=0o700)
    directory = os.open(lock_file(state, "scratch-cleanup", tree.root), os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(directory, fcntl.LOCK_EX)
    assert run("trash", "restore", "s", "--base-path", tree.root).code == 75
    tree.sessions.rmdir()
    assert run("trash", "purge", "--all", "--base-path", tree.root).code == 75
    os.close(directory)


@pytest.mark.parametrize(("call", "operation"), [("rename", "rename"), ("unlink", "delete")])
def test_a_failed_purge_names_the_operation_that_failed(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, call: str, operation: str
) -> None:
    removed(tree, "s", 9)

    def failing(*_: object, **__: object) -> None:
        raise os_error(errno.EIO)

    monkeypatch.setattr(measure, "native", None)
    monkeypatch.setattr(os, call, failing)
    summary, _ = cleaned(tree)
    assert [(failure.operation, failure.errno) for failure in summary.failures] == [(operation, errno.EIO)]
    assert summary.bytes_freed == 0


# ---- Chats that go on


def told(events: list[Event]) -> dict[str, str]:
    return {event.session_id: event.action for event in events if isinstance(event, ScratchSessionEvent)}


@pytest.mark.parametrize("keep_chats", [False, True])
@pytest.mark.parametrize(("minutes", "goes_on"), [(-60, False), (1, True), (6000, True)])
def test_a_session_with_a_turn_after_its_removal_gets_its_files_back(
    tree: SampleTree, keeping: Path, keep_chats: bool, minutes: int, goes_on: bool
) -> None:
    keeping.write_text(keeping.read_text() + f"keep_chats = {str(keep_chats).lower()}\n")
    tree.session("s", files={"f": 100}, age_days=30)
    removed_at = tree.now
    cleaned(tree, config=keeping)
    turn = removed_at + minutes * 60 * SECOND
    if not goes_on:  # a turn that was recorded before would have kept it: this one is of another session
        tree.session("t", files={"f": 1}, age_days=30)
    tree.turn("s" if goes_on else "t", turn)
    tree.now += 6 * DAY  # its time in the trash is over
    expected = {"s": "would_restore"} if goes_on else {"t": "kept"}
    summary, events = cleaned(tree, config=keeping, dry_run=True)
    assert ({name: action for name, action in told(events).items() if name in expected}, summary.sessions_restored) == (
        expected,
        int(goes_on),
    )
    summary, events = cleaned(tree, config=keeping)
    assert told(events).get("s") == ("restored" if goes_on else None)
    assert (summary.sessions_restored, summary.bytes_freed) == (int(goes_on), 0 if goes_on else 100)
    assert (tree.sessions / "s" / "work" / "f").exists() == goes_on
    assert in_trash(tree, keeping, everything=goes_on) == []
    assert "s" not in told(cleaned(tree, config=keeping)[1]) or told(cleaned(tree, config=keeping)[1])["s"] == "kept"


def test_on_main_a_chat_that_goes_on_gets_its_files_back(tmp_path: Path) -> None:
    tree = MainTree(tmp_path / "main", time.time_ns())
    session = session_id(1)
    tree.session(session, files={"notes": 10}, age_days=30)
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 3\n")
    assert told(cleaned(tree, config=config)[1]) == {session: "trashed"}
    assert not (tree.sessions / session / "notes").exists()
    messages = tree.sessions / session / "messages.jsonl"
    assert told(cleaned(tree, config=config)[1]) == {}
    messages.write_text(messages.read_text() + tree.line("later"))
    os.utime(messages, ns=(tree.now + DAY, tree.now + DAY))
    tree.now += 4 * DAY
    assert told(cleaned(tree, config=config, dry_run=True)[1]) == {session: "would_restore"}
    assert told(cleaned(tree, config=config)[1]) == {session: "restored"}
    assert (tree.sessions / session / "notes").exists()
    assert "later" in messages.read_text()


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_stands_in_the_way_of_a_chat_that_goes_on_keeps_its_files_in_the_trash(
    tree: SampleTree, keeping: Path, dry_run: bool, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = removed(tree, "s", 6)
    tree.turn("s", tree.ago(5))
    tree.session("s", files={"other": 1}, age_days=0)
    summary, _ = cleaned(tree, config=keeping, dry_run=dry_run)
    (failure,) = summary.failures
    assert (failure.session_id, failure.errno) == ("s", errno.EEXIST)
    assert failure.message == "its chat goes on, but it stays in the trash (File exists); then: arawn-cli trash restore s"
    assert failure.message in caplog.text
    assert (waiting.exists(), summary.bytes_freed, summary.sessions_restored) == (True, 0, 0)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_file_that_a_chat_has_written_again_keeps_the_old_one_in_the_trash(tree: SampleTree, keeping: Path, dry_run: bool) -> None:
    keeping.write_text(keeping.read_text() + "keep_chats = true\n")
    tree.session("s", files={"same": 10}, age_days=30)
    cleaned(tree, config=keeping)
    same = tree.sessions / "s" / "work" / "same"
    write(same, 20)
    tree.turn("s", tree.now + DAY)
    tree.now += 2 * DAY
    summary, events = cleaned(tree, config=keeping, dry_run=dry_run)
    assert (told(events), [failure.errno for failure in summary.failures]) == ({"s": "kept"}, [errno.EEXIST])
    assert (same.stat().st_size, len(in_trash(tree, keeping))) == (20, 1)


@needs_chattr
@pytest.mark.parametrize("flag", ["+a", "+i"])
@pytest.mark.parametrize("place", [".trash", "sessions"])
@pytest.mark.parametrize("keep_chats", [False, True])
def test_a_dry_run_foresees_that_a_flagged_directory_does_not_let_a_session_back(
    tree: SampleTree, keeping: Path, flag: str, place: str, keep_chats: bool
) -> None:
    """An append-only directory accepts a session, and does not let one be exchanged."""
    keeping.write_text(keeping.read_text() + f"keep_chats = {str(keep_chats).lower()}\n")
    tree.session("s", files={"f": 100}, age_days=30)
    cleaned(tree, config=keeping)
    tree.turn("s", tree.now + DAY)
    tree.now += 2 * DAY
    path = tree.sessions.parent / place
    subprocess.run(["chattr", flag, path], check=True)
    try:
        done = [cleaned(tree, config=keeping, dry_run=dry_run)[0] for dry_run in (True, False)]
    finally:
        subprocess.run(["chattr", "-i", "-a", path], check=True)
    restored = int((place, flag, keep_chats) == ("sessions", "+a", False))
    assert [(summary.sessions_restored, len(summary.failures)) for summary in done] == [(restored, 1 - restored)] * 2


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_entry_whose_time_is_over_is_purged_once_although_space_is_missing(tree: SampleTree, keeping: Path, dry_run: bool) -> None:
    keeping.write_text(keeping.read_text() + "max_total = 1\n")
    removed(tree, "old", 6, 10)
    removed(tree, "young", 1, 20)
    assert cleaned(tree, config=keeping, dry_run=dry_run)[0].bytes_freed == 30


def test_a_pending_session_that_another_run_is_removing_is_left_to_it(tree: SampleTree) -> None:
    pending = tree.sessions.parent / ".trash" / pending_name("s", tree.ago(0))
    write(pending / "work" / "f", 1)
    with opened_root(tree.root, ()) as root, opened_directory(root.workstreams, "scratch", ".trash", pending.name) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        cleaned(tree)
        assert (pending.exists(), os.listdir(tree.sessions)) == (True, [])
    cleaned(tree)
    assert (pending.exists(), os.listdir(tree.sessions)) == (False, ["s"])


@needs_chattr
def test_a_dry_run_foresees_that_a_flagged_trash_is_not_purged(tree: SampleTree) -> None:
    trash = removed(tree, "s", 9).parent
    subprocess.run(["chattr", "+i", trash], check=True)
    try:
        done = [cleaned(tree, dry_run=dry_run)[0] for dry_run in (True, False)]
    finally:
        subprocess.run(["chattr", "-i", trash], check=True)
    assert [(summary.bytes_freed, len(summary.failures)) for summary in done] == [(0, 1)] * 2


@pytest.mark.parametrize("damage", ["a line", "the file"])
def test_nothing_is_purged_while_it_is_in_doubt_whether_its_chat_goes_on(tree: SampleTree, keeping: Path, damage: str) -> None:
    tree.turn("other", tree.ago(8))
    waiting = removed(tree, "s", 6)
    whole = tree.messages.read_bytes()
    tree.messages.write_bytes(whole + b'{"session_id": "s", "timest\n' if damage == "a line" else b"no message at all\n")
    cleaned(tree, config=keeping)
    assert waiting.exists()
    tree.messages.write_bytes(whole)
    cleaned(tree, config=keeping)
    assert not waiting.exists()


def test_only_the_last_removal_of_a_chat_that_goes_on_is_put_back(tree: SampleTree, keeping: Path) -> None:
    removed(tree, "s", 2, 20)
    removed(tree, "s", 4, 10)
    tree.turn("s", tree.ago(3))
    assert told(cleaned(tree, config=keeping)[1]) == {}
    tree.turn("s", tree.ago(1))
    assert told(cleaned(tree, config=keeping)[1]) == {"s": "restored"}
    assert (tree.sessions / "s" / "work" / "f").stat().st_size == 20


@pytest.mark.parametrize("trash_total", ["0", "1"])
def test_an_earlier_removal_of_a_chat_that_went_on_waits_until_the_last_one_is_gone(
    tree: SampleTree, keeping: Path, trash_total: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeping.write_text(f"{keeping.read_text()}[maintenance.pressure]\ntotal = {trash_total}\n")  # 1 byte purges the trash early
    earlier, last = removed(tree, "s", 8, 10), removed(tree, "s", 2, 20)
    tree.turn("s", tree.ago(7))
    cleaned(tree, config=keeping)
    assert earlier.exists()
    assert last.exists() == (trash_total == "0")
    assert "session s, removed at" in caplog.text
    tree.now += 4 * DAY
    cleaned(tree, config=keeping)
    assert not last.exists()
    tree.now += DAY
    cleaned(tree, config=keeping)
    assert (tree.sessions / "s" / "work" / "f").stat().st_size == 10


def test_a_signal_ends_a_purge_and_the_next_run_completes_it(tree: SampleTree) -> None:
    """Neither the entries nor the rest of the trash are measured after the signal."""
    first, second = removed(tree, "one", 9), removed(tree, "two", 8)
    summary, _ = cleaned(tree, stopping=lambda: not first.exists())
    assert (summary.trash_bytes, summary.failure_count) == (None, 0)
    assert second.exists()
    assert cleaned(tree)[0].trash_bytes == 0
    assert not second.parent.exists()


@pytest.mark.parametrize("native", [True, False], ids=["C", "Python"])
def test_a_purge_that_a_signal_ends_claims_only_what_is_gone(
    tree: SampleTree, keeping: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """C may delete so small a tree before it sees the signal."""
    if not native:
        monkeypatch.setattr(measure, "native", None)
    trash = removed(tree, "s", 9).parent
    begun: list[Path] = []

    def stopping() -> bool:
        begun.extend(trash.glob("gone.*"))
        return bool(begun)

    summary, _ = cleaned(tree, config=keeping, stopping=stopping)
    left = [entry.action for entry in in_trash(tree, keeping)]
    assert native or left == ["being_purged"]
    assert summary.bytes_freed == (0 if left else 10)
    assert cleaned(tree, config=keeping)[0].bytes_freed == 10 - summary.bytes_freed
