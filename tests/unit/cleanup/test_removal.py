"""Removing sessions: what happens between the plan and the rename, and after it."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.cleanup import job, removal, sessions
from arawn_cli.cleanup.sessions import KEEP_FILE, ScratchSession, SessionsDirectory
from arawn_cli.cli.demo import set_age
from arawn_cli.events import Reason
from arawn_cli.fs import measure
from arawn_cli.fs.in_use import Use
from arawn_cli.timestamps import DAY
from tests.conftest import Run, needs_namespaces
from tests.support.disturbance import disturb
from tests.support.errors import os_error
from tests.support.in_process import cleaned
from tests.support.tree import SampleTree, write

# ---- Use between the plan and the removal


def test_a_turn_after_planning_keeps_the_session(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    disturb(monkeypatch, lambda _name: tree.turn("s", time.time_ns()))
    summary, _ = cleaned(tree)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    assert (tree.sessions / "s" / "work" / "f").exists()


@pytest.mark.parametrize("evidence", ["turn", "row", "file"])
def test_use_between_the_last_check_and_the_rename_puts_the_session_back(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, evidence: str
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    tree.session_row("s", tree.ago(30))

    def use(name: str) -> None:
        if not name.startswith("held.s."):
            return
        if evidence == "turn":
            tree.turn("s", time.time_ns())
        elif evidence == "row":
            tree.session_row("s", tree.ago(30), time.time_ns())
        else:
            (tree.sessions.parent / ".trash" / name / "work" / "f").write_text("late")

    disturb(monkeypatch, use)
    summary, _ = cleaned(tree)
    assert (summary.sessions_kept, summary.bytes_freed) == ({"changed_since_plan": 1}, 0)
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.mark.parametrize("place", ["", "work"])
@pytest.mark.parametrize(("renamed", "dry_run"), [(False, True), (False, False), (True, False)])
def test_a_keep_file_with_an_old_time_that_comes_after_listing_protects_the_session(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, place: str, *, renamed: bool, dry_run: bool
) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)

    def restore(directory: Path) -> None:
        (directory / "work" / "f").rename(directory / place / KEEP_FILE)
        set_age(directory, tree.ago(30))

    if renamed:
        disturb(monkeypatch, lambda name: restore(tree.sessions.parent / ".trash" / name) if name != "s" else None)
    else:
        original = sessions.list_sessions

        def list_and_restore(directory: SessionsDirectory) -> list[ScratchSession]:
            listed = original(directory)
            restore(session)
            return listed

        monkeypatch.setattr(job, "list_sessions", list_and_restore)
    summary, _ = cleaned(tree, dry_run=dry_run)
    assert summary.sessions_kept == {"protected": 1}
    assert (session / place / KEEP_FILE).exists()


def test_a_file_that_is_written_long_after_the_plan_keeps_the_session_in_its_place(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    disturb(monkeypatch, lambda _name: (session / "work" / "late").touch())
    monkeypatch.setattr(removal, "_FRESH", -1)
    monkeypatch.setattr(os, "rename", None)
    assert cleaned(tree)[0].sessions_kept == {"changed_since_plan": 1}
    assert (session / "work" / "late").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_trees_and_mounts_are_not_read_for_each_session(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, *, dry_run: bool) -> None:
    monkeypatch.setattr(removal, "_FRESH", DAY)
    calls: Counter[str] = Counter()

    def counted(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counting(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, counting)

    for module, name in ((removal, "measure_all"), (sessions, "mount_points"), (removal, "find_uses"), (sessions, "is_same_directory")):
        counted(module, name)
    counts: list[Counter[str]] = []
    for number in (1, 20):
        for name in (f"planned-{index}" for index in range(number)):
            tree.session(name, files={"f": 1}, age_days=30)
        calls.clear()
        summary = cleaned(tree, dry_run=dry_run)[0]
        assert (summary.sessions_cleaned, summary.sessions_kept) == (number, {})
        counts.append(calls.copy())
        for name in os.listdir(tree.sessions):
            shutil.rmtree(tree.sessions / name)
    assert counts[0] == counts[1]


def test_a_session_recreated_while_it_is_pending_is_lost_on_neither_side(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def recreate(name: str) -> None:
        if name.startswith("held."):
            tree.turn("s", time.time_ns())
            write(tree.sessions / "s" / "work" / "new", 2)

    disturb(monkeypatch, recreate)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.operation for failure in summary.failures]) == (0, ["rename"])
    monkeypatch.undo()
    again, _ = cleaned(tree)
    assert [failure.operation for failure in again.failures] == ["rename"]
    pending = os.listdir(tree.sessions.parent / ".trash")
    assert len(pending) == 1
    assert (tree.sessions.parent / ".trash" / pending[0] / "work" / "f").exists()
    assert (tree.sessions / "s" / "work" / "new").exists()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_session_replaced_after_planning_stays(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, kind: str, *, dry_run: bool) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    original = removal.SessionRemover._lock

    def replace(self: removal.SessionRemover, candidate: removal.Candidate, resources: ExitStack) -> object:
        (tree.sessions / "s").rename(tree.root / "elsewhere")
        if kind == "link":
            (tree.sessions / "s").symlink_to(tree.root / "elsewhere")
        else:
            tree.session("s", files={"other": 1}, age_days=30)
        return original(self, candidate, resources)

    monkeypatch.setattr(removal.SessionRemover, "_lock", replace)
    summary, _ = cleaned(tree, dry_run=dry_run)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    assert (tree.root / "elsewhere" / "work" / "f").exists()
    assert (tree.sessions / "s").exists()


def test_a_session_replaced_by_a_copy_right_before_the_rename_is_put_back(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the inode tells that the copy is not the session that was locked and checked."""
    session = tree.session("s", files={"f": 1}, age_days=30)

    def replace(name: str) -> None:
        if name == "s":
            shutil.copytree(session, tree.root / "copy")
            session.rename(tree.root / "elsewhere")
            (tree.root / "copy").rename(session)

    disturb(monkeypatch, replace)
    summary, _ = cleaned(tree)
    assert summary.sessions_kept == {"changed_since_plan": 1}
    assert (session / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.mark.parametrize("step", ["_lock", "_recheck"])
def test_a_run_that_has_no_descriptor_left_leaves_the_session_in_its_place_and_says_so(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    original = getattr(removal.SessionRemover, step)

    def without_descriptors(*arguments: object, **options: object) -> object:
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
        try:
            return original(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)

    monkeypatch.setattr(removal.SessionRemover, step, without_descriptors)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.errno for failure in summary.failures]) == (0, [errno.EMFILE])
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


