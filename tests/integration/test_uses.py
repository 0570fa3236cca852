"""Whatever uses a session, however it sees it: the session stays, and its neighbour goes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.cleanup_events import ScratchSessionEvent
from arawn_cli.events import Event
from arawn_cli.names import escape
from tests.conftest import Run, needs, needs_namespaces, works
from tests.support.in_process import cleaned
from tests.support.main_tree import MainTree, session_id
from tests.support.session_user import Use
from tests.support.tree import SampleTree

LOOP = (
    'image=$(mktemp) && truncate -s 1M "$image" && device=$(losetup --find --show "$image") && losetup --detach "$device"'
    '; code=$?; rm "$image"; exit $code'
)
needs_loop_devices = needs(os.getuid() == 0 and works("sh", "-c", LOOP), "root and loop devices")
needs_fuse = needs(os.getuid() == 0 and os.path.exists("/dev/fuse"), "root and FUSE")
EMPTY_MOUNT = Path(__file__).parents[1] / "support" / "empty_mount.py"

KINDS = ("cwd", "root", "program", "file", "deleted", "fifo", "directory", "map", "socket")
VIEWS = ("", "bind", "part", "detached", "chroot", "bind-chroot")
DEPTHS = ((), ("sub",), tuple("d" * 100 for _ in range(45)))  # the last is longer than PATH_MAX
THREADS = ("", "own", "alone")


def is_visible(use: Use) -> bool:
    """Whether it can be done, and the kernel tells which file is used."""
    if use.kind == "program" and (use.thread or "chroot" in use.view):
        return False  # there is no loader
    has_no_path = use.view == "detached" or len(use.below) > 1
    return not (has_no_path and use.kind == "deleted") and not (use.view == "detached" and use.kind == "map")


USES = [
    use
    for kind, view, below, thread, network in itertools.product(KINDS, VIEWS, DEPTHS, THREADS, (False, True))
    if is_visible(use := Use(kind, view, below, thread, network))
]


def cases() -> Iterator[object]:
    """All uses; the quick tests have every fortieth."""
    for number, use in enumerate(USES):
        name = "-".join(
            (use.kind, use.view, f"{len(use.below)}-below", use.thread and f"{use.thread}-thread", "network" if use.network else "")
        )
        yield pytest.param(use, id=name, marks=() if number % 40 == 7 else pytest.mark.long)
    yield pytest.param(Use("socket", "", (), "sharing", network=True), id="socket-sharing-thread-network")


def make_session(tree: SampleTree, name: str, below: tuple[str, ...]) -> Path:
    session = tree.session(name, files={"f": 1}, age_days=30)
    directory = os.open(session / "work", os.O_RDONLY)
    for part in below:
        os.mkdir(part, dir_fd=directory)
        inner = os.open(part, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    with open("f", "w", opener=lambda path, flags: os.open(path, flags, dir_fd=directory)) as file:
        file.write("x")
    with (
        open("/bin/sh", "rb") as source,
        open("sh", "wb", opener=lambda path, flags: os.open(path, flags, 0o755, dir_fd=directory)) as copy,
    ):
        copy.write(source.read())
    os.close(directory)
    return session


def make_old(session: Path, seconds: float) -> None:
    for _, directories, files, descriptor in os.fwalk(session, topdown=False):
        for name in (*directories, *files):
            os.utime(name, (seconds, seconds), dir_fd=descriptor)
    os.utime(session, (seconds, seconds))


@contextmanager
def running(*command: str) -> Iterator[None]:
    with subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@contextmanager
def hanging_mount(point: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, EMPTY_MOUNT, point], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            server.send_signal(signal.SIGSTOP)
            yield
        finally:
            server.kill()
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def kept(events: list[Event]) -> dict[str, tuple[str, str | None]]:
    sessions = (event for event in events if isinstance(event, ScratchSessionEvent))
    return {event.session_id: (event.reason, event.detail) for event in sessions if event.action == "kept"}


@needs_namespaces
@pytest.mark.parametrize("use", list(cases()))
def test_a_session_that_is_used_stays_and_its_neighbour_goes(tree: SampleTree, tmp_path: Path, use: Use) -> None:
    used = make_session(tree, "used", use.below)
    make_session(tree, "unused", use.below)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = replace(use, root=str(tree.root), session=str(used.relative_to(tree.root)), elsewhere=str(elsewhere))
    with running(*here.command()):
        for session in (used, tree.sessions / "unused"):
            make_old(session, tree.now / 1e9 - 30 * 86_400)
        summary, events = cleaned(tree)
    assert (summary.sessions_kept, summary.sessions_cleaned) == ({"in_use": 1}, 1)
    [(name, (_, detail))] = kept(events).items()
    assert name == "used"
    assert detail
    assert (used / "work" / "f").exists()


MOUNTED = {
    "layer": ("mount -t overlay o -o lowerdir={s}/work,upperdir={o}/u,workdir={o}/w {o}/m", "in_use", "work is a layer of the overlay at "),
    "upper": (
        "mount -t overlay o -o lowerdir={o}/u,upperdir={s}/work/u,workdir={s}/work/w {o}/m",
        "in_use",
        "work/u is a layer of the overlay at ",
    ),
    "layer-in-a-chroot": (
        "mkdir {o}/r && mount --rbind / {o}/r"
        " && chroot {o}/r mount -t overlay o -o lowerdir={s}/work,upperdir={o}/u,workdir={o}/w {o}/m"
        " && exec chroot {o}/r sh -c 'echo ready; exec sleep 60'",
        "in_use",
        "work is a layer of the overlay at ",
    ),
    "relative-layer": (
        "cd {s}/work && mkdir l1 l2 l3 && mount -t overlay o -o lowerdir=l1,upperdir=l2,workdir=l3 {o}/m && cd /",
        "in_use",
        " is a layer of the overlay at ",
    ),
    "linked-layer": (
        "mount -t overlay o -o lowerdir={o}/link/work,upperdir={o}/u,workdir={o}/w {o}/m",
        "in_use",
        "work is a layer of the overlay at ",
    ),
    "in-overlay": (
        "mount -t overlay o -o lowerdir={root},upperdir={o}/u,workdir={o}/w {o}/m && cd {o}/m/{relative}/work",
        "in_use",
        " works in work/",
    ),
    "session": ("mount --bind {s} {o}/m", "in_use", ". is mounted at "),
    "file": ("touch {o}/file && mount --bind {s}/work/f {o}/file", "in_use", "work/f is mounted at "),
    "inside": ("mount -t tmpfs none {s}/work/m", "mount_inside", "mount point work/m by process "),
    "inside-elsewhere": (
        "mount --bind {root} {o}/m && mount -t tmpfs none {o}/m/{relative}/work/m",
        "mount_inside",
        "mount point work/m by process ",
    ),
    "on-it": ("mount -t tmpfs none {s}", "mount_inside", "mount point . by process "),
}


@needs_namespaces
@pytest.mark.parametrize("name", MOUNTED)
def test_what_is_mounted_in_another_namespace_stays(tree: SampleTree, tmp_path: Path, name: str) -> None:
    """With an overlay of relative layers with the same names elsewhere, which keeps nothing."""
    command, reason, detail = MOUNTED[name]
    used, unused = (tree.session(session, files={"f": 1, "u/f": 1, "m/f": 1, "w/f": 1}, age_days=30) for session in ("used", "unused"))
    for session in (used, unused):
        (session / "work" / "w" / "f").unlink()
        (session / "work" / "relative").mkdir()
    for directory in ("u", "w", "m", "relative", "work"):
        (tmp_path / "o" / directory).mkdir(parents=True)
    (tmp_path / "o" / "link").symlink_to(used)
    values = {"s": used, "o": tmp_path / "o", "root": tree.root, "relative": used.relative_to(tree.root)}
    other = "cd {o} && mount -t overlay o -o lowerdir=u,upperdir=relative,workdir=work {o}/m && cd /"
    script = f"{other.format(**values)} && {command.format(**values)} && echo ready && exec sleep 60"
    with running("unshare", "-m", "--propagation", "private", "sh", "-c", script):
        for session in (used, unused):
            make_old(session, tree.now / 1e9 - 30 * 86_400)
        summary, events = cleaned(tree)
    assert (summary.sessions_kept, summary.sessions_cleaned) == ({reason: 1}, 1)
    assert detail in str(kept(events)["used"][1])


@needs_loop_devices
@pytest.mark.parametrize("name", ["image", 'a "quoted" im\\age\n'])
def test_the_image_of_a_loop_device_stays(tree: SampleTree, name: str) -> None:
    used, unused = (tree.session(session, files={name: 1 << 20}, age_days=30) for session in ("used", "unused"))
    made = subprocess.run(["losetup", "--find", "--show", used / "work" / name], capture_output=True, text=True, check=True)
    device = made.stdout.strip()
    try:
        summary, events = cleaned(tree)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert (summary.sessions_kept, summary.sessions_cleaned) == ({"in_use": 1}, 1)
    assert kept(events)["used"][1] == f"work/{escape(name)} is the image of the loop device {device}"
    assert not unused.exists()


@needs_fuse
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hangs"])
@pytest.mark.parametrize("detached", [False, True], ids=["", "detached"])
def test_a_process_in_a_mount_elsewhere_that_is_dead_or_hangs_does_not_matter(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path, signal_number: int, detached: bool
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    mount = tmp_path / "mount"
    mount.mkdir()
    with subprocess.Popen([sys.executable, EMPTY_MOUNT, mount], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            with running("sh", "-c", 'cd "$0" && exec 9<. && echo ready && exec sleep 60', str(mount)):
                server.send_signal(signal_number)
                if detached:
                    subprocess.run(["umount", "--lazy", mount], check=True)
                done = run("scratch-cleanup", "--base-path", tree.root)
        finally:
            server.kill()
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    assert (done.code, done.reasons()) == (0, {"s": "expired"})


@needs_fuse
@pytest.mark.parametrize("inside", ["", "work"])
def test_a_mount_that_hangs_at_or_in_a_session_keeps_only_that_session(run: Callable[..., Run], tree: SampleTree, inside: str) -> None:
    held = tree.session("held", files={"f": 1}, age_days=30)
    tree.session("s", files={"f": 1}, age_days=30)
    with hanging_mount(held / inside):
        done = run("scratch-cleanup", "--base-path", tree.root)
    assert (done.code, done.reasons()) == (0, {"held": "mount_inside", "s": "expired"})


@needs_fuse
@pytest.mark.parametrize(("workstream", "database"), [("scratch", True), ("scratch", False), ("thesis", True)])
def test_a_mount_that_hangs_at_a_session_of_the_main_branch_keeps_only_that_session(
    run: Callable[..., Run], tmp_path: Path, workstream: str, database: bool
) -> None:
    main_tree = MainTree(tmp_path / "main", time.time_ns())
    held, other = session_id(1), session_id(2)
    for session in (held, other):
        main_tree.session(session, files={"f": 1}, age_days=30)
    if not database:
        main_tree.database.unlink()
    point = main_tree.workstreams / workstream / held
    point.mkdir(exist_ok=True)
    with hanging_mount(point):
        done = run("scratch-cleanup", "--base-path", main_tree.root)
    reason = "mount_inside" if workstream == "scratch" else "attached"
    assert (done.code, done.reasons()) == (0, {held: reason, other: "expired"})


@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize(
    ("generation", "link", "code", "reasons"),
    [
        (SampleTree, "blog", 1, {"activity_unknown"}),
        (SampleTree, "renamed blog", 1, {"activity_unknown"}),
        (SampleTree, "scratch", 78, set()),
        (MainTree, f"scratch/{session_id(2)}", 0, {"expired", "not_a_directory"}),
        (MainTree, f"thesis/{session_id(1)}", 0, {"attached"}),
    ],
)
def test_a_link_to_a_mount_that_hangs_is_not_followed(
    run: Callable[..., Run], tmp_path: Path, generation: type[SampleTree | MainTree], link: str, code: int, reasons: set[str]
) -> None:
    linked = generation(tmp_path / "linked", time.time_ns())
    linked.session(session_id(1), files={"f": 1}, age_days=30)
    mount = tmp_path / "mount"
    mount.mkdir()
    place = linked.workstreams / link
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to(mount)
    with hanging_mount(mount):
        done = run("scratch-cleanup", "--dry-run", "--base-path", linked.root)
        run("doctor", "--no-relay", "--base-path", linked.root)
        run("report", "--base-path", linked.root)
    assert (done.code, set(done.reasons().values())) == (code, reasons)


@needs_fuse
@pytest.mark.parametrize("database", [True, False])
def test_a_mount_that_hangs_at_a_workstream_keeps_every_session_and_hangs_no_command(
    run: Callable[..., Run], tree: SampleTree, database: bool
) -> None:
    if not database:
        tree.database.unlink()
    tree.session("s", files={"f": 1}, age_days=30)
    mount = tree.root / "workstreams" / "thesis"
    mount.mkdir()
    with hanging_mount(mount):
        cleanup = run("scratch-cleanup", "--base-path", tree.root)
        check = run("disk-check", "--base-path", tree.root)
        doctor = run("doctor", "--no-relay", "--base-path", tree.root)
        trash = run("trash", "list", "--base-path", tree.root)
    assert (cleanup.code, cleanup.reasons()) == (1, {"s": "activity_unknown"})
    detail = f"the filesystem that is mounted at {mount} does not answer"
    assert detail in cleanup.stderr
    assert check.last["not_counted"] == ["workstreams/thesis"]
    assert check.code == 0
    assert detail in doctor.stdout
    assert trash.code == 0


@needs_fuse
@pytest.mark.parametrize("place", ["root/data", "root/data/feeds", "home/.arawn-backups", "home/.arawn-backups/nas"])
def test_a_mount_that_hangs_in_arawns_own_files_or_backups_hangs_no_report(run: Callable[..., Run], tmp_path: Path, place: str) -> None:
    main_tree = MainTree(tmp_path / "root", time.time_ns())
    main_tree.session(session_id(1), files={"f": 1}, age_days=30)
    (tmp_path / place).mkdir(parents=True)
    with hanging_mount(tmp_path / place):
        done = run("report", "--base-path", main_tree.root, timeout=20, HOME=str(tmp_path / "home"))
    assert done.code == 0, done.stderr


@needs_fuse
@pytest.mark.parametrize("name", ["sessions", "messages.jsonl"])
def test_a_mount_that_hangs_at_a_part_of_a_workstream_leaves_a_check_incomplete(
    run: Callable[..., Run], tree: SampleTree, name: str
) -> None:
    tree.workstream("blog", "My blog", {"work/f": 10})
    mount = tree.workstreams / "blog" / name
    mount.mkdir()
    with hanging_mount(mount):
        done = run("disk-check", "--base-path", tree.root, timeout=20)
    assert (done.code, done.last["complete"], done.last["not_counted"]) == (1, False, [f"workstreams/blog/{name}"])
    assert f"the filesystem that is mounted at {mount} does not answer" in done.stderr


@needs_fuse
def test_a_mount_that_hangs_in_place_of_a_trash_hangs_no_check(run: Callable[..., Run], tree: SampleTree) -> None:
    trash = tree.workstreams / "thesis" / ".trash"
    trash.mkdir(parents=True)
    with hanging_mount(trash):
        done = run("disk-check", "--base-path", tree.root, timeout=20)
    assert (done.code, done.last["not_counted"]) == (0, ["workstreams/thesis/.trash"])


@needs_fuse
@pytest.mark.parametrize("place", ["scratch/sessions/held", "scratch/sessions/held/work", "scratch/sessions/held/work/data", "thesis"])
def test_a_mount_that_hangs_hangs_no_check_that_reuses_sizes(run: Callable[..., Run], tree: SampleTree, tmp_path: Path, place: str) -> None:
    tree.session("held", files={"f": 1}, age_days=30)
    config = tmp_path / "reuse.toml"
    config.write_text("[maintenance.pressure]\nremeasure_hours = 24\n")
    mount = tree.workstreams / place
    mount.mkdir(exist_ok=True)
    with hanging_mount(mount):
        done = run("disk-check", "--base-path", tree.root, "--config", config, timeout=20)
    assert (done.code, done.last["not_counted"]) == (0, [f"workstreams/{place}"])


@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize(("place", "command"), [("scratch", "scratch-cleanup"), ("scratch/sessions", "disk-check")])
def test_a_mount_that_hangs_at_a_directory_of_arawns_is_an_error(
    run: Callable[..., Run], tree: SampleTree, place: str, command: str
) -> None:
    tree.session("s", files={"f": 1}, age_days=30)
    with hanging_mount(tree.workstreams / place):
        done = run(command, "--base-path", tree.root, timeout=30)
    assert done.code == 78
    assert f"the filesystem that is mounted at {tree.workstreams / place} does not answer" in done.stderr
