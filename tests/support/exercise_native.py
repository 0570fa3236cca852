"""Holds a build of the native module to its twin in Python, on trees of every shape; run by tests under sanitizers too.

python -m tests.support.exercise_native MODULE FOLDER
"""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import socket
import sys
import threading
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

from arawn_cli.fs import delete, measure
from arawn_cli.fs.measure import Subtree, Usage, measure_all

_SEED = 7
_FILE = "a file"


def load(path: str) -> None:
    """Makes `usage` and `unlinking` work with the extension in a file."""
    loader = ExtensionFileLoader("arawn_cli.fs._usage", path)
    spec = importlib.util.spec_from_loader("arawn_cli.fs._usage", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    measure.module = module


def random_tree(top: Path, chance: random.Random, files: int) -> None:
    """Folders to some depth with files, sparse files, links of both kinds, pipes and sockets, and names of any bytes."""
    top.mkdir()
    folders, linked = [top], [top / "first"]
    linked[0].write_bytes(b"first")
    os.utime(linked[0], ns=(0, chance.choice((-(10**18), 1, 10**18 + 7, 14 * 10**18 + 3))))  # the last is past the year 2262
    for number in range(files):
        folder = chance.choice(folders)
        name = os.fsdecode(bytes(chance.choices(range(1, 256), k=chance.randint(1, 8))).replace(b"/", b"_") + str(number).encode())
        match chance.randrange(10):
            case 0 | 1:
                (folder / name).mkdir()
                folders.append(folder / name)
            case 2:
                os.link(chance.choice(linked), folder / name)
            case 3:
                (folder / name).symlink_to(chance.choice(("/", "..", "nowhere", str(top))))
            case 4:
                os.mkfifo(folder / name)
            case 5:
                with (folder / name).open("wb") as file:
                    file.truncate(chance.randrange(10_000_000))
            case _:
                (folder / name).write_bytes(b"x" * chance.randrange(5000))
                linked.append(folder / name)


def special_trees(top: Path) -> None:
    """A wide folder, a chain with side branches that is deeper than descriptors last, many small trees, and a socket."""
    top.mkdir()
    (top / "wide").mkdir()
    for number in range(3000):
        (top / "wide" / f"{'long' * (number % 7)}{number}").write_bytes(b"x" * (number % 50))
    here = top / "chain"
    for level in range(120):
        for side in ("a", "zz"):
            (here / f"{side}{level}" / "leaf").mkdir(parents=True)
        (here / "file").write_bytes(b"x" * level)
        here /= "down"
    for number in range(200):
        (top / f"small{number}" / "work").mkdir(parents=True)
        (top / f"small{number}" / "work" / "file").write_bytes(b"small")
    linked_names(top / "linked", 2500)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(top)
        listener.bind("socket")


def linked_names(top: Path, names: int) -> None:
    """Three files with many names."""
    for number in range(names):
        path = top / str(number % 7) / str(number)
        if number < 7:
            path.parent.mkdir(parents=True)
        if number < 3:
            path.write_bytes(b"x" * number)
        else:
            os.link(top / str(number % 3) / str(number % 3), path)


def by_both(start: int, subtrees: list[Subtree], threads: int) -> tuple[list[Usage], list[Usage]]:
    """What the native module says, and what Python says."""
    module, natively = measure.module, measure_all(start, subtrees, threads)
    measure.module = None
    try:
        return natively, measure_all(start, subtrees, 1)
    finally:
        measure.module = module


def hold_equal(folder: Path) -> None:
    """Every subtree of a folder, the whole of it, and what cannot be reached, by few threads and by many."""
    names = sorted(os.listdir(folder))
    (folder / _FILE).write_bytes(b"")
    start = os.open(folder.parent, os.O_RDONLY)
    try:
        for threads in (1, 2, 8):
            subtrees = [Subtree((folder.name, name), shallow=number % 7 == 6) for number, name in enumerate(names)]
            failing = [Subtree(("gone", "too")), Subtree(("x" * 300,)), Subtree((folder.name, _FILE, "below"))]
            natively, plainly = by_both(start, [*subtrees, Subtree((folder.name,)), *failing], threads)
            assert natively == plainly, (folder, threads)
            assert [usage.complete for usage in natively[-3:]] == [True, False, False]
    finally:
        os.close(start)


def hold_under_change(folder: Path) -> None:
    """What others add, move and remove meanwhile makes no walk fail, and hides nothing that stays."""
    stays, changes = folder / "stays", folder / "changes"
    for number in range(100):
        (stays / str(number)).mkdir(parents=True)
        (stays / str(number) / "file").write_bytes(b"x" * 10)
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for number in range(20):
                (changes / "deep" / str(number)).mkdir(parents=True, exist_ok=True)
                (changes / "deep" / str(number) / "file").write_bytes(b"x")
            (changes / "deep").rename(changes / "moved")
            for path in sorted((changes / "moved").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (changes / "moved").rmdir()

    writer = threading.Thread(target=change)
    writer.start()
    start = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(50):
            still, _moving = measure_all(start, [Subtree(("stays",)), Subtree(("changes",))], 4)
            assert (still.apparent_bytes, still.files, still.directories, still.complete) == (1000, 100, 101, True)
    finally:
        ended.set()
        writer.join()
        os.close(start)


def hold_to_a_stop(folder: Path) -> None:
    """What `advance` raises ends the walk, leaves no descriptor open, and arrives."""

    class StopError(Exception):
        pass

    def stop(_finished: int) -> None:
        raise StopError

    start = os.open(folder.parent, os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    try:
        for threads in (1, 4):
            try:
                measure_all(start, [Subtree((folder.name,))] * 50, threads, stop)
            except StopError:
                continue
            raise AssertionError("it went on")
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(start)


def hold_to_all_names(folder: Path) -> None:
    """Every name is unlinked or told of, whatever stands before it."""
    files = [f"{'long' * (number % 60)}{number}" for number in range(1000)]
    for name in files:
        (folder / name).touch()
    names = [other for name in files for other in (name, "x" * 300, name)]
    directory = os.open(folder, os.O_RDONLY)
    try:
        assert delete.unlink(directory, names, lambda: False) == [("x" * 300, errno.ENAMETOOLONG)] * 1000
        assert delete.unlink(directory, [], lambda: False) == []
        assert os.listdir(folder) == []
    finally:
        os.close(directory)


def main(module: str, folder: str) -> None:
    """All of it, below a folder."""
    load(module)
    top = Path(folder).resolve()
    chance = random.Random(_SEED)  # noqa: S311 - trees, not secrets
    (top / "random").mkdir()
    for number in range(12):
        random_tree(top / "random" / str(number), chance, 150)
    special_trees(top / "special")
    for trees in ("random", "special"):
        hold_equal(top / trees)
        hold_to_a_stop(top / trees)
    (top / "changing").mkdir()
    hold_under_change(top / "changing")
    (top / "unlinked").mkdir()
    hold_to_all_names(top / "unlinked")


if __name__ == "__main__":
    main(*sys.argv[1:])
