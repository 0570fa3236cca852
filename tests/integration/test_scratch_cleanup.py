"""`scratch-cleanup` through the installed command, on real trees."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arawn_cli.errors import RefusedError
from arawn_cli.timestamps import DAY
from tests.conftest import (
    COMMAND,
    WITHOUT_FILE_POWERS,
    Run,
    RunCommand,
    needs,
    needs_namespaces,
    needs_root,
    needs_setpriv,
    needs_strace,
    snapshot,
)
from tests.support.cleanup import clean
from tests.support.main_tree import MainTree, session_id
from tests.support.owner import OWNER_NAME, READABLE, THIRD, as_account, give, tree_of_owner
from tests.support.tree import SampleTree, set_age, write

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
needs_faketime = needs(FAKETIME is not None, "faketime")


def test_older_than_days_moves_the_cutoff(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=10)
    assert clean(run, tree, "--older-than-days", 11).reasons() == {"s": "recent_files"}
    assert clean(run, tree, "--older-than-days", 9).reasons() == {"s": "expired"}


def test_on_main_a_pattern_that_matches_no_uuid_is_refused_with_78_unless_another_root_may_need_it(run: RunCommand, tmp_path: Path) -> None:
    main = MainTree(tmp_path / "main", time.time_ns())
    main.session(session_id(1), files={"f": 1}, age_days=30)
    config = tmp_path / "c.toml"
    own = f'[[maintenance.roots]]\nname = "main"\npath = "{main.root}"\n'
    for general, entry, code in (
        ("keep-*", "", 78),
        ("00000000-*", "", 0),
        ("keep-*", own, 0),
        ("keep-*", f'{own}protect = ["my-notes"]\n', 78),
    ):
        config.write_text(f'[maintenance.cleanup]\nprotect = ["{general}"]\n{entry}')
        place = ("--root", "main") if entry else ("--base-path", main.root)
        for arguments in (("scratch-cleanup", "--dry-run"), ("doctor", "--format", "json")):
            done = run(*arguments, *place, "--config", config)
            told = done.stderr if arguments[0] == "scratch-cleanup" else done.stdout
            assert ("can match no session" in told) == (code != 0)
            assert (done.code == code) or arguments[0] == "doctor"
    assert run("scratch-cleanup", "--root", "main", "--config", config).code == 78
    assert os.listdir(main.sessions) == [session_id(1)]


def test_what_is_not_a_session_directory_is_kept_and_reported(run: RunCommand, tree: SampleTree) -> None:
    outside = tree.root / "outside"
    write(outside / "precious", 10)
    (tree.sessions / "linked").symlink_to(outside)
    write(tree.sessions / "file", 5)
    (tree.sessions / "not an id").mkdir()
    set_age(tree.sessions, tree.ago(50))
    done = clean(run, tree)
    assert done.reasons() == {"linked": "not_a_directory", "file": "not_a_directory", "not an id": "foreign_name"}
    assert done.last["sessions_kept"] == {"foreign_name": 1, "not_a_directory": 2}
    assert sorted(os.listdir(tree.sessions)) == ["file", "linked", "not an id"]
    assert (outside / "precious").exists()


def test_a_session_with_links_inside_is_removed_and_their_targets_survive(run: RunCommand, tree: SampleTree) -> None:
    outside = tree.root / "outside"
    write(outside / "precious", 10)
    directory = tree.session("s", files={"f": 1}, age_days=30)
    (directory / "work" / "link").symlink_to(outside)
    (directory / "work" / "up").symlink_to("../../..")
    set_age(directory, tree.ago(30))
    assert clean(run, tree).removed() == {"s"}
    assert (outside / "precious").stat().st_size == 10


def test_protected_sessions_stay(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("keep-1", files={"f": 1}, age_days=30)
    config = tmp_path / "c.toml"
    config.write_text('[maintenance.cleanup]\nprotect = ["keep-*"]\n')
    assert clean(run, tree, "--config", config).reasons() == {"keep-1": "protected"}


def test_a_file_with_a_name_elsewhere_is_not_claimed_as_freed(run: RunCommand, tree: SampleTree, at_once: Path) -> None:
    directory = tree.session("s", files={"f": 1000, "g": 10}, age_days=30)
    os.link(directory / "work" / "f", tree.root / "still-here")
    set_age(directory, tree.ago(30))
    done = clean(run, tree, "--config", at_once)
    assert done.of_type("scratch_session")[0]["bytes"] == 1010
    assert done.last["bytes_freed"] == 10


def test_a_root_without_scratch_sessions_is_no_error(run: RunCommand, tree: SampleTree) -> None:
    tree.sessions.rmdir()
    done = clean(run, tree)
    assert (done.code, done.last["sessions_checked"]) == (0, 0)


def test_the_removal_limit_stops_the_whole_run_with_77_and_force_goes_on(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    for number in range(3):
        tree.session(f"old-{number}", files={"f": 1}, age_days=30)
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\nmax_sessions = 2\n")
    for arguments in (("--dry-run",), ()):
        done = clean(run, tree, "--config", config, *arguments)
        assert (done.code, done.last["sessions_kept"], done.last["sessions_cleaned"]) == (77, {"removal_limit": 3}, 0)
        assert "3 of 3 sessions are due" in done.stderr
    assert len(os.listdir(tree.sessions)) == 3
    assert clean(run, tree, "--config", config, "--force").last["sessions_cleaned"] == 3


def test_of_named_sessions_only_these_count_for_the_removal_limit_whose_percentage_is_that_of_all(
    run: RunCommand, tree: SampleTree, tmp_path: Path
) -> None:
    for number in range(4):
        tree.session(f"old-{number}", files={"f": 1}, age_days=30)
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\nmax_sessions = 2\nmax_percent = 50\n")
    done = clean(run, tree, "--config", config, "old-0", "old-1")
    assert (done.code, done.reasons()) == (0, {"old-0": "expired", "old-1": "expired"})


def _mixed(tree: SampleTree) -> None:
    for number in range(6):
        tree.session(f"old-{number}", files={"a": 10, f"deep/{number}/b": number}, age_days=8 + number)
        tree.session(f"new-{number}", files={"a": 10}, age_days=number)
    tree.turn("old-0", tree.ago(2))
    tree.session_row("old-1", tree.ago(9), tree.ago(1))


@needs_strace
def test_a_dry_run_names_what_the_real_run_removes_and_writes_nothing(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    _mixed(tree)
    before = snapshot(tree.root)
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=%file,%desc,%network")
    dry = run("scratch-cleanup", "--base-path", tree.root, "--dry-run", prefix=strace, traced=True, PYTHONDONTWRITEBYTECODE="1")
    assert snapshot(tree.root) == before
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    changing = ("mkdir", "rename", "unlink", "rmdir", "utime", "connect", "ftruncate", "truncate", "chmod", "chown", "symlink", "link")
    assert len(calls) > 100
    assert [call for call in calls if call.startswith(changing) and "= -1" not in call] == []
    opened = [call for call in calls if call.startswith("open") and '"/dev/null"' not in call]
    assert [call for call in opened if "O_WRONLY" in call or "O_RDWR" in call or "O_CREAT" in call] == []
    real = clean(run, tree)
    assert dry.removed() == real.removed() == {"old-2", "old-3", "old-4", "old-5"}
    assert dry.last["bytes_trashed"] == real.last["bytes_trashed"] == 4 * 10 + 2 + 3 + 4 + 5
    assert {event["dry_run"] for event in dry.events} == {True}
    assert sorted(os.listdir(tree.sessions)) == sorted(["old-0", "old-1", *(f"new-{number}" for number in range(6))])


def test_a_second_run_has_nothing_left_to_do(run: RunCommand, tree: SampleTree) -> None:
    _mixed(tree)
    clean(run, tree)
    again = clean(run, tree)
    assert (again.code, again.last["sessions_cleaned"], again.last["bytes_freed"]) == (0, 0, 0)


def test_leftovers_of_an_earlier_run_are_finished(run: RunCommand, tree: SampleTree) -> None:
    trash = tree.sessions.parent / ".trash"
    promoted = tree.workstreams / "blog"
    write(trash / "gone.20260101T000000Z.0123abcd" / "work" / "f", 100)
    write(promoted / ".trash" / "old.20260101T000000Z.0123abcd" / "f", 10)
    write(promoted / "sessions" / ".trash" / "old.20260101T000000Z.0123abcd" / "f", 1)
    write(promoted / ".trash" / "not-ours" / "f", 7)
    done = clean(run, tree)
    assert (done.code, done.last["bytes_freed"]) == (0, 111)
    assert not trash.exists()
    assert not (promoted / "sessions" / ".trash").exists()
    assert os.listdir(promoted / ".trash") == ["not-ours"]


def test_a_session_that_a_killed_run_left_pending_is_moved_back_and_decided_anew(run: RunCommand, tree: SampleTree) -> None:
    for name, age in (("used", 1), ("unused", 30)):
        tree.session(name, files={"f": 5}, age_days=age)
        (tree.sessions.parent / ".trash").mkdir(exist_ok=True)
        (tree.sessions / name).rename(tree.sessions.parent / ".trash" / f"held.{name}.20260101T000000Z.0123abcd")
    locked = os.open(tree.sessions.parent / ".trash" / "held.unused.20260101T000000Z.0123abcd", os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)  # as a run with another state directory, which is removing it
    done = clean(run, tree)
    assert (done.code, done.reasons()) == (0, {"used": "recent_files"})
    assert "unused stays pending" in done.stderr
    os.close(locked)
    done = clean(run, tree)
    assert done.reasons() == {"used": "recent_files", "unused": "expired"}
    assert os.listdir(tree.sessions) == ["used"]


def test_two_hundred_sessions_are_cleaned_while_a_server_appends_turns_and_rows(run: RunCommand, tree: SampleTree) -> None:
    for number in range(200):
        tree.session(f"s{number}", files={"f": 10}, age_days=30)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tree.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert writer.stdout
    os.read(writer.stdout.fileno(), 6)
    done = clean(run, tree)
    printed, _ = writer.communicate("stop\n")
    turned = set(printed.split())
    left = set(os.listdir(tree.sessions))
    assert done.code == 0, done.stderr
    assert "s0" in turned
    assert turned <= left
    assert done.removed() == {f"s{number}" for number in range(200)} - left
    assert done.last["sessions_checked"] == 200


_WRITER = """
import os, sqlite3, sys, threading, time
from pathlib import Path
from tests.support.tree import SampleTree
tree = SampleTree.__new__(SampleTree)
tree.root = Path(sys.argv[1]); tree.now = time.time_ns(); tree.workstreams = tree.root / "workstreams"
tree.database = tree.root / "workstreams.db"
sessions = tree.workstreams / "scratch" / "sessions"
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
turned, number = set(), 0
while not stop.is_set():
    name = f"s{number % 200}"
    tree.turn(name, time.time_ns())
    tree.session_row(f"other-{number}", time.time_ns())
    if (sessions / name).is_dir():  # it exists after its turn was written, so it must stay
        turned.add(name)
    if number == 0:
        os.write(1, b"ready\\n")
    number += 1
    stop.wait(0.005)
