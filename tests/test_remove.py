"""What happens between the plan and the rename, and after it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from arawn_cli import remove, scratch_cleanup
from arawn_cli.activity import Activity
from arawn_cli.dismantle import take_apart
from arawn_cli.sample_tree import SampleTree, write
from arawn_cli.scratch_session import Decision, ScratchSession
from arawn_cli.trash_names import name_for, parse, settled
from tests.conftest import Run, make_deep, needs_namespaces, needs_root, snapshot
from tests.in_process import cleaned


def apart(top: Path) -> list[str]:
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        return [str(failure) for failure in take_apart(parent, top.name, top.name, lambda: False)]
    finally:
        os.close(parent)


def test_a_tree_with_every_kind_of_file_is_taken_apart(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write(top / "a" / "b" / "c", 10)
    write(top / "a" / "new\nline", 10)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff")).mkdir()
    os.mkfifo(top / "fifo")
    (top / "dangling").symlink_to("nowhere")
    (top / "a" / "readonly").mkdir(mode=0o555)
    assert apart(top) == []
    assert os.listdir(tmp_path) == []


def test_ten_thousand_levels_are_taken_apart(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    make_deep(top, 10_000)
    assert apart(top) == []
    assert os.listdir(tmp_path) == []


def test_a_file_or_link_is_taken_apart_and_a_missing_entry_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path / "file", 3)
    (tmp_path / "link").symlink_to("file")
    assert apart(tmp_path / "link") == apart(tmp_path / "gone") == []
    assert os.listdir(tmp_path) == ["file"]
    assert apart(tmp_path / "file") == []


@needs_root
def test_what_cannot_be_removed_stays_with_what_is_above_it_and_the_rest_goes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in ("a/stuck", "a/free", "b/free"):
        write(top / name, 1)
    subprocess.run(["chattr", "+i", str(top / "a" / "stuck")], check=True)
    try:
        assert apart(top) == ["unlinkat top/a/stuck: Operation not permitted"]
        assert [str(path.relative_to(top)) for path in sorted(top.rglob("*"))] == ["a", "a/stuck"]
    finally:
        subprocess.run(["chattr", "-i", str(top / "a" / "stuck")], check=True)


@needs_root
def test_a_failed_removal_is_reported_with_exit_1_and_tried_again(run: Callable[..., Run], tree: SampleTree) -> None:
    directory = tree.session("s", files={"stuck": 10, "free": 5}, age_days=30)
    inode = (directory / "work" / "stuck").stat().st_ino
    subprocess.run(["chattr", "+i", str(directory / "work" / "stuck")], check=True)
    try:
        for action in ("failed", None):
            done = run("scratch-cleanup", "--base-path", tree.root)
            assert done.code == 1
            failures = done.last["failures"]
            assert isinstance(failures, list)
            assert [(failure["session_id"], failure["errno"], failure["operation"]) for failure in failures] == [("s", 1, "unlinkat")]
            assert done.stderr.count("Operation not permitted") == 1
            assert done.sessions("failed") == ({"s"} if action else set())
            assert done.last["bytes_reclaimed"] == (5 if action else 0)
            assert done.last["sessions_cleaned"] == 0
    finally:
        stuck = next(path for path in tree.root.rglob("stuck") if path.stat().st_ino == inode)
        subprocess.run(["chattr", "-i", str(stuck)], check=True)
    assert run("scratch-cleanup", "--base-path", tree.root).last["bytes_reclaimed"] == 10


def test_a_locked_session_is_skipped_in_both_modes(tree: SampleTree) -> None:
    directory = os.open(tree.session("s", files={"f": 1}, age_days=30), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    for dry_run in (True, False):
        assert cleaned(tree, dry_run=dry_run)[0].sessions_skipped == {"locked": 1}
    os.close(directory)
    assert cleaned(tree)[0].sessions_cleaned == 1


@pytest.mark.parametrize("inside", ["", "work"])
def test_a_session_with_a_process_in_it_is_skipped_in_both_modes(tree: SampleTree, inside: str) -> None:
    directory = tree.session("s", files={"f": 1}, age_days=30)
    process = subprocess.Popen(["sleep", "60"], cwd=directory / inside)
    try:
        for dry_run in (True, False):
            assert cleaned(tree, dry_run=dry_run)[0].sessions_skipped == {"in_use": 1}
    finally:
        process.kill()
        process.wait()
    assert cleaned(tree)[0].sessions_cleaned == 1


@pytest.mark.parametrize("held", ["work/f", "work", "."])
def test_a_session_with_an_open_file_or_directory_in_it_is_skipped(tree: SampleTree, held: str) -> None:
    directory = tree.session("s", files={"f": 1}, age_days=30)
    with subprocess.Popen(["sh", "-c", 'exec 9<"$1"; echo; exec sleep 60', "sh", directory / held], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert cleaned(tree)[0].sessions_skipped == {"in_use": 1}
        process.kill()
    assert (directory / "work" / "f").exists()


@needs_namespaces
def test_a_process_that_sees_the_session_elsewhere_is_found(tree: SampleTree, tmp_path: Path) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    order = f"mount --bind {tree.root} {elsewhere} && cd {elsewhere}/workstreams/scratch/sessions/s/work && echo && exec sleep 60"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", order], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert cleaned(tree)[0].sessions_skipped == {"in_use": 1}
        process.kill()


IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user")
WITHOUT_A_LOOK_INTO_OTHERS = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all")


@needs_namespaces
@pytest.mark.parametrize("prefix", [IN_A_NAMESPACE, WITHOUT_A_LOOK_INTO_OTHERS], ids=["user-namespace", "fewer-powers"])
@pytest.mark.parametrize("mode", ["--dry-run", "--no-dry-run"])
def test_a_run_from_which_the_kernel_hides_what_its_own_account_holds_removes_nothing(
    run: Callable[..., Run], tree: SampleTree, prefix: tuple[str, ...], mode: str
) -> None:
    directory = tree.session("s", files={"f": 1}, age_days=30)
    tree.session("t", files={"f": 1}, age_days=30)
    with subprocess.Popen(["sleep", "60"], cwd=directory) as process:
        done = run("scratch-cleanup", "--base-path", tree.root, mode, prefix=prefix)
        process.kill()
    assert (done.code, done.reasons()) == (1, {"s": "activity_unknown", "t": "activity_unknown"})
    assert done.stderr.count("the kernel hides what it holds") == 1
    assert sorted(os.listdir(tree.sessions)) == ["s", "t"]


@needs_namespaces
def test_a_container_without_powers_over_the_machine_is_cleaned(run: Callable[..., Run], tree: SampleTree) -> None:
    """Its own processes are all that it can have in a session, and it sees them."""
    directory = tree.session("used", files={"f": 1}, age_days=30)
    tree.session("s", files={"f": 1}, age_days=30)
    script = f'(cd {directory} && exec sleep 60) & "$@"; code=$?; kill $!; exit $code'
    prefix = (*IN_A_NAMESPACE, "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh")
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=prefix)
    assert (done.code, done.reasons()) == (0, {"s": "expired", "used": "in_use"})


Look = Callable[[ScratchSession, int, str], Decision]


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Lets something happen right before each look at a session, told the name it has then."""
    original = scratch_cleanup._look_with

    def with_disturbance(activity: Activity) -> Look:
        look: Look = original(activity)

        def disturbed(session: ScratchSession, directory: int, name: str) -> Decision:
            disturbance(name)
            return look(session, directory, name)

        return disturbed

    monkeypatch.setattr(scratch_cleanup, "_look_with", with_disturbance)


