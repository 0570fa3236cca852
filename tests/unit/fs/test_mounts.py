"""Mount points below a directory, and the filesystem of a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.fs import mounts
from arawn_cli.fs.mounts import Mount, filesystem_of, has_mount, is_below, layers_of, mount_of, mount_points, parse_mounts


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