print(*turned)
"""


def test_sigterm_ends_between_two_sessions_and_tells_what_was_done(environment: dict[str, str], tree: SampleTree) -> None:
    for number in range(100):
        tree.session(f"s{number:03}", files={f"f{index}": 1 for index in range(30)}, age_days=30)
    process = subprocess.Popen(
        [str(COMMAND), "scratch-cleanup", "--base-path", str(tree.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout
    first = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    done = Run(0, first + process.stdout.read(), "")
    assert process.wait(timeout=30) == 143
    assert done.last["type"] == "scratch_cleanup"
    left = set(os.listdir(tree.sessions))
    assert done.removed() == {f"s{number:03}" for number in range(100)} - left
    assert all(len(os.listdir(tree.sessions / name / "work")) == 30 for name in left)


@needs_root
def test_a_run_as_root_leaves_a_trash_that_its_owner_can_use(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    os.chown(tree.sessions.parent, 65534, 65534)
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 3\n")
    assert clean(run, tree, "--config", config).last["bytes_freed"] == 0
    assert (tree.sessions.parent / ".trash").stat().st_uid == 65534


@needs_namespaces
def test_both_modes_on_the_tree_of_another_say_whose_it_is_and_promise_nothing(run: RunCommand) -> None:
    with tree_of_owner() as tree:
        tree.session("old", files={"f": 1}, age_days=30)
        tree.session("new", files={"f": 1}, age_days=1)
        give(tree.root)
        give(tree.root.parent / "state", THIRD)
        before = snapshot(tree.root)
        config = ("--config", tree.root.parent / "config.toml")
        dry, real = (clean(run, tree, *words, *config, prefix=as_account(THIRD)) for words in (("--dry-run",), ()))
        for done in (dry, real):
            assert (done.code, done.reasons(), done.sessions("failed")) == (1, {"old": "not_permitted", "new": "recent_files"}, set())
            (line,) = (line for line in done.stderr.splitlines() if "no permission to change" in line)
            assert line.startswith(f"WARNING: this account has no permission to change {tree.sessions} or its trash (Permission denied)")
            assert line.endswith(f"it belongs to {OWNER_NAME}: run this as that account, or with sudo")
        assert snapshot(tree.root) == before
        assert clean(run, tree, "--dry-run", *config, prefix=READABLE).removed() == {"old"}


@needs_setpriv
@pytest.mark.parametrize("closed", ["sessions/closed", ".trash"])
def test_a_dry_run_tells_of_each_session_that_could_not_be_moved(run: RunCommand, tree: SampleTree, closed: str) -> None:
    for name in ("closed", "open"):
        tree.session(name, files={"f": 1}, age_days=30)
    (tree.sessions.parent / ".trash").mkdir(mode=0o755)
    give(tree.sessions.parent / closed)
    dry, real = (clean(run, tree, *words, prefix=WITHOUT_FILE_POWERS) for words in (("--dry-run",), ()))
    assert dry.code == real.code == 1
    assert dry.reasons() == real.reasons()
    assert dry.reasons()["closed"] == "not_permitted"
    assert dry.removed() == real.removed() == (set() if closed == ".trash" else {"open"})
    assert ["can remove nothing" in done.stderr for done in (dry, real)] == [closed == ".trash"] * 2


@needs_namespaces
def test_a_dry_run_on_a_disk_that_is_mounted_read_only_promises_nothing(run: RunCommand, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    for name in ("used", "expired"):
        write(tree.sessions.parent / ".trash" / f"{name}.20260101T000000Z.0123abcd" / "f", 50)
    tree.turn("used", tree.ago(1))
    read_only = ("unshare", "--mount", "sh", "-c", f'mount --bind -o ro {tree.root} {tree.root} && exec "$@"', "sh")
    for words in (("--dry-run",), ()):
        done = clean(run, tree, *words, prefix=read_only)
        assert (done.code, done.reasons(), "Read-only file system" in done.stderr) == (1, {"old": "not_permitted"}, True)
        assert (done.last["bytes_freed"], done.last["sessions_restored"], done.last["failure_count"]) == (0, 0, 2)


def test_a_trash_that_is_a_link_fails_the_same_way_in_both_modes(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    (tree.root / "elsewhere").mkdir()
    (tree.sessions.parent / ".trash").symlink_to(tree.root / "elsewhere")
    for arguments in (("--dry-run",), ()):
        done = clean(run, tree, *arguments)
        assert (done.code, done.events) == (78, [])
    assert (tree.sessions / "s" / "work" / "f").exists()


def test_the_removal_limit_stops_the_purge_too(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    write(tree.sessions.parent / ".trash" / "gone.20260101T000000Z.0123abcd" / "f", 50)
    for name in ("a", "b"):
        tree.session(name, files={"f": 1}, age_days=30)
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\nmax_sessions = 1\n")
    done = clean(run, tree, "--config", config)
    assert (done.code, done.last["bytes_freed"], done.last["trash_bytes"]) == (77, 0, 50)


@pytest.mark.parametrize("days", [-300, -1, 36, 1000])
@pytest.mark.parametrize("force", [False, True])
def test_a_clock_that_went_wrong_is_refused_once_and_nothing_is_removed_or_purged(tree: SampleTree, days: int, force: bool) -> None:
    from tests.support.in_process import cleaned

    cleaned(tree)
    write(tree.sessions.parent / ".trash" / "gone.20200101T000000Z.0123abcd" / "f", 50)
    tree.session("s", files={"f": 1}, age_days=3000)
    boot = tree.now
    tree.now += days * DAY
    if not force:
        for dry_run in (True, True, False):
            with pytest.raises(RefusedError, match="ages cannot be trusted"):
                cleaned(tree, dry_run=dry_run, boot=boot)
        assert (os.listdir(tree.sessions), len(os.listdir(tree.sessions.parent / ".trash"))) == (["s"], 1)
    assert cleaned(tree, force=force, boot=boot)[0].sessions_cleaned == 1
    assert cleaned(tree, boot=boot)[0].sessions_cleaned == 0
    assert not (tree.sessions.parent / ".trash").exists()


@needs_faketime
def test_a_clock_of_the_machine_that_is_three_years_ahead_is_refused_once_with_77(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=1)
    ahead = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+1095d"}
    assert clean(run, tree).code == 0
    for arguments, boot in ((("--dry-run",), {}), (("--dry-run",), {"DONT_FAKE_MONOTONIC": "1"}), ((), {"DONT_FAKE_MONOTONIC": "1"})):
        done = clean(run, tree, *arguments, prefix=(), **ahead, **boot)
        assert (done.code, done.stdout, done.stderr.count("\n")) == (77, "", 1)
        assert "the clock went forward by 1,095.0 days" in done.stderr
    assert [clean(run, tree).code, clean(run, tree).code] == [0, 0]
    assert os.listdir(tree.sessions) == ["s"]


def test_a_dry_run_notes_no_time_and_makes_no_state(tree: SampleTree) -> None:
    from tests.support.in_process import cleaned

    cleaned(tree, dry_run=True)
    assert not (tree.root.parent / "state").exists()


@needs_setpriv
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_state_out_of_reach_says_what_to_do(run: RunCommand, tree: SampleTree, tmp_path: Path, mode: int) -> None:
    """The directory is this account's own, with a mode or on a disk that keeps it from writing."""
    state = tmp_path / "state"
    state.mkdir(mode=mode)
    done = clean(run, tree, prefix=WITHOUT_FILE_POWERS, STATE_DIRECTORY=str(state))
    assert done.code == 0
    lines = done.stderr.splitlines()
    assert lines[-1].endswith("or run arawn-cli doctor): this run is not recorded")
    assert [line for line in lines if "state_dir" not in line] == []


def test_state_that_cannot_be_written_is_a_warning(run: RunCommand, tree: SampleTree) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    done = clean(run, tree, STATE_DIRECTORY="/proc/none")
    assert (done.code, done.removed()) == (0, {"s"})
    said = "WARNING: the state in /proc/none cannot be used: No such file or directory "
    assert done.stderr.startswith(f"{said}(name another directory with [maintenance] state_dir, or run arawn-cli doctor): ")
