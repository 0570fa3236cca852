"""Mount points below a directory, and the filesystem of a path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.fs import mounts
from arawn_cli.fs.mounts import (
    UNKNOWN,
    Mount,
    amounts,
    filesystem_of,
    has_mount,
    is_below,
    is_mount,
    layers_of,
    mount_of,
    mount_points,
    parse_mount_id,
    parse_mounts,
)
from tests.conftest import needs_namespaces


@pytest.mark.parametrize(
    ("path", "below"), [("/a/b", True), ("/a/b/c", True), ("/a/bc", False), ("/a", False), ("/", False), ("/c/a/b", False)]
)
def test_a_path_is_below_itself_and_the_directories_above_it(path: str, below: bool) -> None:
    assert is_below(path, "/a/b") == below


def test_a_mount_counts_for_every_directory_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mount_points", lambda: frozenset({"/", "/a/b"}))
    assert [has_mount(path) for path in ("/a", "/a/b", "/a/b/c", "/a/bc", "/c")] == [True, True, False, False, False]


def test_the_filesystem_of_a_path_has_a_mount_point_and_sizes(tmp_path: Path) -> None:
    found = filesystem_of(tmp_path)
    assert found.mountpoint in mount_points()
    assert is_below(str(tmp_path), found.mountpoint.rstrip("/"))
    assert found.total_bytes == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


FIGURES = st.sampled_from([-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 10_000)


@given(FIGURES, FIGURES, FIGURES)
def test_figures_are_those_of_df_or_unknown(total: int, unused: int, usable: int) -> None:
    found = amounts(total, unused, usable)
    makes_sense = all(0 <= figure <= total for figure in (unused, usable)) and total < 2**63
    assert found == ((total, total - unused, usable) if makes_sense else UNKNOWN)


@pytest.mark.parametrize(
    ("kind", "files", "free", "expected"),
    [
        ("ceph", 1000, -1, UNKNOWN),
        ("ceph", 1000, 0, UNKNOWN),
        ("fuse.sshfs", 2**63, 2**63, UNKNOWN),
        ("fuse.sshfs", 9, 0, UNKNOWN),
        ("fuse.sshfs", 9, 4, (9, 5, 4)),
        ("btrfs", 0, 0, UNKNOWN),
        ("xfs", 10, 20, UNKNOWN),
        ("ext4", 1000, 0, (1000, 1000, 0)),
    ],
)
def test_inodes_without_a_limit_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, files: int, free: int, expected: tuple[int, int, int]
) -> None:
    answer = os.statvfs_result((4096, 4096, 100, 70, 60, files, free, free, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: answer)
    monkeypatch.setattr(mounts, "read_mounts", lambda: [Mount(1, 0, "0:1", "/", "/", kind, "")])
    found = filesystem_of(tmp_path)
    assert (found.total_bytes, found.used_bytes, found.free_bytes) == (409_600, 122_880, 245_760)
    assert (found.total_inodes, found.used_inodes, found.free_inodes) == expected


def test_a_filesystem_that_does_not_answer_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Event()
    monkeypatch.setattr(os, "statvfs", lambda _: answered.wait())
    monkeypatch.setattr(mounts, "_ANSWER_SECS", 0.2)
    with pytest.raises(TimeoutError, match="does not answer"):
        filesystem_of(tmp_path)
    answered.set()


def test_a_thread_that_gets_no_memory_stops_no_run(tmp_path: Path) -> None:
    """`Thread.start` waits for ever for a thread that ends before it has said that it runs."""
    program = (
        "import pathlib, sys, threading\n"
        "def no_memory(self): raise MemoryError\n"
        "threading.Thread._bootstrap = no_memory\n"
        "from arawn_cli.fs.mounts import filesystem_of\n"
        "print(filesystem_of(pathlib.Path(sys.argv[1])).total_bytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) == filesystem_of(tmp_path).total_bytes


def test_an_open_directory_and_its_path_have_the_same_filesystem(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    assert filesystem_of(directory).mountpoint == filesystem_of(tmp_path).mountpoint
    os.close(directory)


@given(st.integers(0, 2**31 - 1), st.lists(st.sampled_from([b"pos:\t0", b"flags:\t02", b"ino:\t12", b"inotify wd:1 ino:9 mnt_id:7"])))
def test_the_mount_id_is_found_among_other_fields(number: int, others: list[bytes]) -> None:
    assert parse_mount_id(b"\n".join([*others, b"mnt_id:\t%d" % number, b"ino:\t5"])) == number


def test_without_the_number_of_a_mount_no_directory_is_taken_for_a_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sandbox with a kernel of its own, whose /proc/PID/fdinfo has fewer fields."""
    monkeypatch.setattr(mounts, "parse_mount_id", lambda _text: -1)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="does not tell"):
            is_mount(directory, directory)
    finally:
        os.close(directory)


NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, max_size=4).map(lambda names: "/" + "/".join(names))


def as_the_kernel_writes(text: str, escaped: str = " \t\n\\") -> bytes:
    return b"".join(b"\\%03o" % byte if byte in escaped.encode() else bytes([byte]) for byte in os.fsencode(text))


@given(st.lists(st.tuples(PATHS, PATHS, st.lists(st.sampled_from(["shared:1", "master:2"]))), max_size=4))
def test_a_mount_table_has_all_mounts_whatever_their_names(expected: list[tuple[str, str, list[str]]]) -> None:
    lines = [
        b" ".join(
            (
                b"%d 1 8:%d" % (number, number),
                *map(as_the_kernel_writes, (root, point)),
                b"rw",
                *map(str.encode, tags),
                b"- ext4 /dev/x rw\n",
            )
        )
        for number, (root, point, tags) in enumerate(expected)
    ]
    found = parse_mounts(b"".join(lines))
    assert [(mount.id, mount.device, mount.root, mount.point, mount.kind) for mount in found] == [
        (number, f"8:{number}", root, point, "ext4") for number, (root, point, _) in enumerate(expected)
    ]


@given(st.binary())
def test_a_damaged_mount_table_does_no_harm(text: bytes) -> None:
    assert isinstance(parse_mounts(text.replace(b" - ", b" ")), list)


@pytest.mark.parametrize(
    "form",
    ["lowerdir={}:{},upperdir={},workdir={}", "lowerdir+={},lowerdir+={},upperdir={},workdir={}", "lowerdir={}::{},upperdir={},workdir={}"],
)
@given(st.lists(PATHS, min_size=4, max_size=4))
def test_an_overlay_names_all_its_layers_whatever_their_names(form: str, layers: list[str]) -> None:
    written = ["".join(f"\\{character}" if character in ":,\\" else character for character in layer) for layer in layers]
    line = b"5 1 0:9 / /o rw - overlay o " + as_the_kernel_writes("rw," + form.format(*written) + ",xino=off")
    [mount] = parse_mounts(line)
    assert layers_of(mount) == layers


@given(PATHS, st.lists(PATHS, max_size=5))
def test_the_last_of_the_deepest_mounts_has_a_path(path: str, points: list[str]) -> None:
    mounts = [Mount(number, 0, "8:1", "/", point, "ext4", "") for number, point in enumerate(["/", *points])]
    found = mount_of(path, mounts)
    assert found
    assert is_below(path, found.point)
    assert all(mount.id <= found.id or len(mount.point) < len(found.point) for mount in mounts if is_below(path, mount.point))


# Mounts in random order at, in and over others; prints those for which table and kernel disagree,
# and the numbers of both kinds.
STACKED = """
import os, random, subprocess, sys
from arawn_cli.fs.mounts import read_mounts, visible_mounts
top, chance = sys.argv[1], random.Random(int(sys.argv[2]))
for _ in range(15):
    place = os.path.join(top, *chance.choices("ab", k=chance.randrange(4)))
    os.makedirs(place, exist_ok=True)
    source = chance.choice(("none", os.path.join(top, *chance.choices("ab", k=1))))
    kind = ("-t", "tmpfs") if source == "none" or not os.path.isdir(source) else ("--rbind",)
    subprocess.run(["mount", *kind, source, place], check=True)
def leads_to(mount):
    try:
        opened = os.open(mount.point, os.O_PATH)
    except FileNotFoundError:
        return False
    with open(f"/proc/self/fdinfo/{opened}") as information:
        return f"mnt_id:\\t{mount.id}\\n" in information.read()
mounts = [mount for mount in read_mounts() if mount.point.startswith(top)]
visible = {mount.id for mount in visible_mounts(read_mounts(), top)}
print([mount for mount in mounts if (mount.id in visible) != leads_to(mount)], len(visible) > 0, len(visible) < len(mounts))
"""


@needs_namespaces
@pytest.mark.parametrize("seed", range(6))
def test_the_table_tells_which_mounts_are_hidden(tmp_path: Path, seed: int) -> None:
    command = ["unshare", "--mount", sys.executable, "-c", STACKED, str(tmp_path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[] True True\n", done.stderr
