"""Exchanging files, and copying the attributes of directories."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arawn_cli.fs import exchange as exchange_module
from arawn_cli.fs.exchange import copy_attributes, exchange, rename_new, why_no_exchange
from tests.conftest import needs_root, snapshot, works
from tests.support.errors import os_error


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path) as (descriptor,):
        yield descriptor


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_two_entries_change_their_names(tmp_path: Path, directory: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("file")
    exchange("a", directory, "b", directory)
    assert (tmp_path / "a").read_text() == "file"
    assert (tmp_path / "b").is_dir()


def test_a_missing_entry_is_an_error(tmp_path: Path, directory: int) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange("a", directory, "b", directory)


def test_rename_new_overwrites_nothing(tmp_path: Path, directory: int) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        rename_new("a", directory, "b", directory)
    rename_new("a", directory, "c", directory)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "b", "c": "a"}


def test_a_trial_leaves_nothing_and_changes_no_mtime(tmp_path: Path, directory: int) -> None:
    os.utime(tmp_path, ns=(10**18, 10**18))
    before = snapshot(tmp_path)
    assert why_no_exchange(directory, [tmp_path / "missing", Path("/proc"), tmp_path], hard_links=True) is None
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EXDEV])
def test_a_filesystem_that_cannot_exchange_is_found_by_a_trial(
    tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise os_error(number)

    monkeypatch.setattr(exchange_module, "exchange", refuse)
    error = why_no_exchange(directory, [tmp_path], hard_links=False)
    assert error is not None
    assert error.errno == number
    assert os.listdir(tmp_path) == []
    assert why_no_exchange(directory, [], hard_links=False) is None


def test_mode_and_extended_attributes_are_copied_and_inherited_ones_removed(tmp_path: Path) -> None:
    for name, attributes in (("old", {"user.a": b"1", "user.b": b"2"}), ("new", {"user.b": b"3", "user.c": b"4"})):
        (tmp_path / name).mkdir()
        for attribute, value in attributes.items():
            os.setxattr(tmp_path / name, attribute, value)
    (tmp_path / "old").chmod(0o2751)
    with opened(tmp_path / "old", tmp_path / "new") as (old, new):
        copy_attributes(old, new)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "old").stat().st_mode
    assert {name: os.getxattr(tmp_path / "new", name) for name in os.listxattr(tmp_path / "new")} == {"user.a": b"1", "user.b": b"2"}


@needs_root
@pytest.mark.skipif(not works("setfacl", "--version"), reason="needs setfacl")
def test_owner_and_acls_are_copied(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    os.chown(tmp_path / "old", 1234, 2345)
    subprocess.run(["setfacl", "-m", "u:77:rwx,d:u:78:rx", tmp_path / "old"], check=True)
    with opened(tmp_path / "old", tmp_path / "new") as (old, new):
        copy_attributes(old, new)
    facts = [
        (
            status.st_uid,
            status.st_gid,
            status.st_mode,
            subprocess.run(["getfacl", "-cpn", tmp_path / name], capture_output=True, check=True).stdout,
        )
        for name, status in ((name, (tmp_path / name).stat()) for name in ("old", "new"))
    ]
    assert facts[0] == facts[1]
    assert b"user:77:rwx" in facts[1][3]
