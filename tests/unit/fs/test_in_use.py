"""Sessions with locks, processes, open files or mounts inside, as far as the kernel shows them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from arawn_cli.errors import StoppedError
from arawn_cli.fs import in_use
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.processes import Task, Tasks
from tests.conftest import Run, needs_namespaces, needs_setpriv, needs_user_namespaces, snapshot
from tests.support.in_process import cleaned
from tests.support.relay_fixtures import wait_until
from tests.support.tree import SampleTree, write


def test_a_locked_session_is_kept_in_both_modes(tree: SampleTree) -> None:
    directory = os.open(tree.session("s", files={"f": 1}, age_days=30), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    for dry_run in (True, False):
        assert cleaned(tree, dry_run=dry_run)[0].sessions_kept == {"locked": 1}
    os.close(directory)
    assert cleaned(tree)[0].sessions_cleaned == 1


@pytest.mark.parametrize("inside", ["", "work"])
def test_a_session_with_a_process_in_it_is_kept_in_both_modes(tree: SampleTree, inside: str) -> None:
    directory = tree.session("s", files={"f": 1}, age_days=30)
    process = subprocess.Popen(["sleep", "60"], cwd=directory / inside)
    try:
        for dry_run in (True, False):
            assert cleaned(tree, dry_run=dry_run)[0].sessions_kept == {"in_use": 1}
    finally:
        process.kill()
        process.wait()
    assert cleaned(tree)[0].sessions_cleaned == 1


@pytest.mark.parametrize("opened", ["work/f", "work", "."])
def test_a_session_with_an_open_file_or_directory_in_it_is_kept(tree: SampleTree, opened: str) -> None:
    directory = tree.session("s", files={"f": 1}, age_days=30)
    with subprocess.Popen(["sh", "-c", 'exec 9<"$1"; echo; exec sleep 60', "sh", directory / opened], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert cleaned(tree)[0].sessions_kept == {"in_use": 1}
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
        assert cleaned(tree)[0].sessions_kept == {"in_use": 1}
        process.kill()


IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user")
WITHOUT_PTRACE = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all")


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(IN_A_NAMESPACE, marks=needs_user_namespaces, id="user-namespace"),
        pytest.param(WITHOUT_PTRACE, marks=needs_setpriv, id="fewer-powers"),
    ],
)
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
    assert done.stderr.count("the kernel hides the open files of ") == 1
    assert sorted(os.listdir(tree.sessions)) == ["s", "t"]


@needs_user_namespaces
def test_a_container_without_powers_over_the_machine_is_cleaned(run: Callable[..., Run], tree: SampleTree) -> None:
    """Its own processes are all that it can have in a session, and it sees them."""
    directory = tree.session("used", files={"f": 1}, age_days=30)
    tree.session("s", files={"f": 1}, age_days=30)
    script = f'(cd {directory} && exec sleep 60) & "$@"; code=$?; kill $!; exit $code'
    prefix = (*IN_A_NAMESPACE, "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh")
    done = run("scratch-cleanup", "--base-path", tree.root, prefix=prefix)
    assert (done.code, done.reasons()) == (0, {"s": "expired", "used": "in_use"})


PROCS = {
    "of another PID namespace": ("unshare", "--pid", "--fork"),
    "of processes alone": ("unshare", "--mount", "sh", "-c", 'mount -t proc -o subset=pid p /proc && exec "$@"', "sh"),
    "none": ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"),
}


@needs_namespaces
@pytest.mark.parametrize("proc", PROCS)
def test_a_run_with_another_proc_sees_the_processes_in_it(run: Callable[..., Run], tree: SampleTree, proc: str) -> None:
    directory = tree.session("used", files={"f": 1}, age_days=30)
    tree.session("s", files={"f": 1}, age_days=30)
    with subprocess.Popen(["sleep", "60"], cwd=directory) as user:
        done = run("scratch-cleanup", "--base-path", tree.root, prefix=PROCS[proc])
        user.kill()
    assert (done.code, done.reasons()) == ((1, {}) if proc == "none" else (0, {"s": "expired", "used": "in_use"})), done.stderr
    assert (tree.sessions / "s").exists() is (proc == "none")


@needs_namespaces
@pytest.mark.parametrize("mount", ["mount -t tmpfs tmpfs {inside}", "mount --bind {outside} {inside}"])
def test_a_session_with_a_mount_inside_is_kept_whole(run: Callable[..., Run], tree: SampleTree, mount: str) -> None:
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
    assert done.removed() == {"t"}


@needs_namespaces
@pytest.mark.parametrize("used", [False, True], ids=["", "in-use"])
def test_a_mount_made_through_another_path_is_the_reason_even_if_a_process_uses_the_session(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path, used: bool
) -> None:
    directory = tree.session("s", files={"f": 1, "m/x": 1}, age_days=30)
    other, outside = tmp_path / "other", tmp_path / "outside"
    other.mkdir()
    write(outside / "precious", 1)
    mounts = f"mount --bind {tree.root} {other} && mount --make-rprivate / && mount --bind {outside} {directory / 'work' / 'm'}"
    process = f"cd {directory if used else '/'} && exec sleep 60"
    prefix = ("unshare", "-m", "sh", "-c", f'{mounts}; ({process}) & "$@"; code=$?; kill $!; exit $code', "sh")
    done = run("scratch-cleanup", "--base-path", other, prefix=prefix)
    assert done.reasons() == {"s": "mount_inside"}, done.stderr
    assert (directory / "work" / "f").exists()


# An account without other processes: a hidden one of a parallel test would count, too.
ACCOUNT = 64_000 + os.getpid() % 1_000
WITH_A_POWER = ("setpriv", f"--reuid={ACCOUNT}", "--clear-groups", "--inh-caps=+wake_alarm", "--ambient-caps=+wake_alarm")
BECOMES_VISIBLE = "echo; read -r line; exec setpriv --inh-caps=-all --ambient-caps=-all sleep 60"
SCAN = """
import os, sys
from arawn_cli.fs import in_use, processes

