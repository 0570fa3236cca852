from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.errors import Failure
from arawn_cli.fs import measure as measuring
from arawn_cli.fs.measure import Subtree, measure, measure_all, threads_for
from arawn_cli.fs.usage import Usage, combined
from tests.conftest import WITHOUT_FILE_POWERS, make_deep, needs_setpriv


def measured(path: Path) -> Usage:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        return measure(parent, path.name, path.name)
    finally:
        os.close(parent)


def du_files(path: Path) -> int:
    """What `du -b` counts of regular files, which are named to it: of directories only older ones
    count a size."""
    files = subprocess.run(["find", str(path), "-type", "f", "-print0"], capture_output=True, check=True).stdout
    du = subprocess.run(["du", "-bc", "--files0-from=-"], input=files, capture_output=True, check=True).stdout
    return int(du.splitlines()[-1].split()[0])


def test_every_kind_of_file_is_measured_as_du_counts_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "file").write_bytes(b"x" * 12345)
    (top / "a" / "b" / "newline\nname").write_bytes(b"y" * 7)
    (Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe"))).write_bytes(b"z")
    os.link(top / "a" / "file", top / "linked")
    with (top / "sparse").open("wb") as file:
        file.truncate(50_000_000)
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("/etc")
    usage = measured(top)
    assert usage.apparent_bytes == du_files(top)
    assert (usage.files, usage.directories, usage.largest_file_bytes, usage.complete) == (4, 3, 50_000_000, True)
    du = subprocess.run(["du", "-s", "-B1", str(top)], capture_output=True, text=True, check=True)
    assert usage.allocated_bytes == int(du.stdout.split()[0])


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "big").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("outside")
    usage = measured(tmp_path / "link")
    assert (usage.apparent_bytes, usage.largest_file_bytes) == (0, 0)


def test_the_newest_mtime_of_anything_counts(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "file").touch()
    for path, mtime in ((top / "inner" / "file", 5), (top / "inner", 9), (top, 7)):
        os.utime(path, ns=(mtime, mtime))
    usage = measured(top)
    assert (usage.newest_mtime, usage.newest_path, usage.newest_shown) == (9, b"inner", "inner")


@given(
    names=st.lists(
        st.binary(min_size=1, max_size=200).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b"..")), max_size=6
    )
)
def test_the_newest_entry_is_named_by_the_beginning_of_its_path(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    top = tmp_path_factory.mktemp("newest")
    path = b"/".join(names)
    deepest = os.path.join(os.fsencode(top), path)
    os.makedirs(deepest, exist_ok=True)
    for directory, _, _ in os.walk(os.fsencode(top)):
        os.utime(directory, ns=(5, 5))
    os.utime(deepest, ns=(7, 7))
    usage = measured(top)
    assert usage.newest_path == path[:511]
    assert usage.newest_shown.isprintable()
    assert usage.newest_shown.endswith("…") == (len(path) >= 511)
    assert (usage.newest_shown == ".") == (not names or usage.newest_path == b".")


def test_a_file_linked_from_two_trees_counts_once_and_is_freed_only_with_both(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "f").write_bytes(b"x" * 100)
    os.link(tmp_path / "a" / "f", tmp_path / "b" / "f")
    one, two = measured(tmp_path / "a"), measured(tmp_path / "b")
    both = combined((one, two))
    assert (one.apparent_bytes, one.largest_file_bytes, one.freed_bytes) == (100, 100, 0)
    assert (both.apparent_bytes, both.largest_file_bytes, both.files, both.freed_bytes) == (100, 100, 1, 100)


def test_ten_thousand_levels_are_measured_with_few_descriptors(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    make_deep(top, 10_000)
    usage = measured(top)
    assert (usage.directories, usage.files, usage.complete) == (10_001, 1, True)
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.mark.parametrize(("descriptors", "threads"), [(1024, 16), (200, 3), (20, 1)])
def test_the_number_of_threads_depends_on_the_limit_on_descriptors(descriptors: int, threads: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    try:
        assert threads_for(256) == threads
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_missing_tree_measures_as_nothing(tmp_path: Path) -> None:
    assert measured(tmp_path / "gone") == Usage()


@needs_setpriv
def test_an_unreadable_directory_makes_the_result_incomplete_with_path_and_errno(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed").mkdir(parents=True)
    (top / "open").write_bytes(b"12345")
    os.chown(top / "closed", 65534, 65534)
    (top / "closed").chmod(0o700)
    code = (
        "import os, sys; from arawn_cli.fs.measure import measure;"
        "u = measure(os.open(sys.argv[1], os.O_RDONLY), 'top', 'top'); print(u.apparent_bytes, u.complete, u.failures)"
    )
    done = subprocess.run([*WITHOUT_FILE_POWERS, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "5 False (Failure(operation='open', path='top/closed', errno=13, detail=''),)\n", done.stderr


def test_without_types_in_a_listing_only_entries_that_cannot_be_read_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / "top" / name).mkdir(parents=True)
    real = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name = entry.name
            self._entry = entry

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            if self.name == "b":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return self._entry.is_dir(follow_symlinks=follow_symlinks)

    @contextmanager
    def scandir(directory: int) -> Iterator[list[Entry]]:
        with real(directory) as listing:
            yield [Entry(entry) for entry in listing]

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(measuring, "native", None)
    usage = measured(tmp_path / "top")
    assert usage.directories == 3
    assert usage.failures == (Failure("measure", "top/b", errno.EACCES),)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.integers(0, 3), st.integers(0, 5000)), max_size=12), st.integers(1, 4))
def test_random_trees_measure_as_du_counts_them(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, int, int]], threads: int
) -> None:
    top = tmp_path_factory.mktemp("tree")
    for name, depth, size in files:
        directory = top.joinpath(*(["d"] * depth))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.f").write_bytes(b"x" * size)
    start = os.open(top, os.O_RDONLY)
    names = sorted(os.listdir(top))
    steps: list[None] = []
    usages = measure_all(start, [Subtree((name,)) for name in names], threads, lambda finished: steps.extend([None] * finished))
    os.close(start)
    assert combined(usages).apparent_bytes == du_files(top)
    assert len(steps) == len(names)


def test_a_process_without_descriptors_reports_a_failure(tmp_path: Path) -> None:
    (tmp_path / "top" / "d").mkdir(parents=True)
    code = (
        "import os, resource, sys; from arawn_cli.fs.measure import Subtree, measure, measure_all;"
        "parent = os.open(sys.argv[1], os.O_RDONLY); usual = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]));"
        "found = [measure(parent, 'top', 'top'), *measure_all(parent, [Subtree(('top',))], 1)];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, usual);"
        "print([(failure.path, failure.errno) for usage in found for failure in usage.failures])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{[('top', errno.EMFILE)] * 2}\n", "")