def test_a_turn_after_planning_keeps_the_session(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    disturb(monkeypatch, lambda _name: tree.turn("s", time.time_ns()))
    summary, _ = cleaned(tree)
    assert summary.sessions_skipped == {"changed_since_plan": 1}
    assert (tree.sessions / "s" / "work" / "f").exists()


@pytest.mark.parametrize("evidence", ["turn", "row", "file"])
def test_use_between_the_last_look_and_the_rename_puts_the_session_back(
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
    assert (summary.sessions_skipped, summary.bytes_reclaimed) == ({"changed_since_plan": 1}, 0)
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


def test_a_session_recreated_while_it_was_held_is_lost_on_neither_side(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.session("s", files={"f": 1}, age_days=30)

    def recreate(name: str) -> None:
        if name.startswith("held."):
            tree.turn("s", time.time_ns())
            write(tree.sessions / "s" / "work" / "new", 2)

    disturb(monkeypatch, recreate)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.operation for failure in summary.failures]) == (0, ["renameat"])
    monkeypatch.undo()
    again, _ = cleaned(tree)
    assert [failure.operation for failure in again.failures] == ["renameat"]
    held = os.listdir(tree.sessions.parent / ".trash")
    assert len(held) == 1
    assert (tree.sessions.parent / ".trash" / held[0] / "work" / "f").exists()
    assert (tree.sessions / "s" / "work" / "new").exists()


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_session_replaced_after_planning_stays(tree: SampleTree, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    original = remove.Remover._examine

    def replace(self: remove.Remover, session: ScratchSession, stack: ExitStack) -> object:
        (tree.sessions / "s").rename(tree.root / "elsewhere")
        if kind == "link":
            (tree.sessions / "s").symlink_to(tree.root / "elsewhere")
        else:
            tree.session("s", files={"other": 1}, age_days=30)
        return original(self, session, stack)

    monkeypatch.setattr(remove.Remover, "_examine", replace)
    summary, _ = cleaned(tree)
    assert summary.sessions_skipped == {"changed_since_plan": 1}
    assert (tree.root / "elsewhere" / "work" / "f").exists()
    assert (tree.sessions / "s").exists()


@pytest.mark.parametrize("step", ["_examine", "_settle"])
def test_a_run_that_has_no_descriptor_left_leaves_the_session_in_its_place_and_says_so(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    original = getattr(remove.Remover, step)

    def without_descriptors(*arguments: object) -> object:
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
        try:
            return original(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)

    monkeypatch.setattr(remove.Remover, step, without_descriptors)
    summary, _ = cleaned(tree)
    assert (summary.sessions_cleaned, [failure.errno for failure in summary.failures]) == (0, [errno.EMFILE])
    assert (tree.sessions / "s" / "work" / "f").exists()
    assert not (tree.sessions.parent / ".trash").exists()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The package's records, which a command in the same process may have turned away from the root."""
    logging.getLogger("arawn_cli").propagate = True
    caplog.set_level(logging.WARNING, "arawn_cli")
    return caplog


def test_a_signal_before_the_first_rename_leaves_every_session_to_the_next_run(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    looked: list[str] = []
    disturb(monkeypatch, looked.append)
    summary, events = cleaned(tree, stopping=lambda: bool(looked))
    assert (summary.sessions_cleaned, len(looked)) == (0, 1)
    assert [event.type for event in events] == ["scratch_cleanup"]
    assert "stopped by a signal; inactive sessions left for the next run: 2" in told.text
    assert sorted(os.listdir(tree.sessions)) == ["s", "t"]
    assert os.listdir(tree.sessions.parent) == ["sessions"]


def test_a_signal_between_two_renames_leaves_the_second_session_whole_and_the_next_run_ends_both(
    tree: SampleTree, told: pytest.LogCaptureFixture
) -> None:
    for name in ("s", "t"):
        tree.session(name, files={"f": 1}, age_days=30)
    summary, _ = cleaned(tree, stopping=lambda: any(tree.sessions.parent.glob(".trash/*")))
    assert (summary.cleaned_session_ids, summary.bytes_reclaimed) == (("s",), 0)
    assert (tree.sessions / "t" / "work" / "f").exists()
    assert "stopped by a signal; inactive sessions left for the next run: 1" in told.text
    cleaned(tree)
    assert os.listdir(tree.sessions) == []
    assert not (tree.sessions.parent / ".trash").exists()


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
@pytest.mark.parametrize("mount", ["mount -t tmpfs tmpfs {inside}", "mount --bind {outside} {inside}"])
def test_a_session_with_a_mount_inside_is_skipped_whole(run: Callable[..., Run], tree: SampleTree, mount: str) -> None:
    directory = tree.session("s", files={"f": 1, "mnt/x": 1}, age_days=30)
    tree.session("t", files={"f": 1}, age_days=30)
    outside = tree.root / "outside"
    write(outside / "precious", 10)
    before = snapshot(outside)
    order = mount.format(inside=directory / "work" / "mnt", outside=outside)
    for arguments in (("--dry-run",), ()):
        prefix = ("unshare", "-m", "sh", "-c", f'{order}; exec "$@"', "sh")
        done = run("scratch-cleanup", "--base-path", tree.root, *arguments, prefix=prefix)
        assert done.reasons()["s"] == "mount_inside", done.stderr
    assert (directory / "work" / "f").exists()
    assert {**snapshot(outside), str(outside / "."): 0} == {**before, str(outside / "."): 0}
    assert done.sessions("deleted") == {"t"}


@needs_namespaces
def test_sessions_on_a_mount_of_their_own_have_their_trash_inside(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 1\n")
    mount = f"mount -t tmpfs -o mode=755 tmpfs {tree.sessions} && mkdir -p {tree.sessions}/s/work"
    order = f'{mount} && find {tree.sessions}/s -exec touch -d "30 days ago" {{}} +'
    prefix = ("unshare", "-m", "sh", "-c", f'{order}; "$@"; code=$?; ls -A {tree.sessions} >&2; exit $code', "sh")
    done = run("scratch-cleanup", "--base-path", tree.root, "--config", config, prefix=prefix)
    assert (done.code, done.sessions("deleted"), done.stderr) == (0, {"s"}, ".trash\n")
    assert not (tree.sessions.parent / ".trash").exists()


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
    assert (done.code, done.sessions("deleted")) == (0, {"s"})
    numbers = [int(line) for line in done.stderr.split() if line.isdigit()]
    assert numbers[:2] == [0, 0]
    assert numbers[2] >= 4


def test_names_in_the_trash_tell_session_and_time() -> None:
    second = 1_700_000_000_000_000_000
    entry = parse(("scratch", ".trash"), name_for("a-b_c", second))
    assert entry is not None
    assert (entry.session, entry.removed_at, entry.held) == ("a-b_c", second, True)
    released = parse(("scratch", ".trash"), settled(entry.name))
    assert released is not None
    assert (released.session, released.held) == ("a-b_c", False)


def test_a_name_too_long_for_the_trash_is_cut_and_marked() -> None:
    name = name_for("x" * 255, 0)
    assert len(name) <= 255
    entry = parse((), name)
    assert entry is not None
    assert entry.session.endswith("+")


@pytest.mark.parametrize(
    "name", ["a", ".trash", "a.b.c", "a.20260101T000000Z.xyz", "a.99999999T999999Z.01234567", "held.held.a.20260101T000000Z.01234567"]
)
def test_other_names_in_the_trash_are_not_ours(name: str) -> None:
    assert parse((), name) is None


def test_a_session_with_the_longest_name_goes(run: Callable[..., Run], tree: SampleTree) -> None:
    tree.session("x" * 255, files={"f": 1}, age_days=30)
    assert run("scratch-cleanup", "--base-path", tree.root).code == 0
    assert os.listdir(tree.sessions) == []


@needs_namespaces
def test_a_mount_made_through_another_path_of_the_tree_is_seen(run: Callable[..., Run], tree: SampleTree, tmp_path: Path) -> None:
    directory = tree.session("s", files={"f": 1, "m/x": 1}, age_days=30)
    other, outside = tmp_path / "other", tmp_path / "outside"
    other.mkdir()
    write(outside / "precious", 1)
    order = f"mount --bind {tree.root} {other} && mount --make-rprivate / && mount --bind {outside} {directory / 'work' / 'm'}"
    prefix = ("unshare", "-m", "sh", "-c", f'{order}; exec "$@"', "sh")
    done = run("scratch-cleanup", "--base-path", other, prefix=prefix)
    assert done.reasons() == {"s": "mount_inside"}, done.stderr
    assert (directory / "work" / "f").exists()