sessions = os.open(sys.argv[1], os.O_RDONLY)
in_use.find_uses(sessions, [])  # loads all of it, as long as this account may read it
os.setgroups([])
os.setresuid(*[int(sys.argv[3])] * 3)

def nap(_seconds):
    print("hidden", flush=True)
    sys.stdin.readline()

processes.SETTLING_SECS = float(sys.argv[4])
processes.time.sleep = nap
print("in use" if in_use.find_uses(sessions, [sys.argv[2]]) else "free")
"""


@contextmanager
def talking_to(*command: object, directory: Path) -> Iterator[tuple[int, IO[str], IO[str]]]:
    """The number, input and output of a process, which ends with the context."""
    with subprocess.Popen([*map(str, command)], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.pid, process.stdin, process.stdout
        finally:
            process.kill()


@needs_setpriv
def test_a_process_that_is_hidden_for_a_moment_is_read_once_it_is_not(tmp_path: Path) -> None:
    """As is a child of a service manager that has powers, until it is what it was made for."""
    tmp_path.chmod(0o755)
    scan = (sys.executable, "-c", SCAN, tmp_path.parent, tmp_path.name, ACCOUNT, 3600)
    with talking_to(*WITH_A_POWER, "sh", "-c", BECOMES_VISIBLE, directory=tmp_path) as (process, stdin, stdout):
        assert stdout.readline() == "\n"
        with talking_to(*scan, directory=Path("/")) as (_, scan_stdin, scan_stdout):
            assert scan_stdout.readline() == "hidden\n"
            print(file=stdin, flush=True)
            wait_until(lambda: "\nCapPrm:\t0000000000000000\n" in Path(f"/proc/{process}/status").read_text())
            print(file=scan_stdin, flush=True)
            assert scan_stdout.readline() == "in use\n"


GUARDED = """
import ctypes, os, sys, time
os.setgroups([])
os.setresuid(*[int(sys.argv[1])] * 3)
ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
print(flush=True)
time.sleep(60)
"""


@needs_setpriv
@pytest.mark.parametrize("argument", ["--in=/a/session/work", "another-session"])
def test_a_process_that_guards_itself_keeps_what_its_command_line_names(tmp_path: Path, argument: str) -> None:
    session = tmp_path / "session"
    session.mkdir()
    tmp_path.chmod(0o755)
    with talking_to(sys.executable, "-c", GUARDED, ACCOUNT, argument, directory=session) as (_, _, ready):
        assert ready.readline() == "\n"
        with talking_to(sys.executable, "-c", SCAN, tmp_path, "session", ACCOUNT, 0.0, directory=Path("/")) as (_, _, answer):
            assert answer.readline() == ("in use\n" if "/session/" in argument else "free\n")


def test_a_process_that_ends_while_it_is_inspected_leaves_no_descriptor_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its directory is there, and those of its descriptors are not.
    ended = Task(os.getpid(), "self/ns", os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/self/ns/net"), "/")
    monkeypatch.setattr(in_use, "list_tasks", lambda _own: Tasks([ended], []))
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        before = os.listdir("/proc/self/fd")
        assert find_uses(held, ["s"]) == {}
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(held)


def test_a_signal_ends_the_search(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StoppedError):
            find_uses(held, ["s"], lambda: True)
    finally:
        os.close(held)