def test_a_signal_before_the_first_rename_leaves_every_session_to_the_next_run(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    checked: list[str] = []
    disturb(monkeypatch, checked.append)
    summary, events = cleaned(tree, stopping=lambda: bool(checked))
    assert (summary.sessions_cleaned, sorted(checked)) == (0, ["s", "t"])
    assert [event.type for event in events] == ["scratch_cleanup"]
    assert "stopped by a signal; inactive sessions left for the next run: 2" in told.text
    assert sorted(os.listdir(tree.sessions)) == ["s", "t"]
    assert os.listdir(tree.sessions.parent) == ["sessions"]


def test_a_signal_between_two_renames_puts_the_first_session_back_and_the_next_run_removes_both(
    tree: SampleTree, told: pytest.LogCaptureFixture
) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    moved: list[Path] = []

    def stopping() -> bool:
        moved.extend(tree.sessions.parent.glob(".trash/*"))
        return bool(moved)

    summary, _ = cleaned(tree, stopping=stopping)
    assert (summary.sessions_cleaned, summary.sessions_checked, len(set(moved))) == (0, 0, 1)
    assert all((tree.sessions / name / "work" / "f").exists() for name in ("s", "t"))
    assert "stopped by a signal; inactive sessions left for the next run: 2" in told.text
    cleaned(tree)
    assert os.listdir(tree.sessions) == []
    assert not (tree.sessions.parent / ".trash").exists()


def test_a_deletion_that_a_signal_ends_claims_no_bytes_and_the_next_run_completes_it(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "native", None)  # C may delete so small a tree before it sees the signal
    tree.session("s", files={"f": 100}, age_days=30)
    begun: list[Path] = []

    def stopping() -> bool:
        begun.extend(tree.sessions.parent.glob(".trash/gone.*"))
        return bool(begun)

    summary, _ = cleaned(tree, stopping=stopping)
    assert (summary.cleaned_session_ids, summary.bytes_freed) == (("s",), 0)
    assert cleaned(tree)[0].bytes_freed == 100


def test_a_session_that_was_deleted_in_part_is_not_put_back(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "native", None)
    tree.session("s", files={"f": 100, "g": 10}, age_days=30)
    original = os.unlink

    def unlink(name: str, *, dir_fd: int | None = None) -> None:
        if name == "g":
            raise os_error(errno.EIO)
        original(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, summary.bytes_freed, {failure.errno for failure in summary.failures}) == (0, 100, {errno.EIO})
    assert os.listdir(tree.sessions) == []
    monkeypatch.undo()
    assert cleaned(tree)[0].bytes_freed == 10


def test_a_scratch_promoted_after_planning_keeps_its_sessions(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    promoted = tree.workstreams / "promoted"

    def promote(name: str) -> None:
        if name == "s" and not promoted.exists():
            (tree.workstreams / "scratch").rename(promoted)
            tree.sessions.mkdir(parents=True)

    disturb(monkeypatch, promote)
    summary, _ = cleaned(tree)
    assert summary.sessions_cleaned == 0
    assert (promoted / "sessions" / "s" / "work" / "f").exists()


@needs_namespaces
def test_sessions_on_a_mount_of_their_own_have_their_trash_inside(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 1\n")
    mount = f"mount -t tmpfs -o mode=755 tmpfs {tree.sessions} && mkdir -p {tree.sessions}/s/work"
    order = f'{mount} && find {tree.sessions}/s -exec touch -d "30 days ago" {{}} +'
    prefix = ("unshare", "-m", "sh", "-c", f'{order}; "$@"; code=$?; ls -A {tree.sessions} >&2; exit $code', "sh")
    done = run("scratch-cleanup", "--base-path", tree.root, "--config", config, prefix=prefix)
    assert (done.code, done.removed(), done.stderr) == (0, {"s"}, ".trash\n")
    assert not (tree.sessions.parent / ".trash").exists()


@needs_namespaces
def test_a_trash_on_another_filesystem_than_the_sessions_is_refused(run: Callable[..., Run], tree: SampleTree) -> None:
    trash = tree.sessions.parent / ".trash"
    trash.mkdir()
    prefix = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o mode=755 tmpfs {trash} && exec "$@"', "sh")
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=prefix)
    assert (done.code, f"{trash} is a mount" in done.stderr) == (78, True)


@needs_namespaces
def test_a_disk_with_no_free_byte_and_no_free_inode_is_cleaned(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    tree.session("s", files={"f": 5000, "g": 100}, age_days=30)
    mount = tmp_path / "full"
    mount.mkdir()
    fill = (
        f"mount -t tmpfs -o size=256k,nr_inodes=24 tmpfs {mount} && cp -a {tree.root} {mount}/ && "
        f"{{ dd if=/dev/zero of={mount}/filler bs=4k 2>/dev/null; i=0; while touch {mount}/i$i 2>/dev/null; do i=$((i+1)); done; }};"
        f' df --output=avail {mount} >&2; df --output=iavail {mount} >&2; "$@"; code=$?; df --output=iavail {mount} >&2; exit $code'
    )
    done = run("scratch-cleanup", "--base-path", mount / "arawn", prefix=("unshare", "-m", "sh", "-c", fill, "sh"))
    assert (done.code, done.removed()) == (0, {"s"})
    numbers = [int(line) for line in done.stderr.split() if line.isdigit()]
    assert numbers[:2] == [0, 0]
    assert numbers[2] >= 4


def test_a_session_with_the_longest_name_goes(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.session("x" * 255, files={"f": 1}, age_days=30)
    assert run("scratch-cleanup", "--base-path", tree.root).code == 0
    assert os.listdir(tree.sessions) == []


# ---- Failing renames, processes and mounts


@pytest.mark.parametrize(
    ("number", "kept"),
    [(errno.EBUSY, {"mount_inside": 1}), (errno.ENOENT, {"changed_since_plan": 1}), (errno.EIO, {})],
)
def test_a_rename_that_fails_leaves_the_session_in_its_place(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, number: int, kept: dict[str, int]
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def renaming(*_: object, **__: object) -> None:
        raise os_error(number)

    monkeypatch.setattr(os, "rename", renaming)
    summary, _ = cleaned(tree)
    monkeypatch.undo()
    assert (summary.sessions_kept, summary.sessions_cleaned) == (kept, 0)
    assert [failure.operation for failure in summary.failures] == ([] if kept else ["rename"])
    assert (tree.sessions / "s" / "work" / "f").exists()


@pytest.mark.parametrize("scan", [1, 2])
def test_processes_that_cannot_be_read_keep_the_session_whole(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, scan: int) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    scans: list[None] = []

    def find_uses(_parent: int, _sessions: object, _stopping: object) -> dict[str, Use]:
        scans.append(None)
        if len(scans) == scan:
            raise os_error(errno.ENFILE)
        return {}

    monkeypatch.setattr(removal, "find_uses", find_uses)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.errno for failure in summary.failures]) == (0, [errno.ENFILE])
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.mark.parametrize("seen", [Reason.IN_USE, Reason.MOUNT_INSIDE])
def test_what_shows_only_after_the_rename_puts_the_session_back(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, seen: Reason) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def find_uses(_parent: int, sessions: Iterable[str], _stopping: object) -> dict[str, Use]:
        return {name: Use(seen, "what it is") for name in sessions if name != "s"}

    monkeypatch.setattr(removal, "find_uses", find_uses)
    assert cleaned(tree)[0].sessions_kept == {seen: 1}
    assert (tree.sessions / "s" / "work" / "f").exists()


def test_a_mount_that_shows_only_after_planning_keeps_the_session_in_its_place(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tree.session("s", files={"f": 1}, age_days=30)
    monkeypatch.setattr(SessionsDirectory, "mounts_inside", lambda _sessions: {"s": f"{session}/work"})
    monkeypatch.setattr(os, "rename", None)
    assert cleaned(tree)[0].sessions_kept == {"mount_inside": 1}
    assert (session / "work" / "f").exists()


# ---- Another process at the same time


ROUNDS = int(os.environ.get("RACE_ROUNDS", "10"))

_USER = """
import fcntl, json, os, random, sys, threading, time
sessions = sys.argv[1]
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
old = time.time_ns() - 30 * 86_400 * 10**9
chance = random.Random(7)
used, lost_locks, locks, made = [], 0, 0, 0

def file_of(session):
    return os.path.join(session, "work", "f")

def make():
    global made
    made += 1
    top = f"{sessions}/s{made}"
    file = file_of(top)
    os.makedirs(os.path.dirname(file))
    open(file, "w").close()
    for path in (file, os.path.dirname(file), top):
        os.utime(path, ns=(old, old))

for _ in range(30):
    make()
os.write(1, b"ready\\n")
while not stop.is_set():
    if len(os.listdir(sessions)) < 120:
        make()
    name = f"{sessions}/{chance.choice(os.listdir(sessions) or ['none'])}"
    try:
        if chance.random() < 0.5:
            with open(file_of(name), "a") as file:
                file.write("used")
                file.flush()
                own = os.fstat(file.fileno()).st_ino
            # It is in its place after it was used: from now on it must stay.
            if os.stat(file_of(name)).st_ino == own:
                used.append(file_of(name))
        else:
            lock = os.open(name, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(name).st_ino == os.fstat(lock).st_ino:
                    locks += 1
                    time.sleep(0.002)
                    lost_locks += not os.path.exists(name)
            finally:
                os.close(lock)
    except (FileNotFoundError, BlockingIOError):
        pass  # removed, or locked by the cleanup
print(json.dumps({"used": used, "locks": locks, "lost_locks": lost_locks, "made": made}))
"""


def test_nothing_that_is_used_or_locked_is_lost_while_cleanup_runs_in_a_loop(tree: SampleTree) -> None:
    user = subprocess.Popen([sys.executable, "-c", _USER, str(tree.sessions)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout
    os.read(user.stdout.fileno(), 6)
    removed = 0
    for _ in range(ROUNDS):
        tree.now = time.time_ns()
        summary, _ = cleaned(tree)
        assert not summary.failures
        removed += summary.sessions_cleaned
    printed, _ = user.communicate("stop\n")
    result = json.loads(printed)
    assert removed > 0
    assert result["used"]
    assert result["locks"]
    assert [path for path in result["used"] if not os.path.exists(path)] == []
    assert result["lost_locks"] == 0


def test_many_sessions_are_removed_with_few_descriptors(run: Callable[..., Run], tree: SampleTree) -> None:
    for number in range(150):
        tree.session(f"s{number}", files={"f": 1}, age_days=30)
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=("sh", "-c", 'ulimit -n 100; exec "$@"', "sh"))
    assert (done.code, len(done.removed())) == (0, 150)


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 10), st.integers(0, 50))
def test_a_portion_has_few_sessions_and_few_files_or_is_one_session(files: list[int], most: int, most_files: int) -> None:
    portions = list(removal.portions(files, lambda count: count, most, most_files))
    assert [count for portion in portions for count in portion] == files
    assert all(0 < len(portion) <= most and (sum(portion) <= most_files or len(portion) == 1) for portion in portions)
