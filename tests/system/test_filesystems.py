"""Both jobs on real filesystems: the figures are those of df, and a session goes to the trash and
comes back whole."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunCommand, needs_namespaces
from tests.support.tree import SampleTree

pytestmark = [needs_namespaces, pytest.mark.slow]

# The program that makes each filesystem, and the size of its image in MiB.
MAKERS = {"ext4": (("mkfs.ext4", "-q"), 64), "xfs": (("mkfs.xfs", "-q"), 320), "btrfs": (("mkfs.btrfs", "-q"), 128)}
COLUMNS = ("size", "used", "avail", "itotal", "iused", "iavail")
FIGURES = ("total_bytes", "used_bytes", "free_bytes", "total_inodes", "used_inodes", "free_inodes")


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs", "overlay"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The place of a filesystem, and the shell command that mounts it there in a namespace."""
    kind: str = request.param
    place = tmp_path / "place"
    place.mkdir()
    if kind in MAKERS:
        command, size = MAKERS[kind]
        if shutil.which(command[0]) is None:
            pytest.skip(f"needs {command[0]}")
        image = tmp_path / "image"
        image.touch()
        with image.open("r+b") as file:
            file.truncate(size * 1024 * 1024)
        subprocess.run([*command, image], check=True, capture_output=True)
        mount = f"mount -o loop {image} {place}"
        if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip(f"this kernel has no loop device for {kind}")
        return place, mount
    if kind == "tmpfs":  # its content has to outlive the namespace of each command
        return place, f"mount -t tmpfs -o size=64m tmpfs {place}"
    layers = tmp_path / "layers"  # on a filesystem to which nobody else writes
    layers.mkdir()
    names = " ".join(str(layers / name) for name in ("lower", "upper", "work"))
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    mount = f"mount -t tmpfs -o size=64m tmpfs {layers} && mkdir {names} && mount -t overlay -o {options} overlay {place}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs a place for the layers of an overlay")
    return place, mount


def test_the_figures_are_those_of_df_and_a_session_comes_back_whole(
    place: tuple[Path, str], tree: SampleTree, run: RunCommand, tmp_path: Path
) -> None:
    directory, mount = place
    tree.session("old", files={"a": 5000, "b/c": 70_000}, age_days=30)
    tree.session("new", files={"a": 1}, age_days=1)
    # All commands run in one namespace, since the content of tmpfs ends with it.
    script = f"""
        {mount}
        cp -a {tree.root} {directory}/arawn
        list() {{ (cd {directory}/arawn/workstreams && find . -name .trash -prune -o -type f -printf '%p %s %m %T@\\n' | sort); }}
        list > {tmp_path}/before
        df -B1 --output={",".join(COLUMNS)} {directory} | tail -1 > {tmp_path}/df
        "$@" disk-check --format json --base-path {directory}/arawn > {tmp_path}/check
        "$@" report --format json --base-path {directory}/arawn > {tmp_path}/report
        "$@" scratch-cleanup --yes --format json --base-path {directory}/arawn > {tmp_path}/cleanup
        "$@" trash restore --base-path {directory}/arawn old > /dev/null
        list > {tmp_path}/after
    """
    done = run(prefix=("unshare", "-m", "sh", "-ec", script, "sh"))
    assert done.code == 0, done.stderr
    df = [0 if figure == "-" else int(figure) for figure in (tmp_path / "df").read_text().split()]
    check = [json.loads(line) for line in (tmp_path / "check").read_text().splitlines()][-1]
    assert check["complete"]
    slack = 1024 * 1024  # writing the state of the program elsewhere does not change it, but a filesystem may write by itself
    for figure, shown in zip(df, (check["filesystem"][name] for name in FIGURES), strict=True):
        assert abs(figure - shown) <= (slack if figure > slack else 0), (df, check["filesystem"])
    report = json.loads((tmp_path / "report").read_text())
    assert report["filesystem"]["total_bytes"] == check["filesystem"]["total_bytes"]
    cleanup = [json.loads(line) for line in (tmp_path / "cleanup").read_text().splitlines()]
    assert {event["session_id"]: event["action"] for event in cleanup[:-1]} == {"old": "trashed", "new": "kept"}
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
