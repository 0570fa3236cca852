"""Compare a build of the native module with its Python specification, on trees of every shape.

python -m tests.support.exercise_native MODULE DIRECTORY

Tests also run it with builds for sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import random
import socket
import sys
import threading
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import cast

from arawn_cli.fs import measure
from arawn_cli.fs.delete import delete_trees
from arawn_cli.fs.measure import Subtree, measure_all
from arawn_cli.fs.usage import Usage

_SEED = 7
_FILE = "a file"


def load(path: str) -> None:
    """Let the measuring functions use the extension in a file."""
    loader = ExtensionFileLoader("arawn_cli.fs._measure", path)
    spec = importlib.util.spec_from_loader("arawn_cli.fs._measure", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    measure.native = cast("measure.Native", module)


def random_tree(top: Path, chance: random.Random, files: int) -> None:
    """Make directories to some depth with files, sparse files, links of both kinds, pipes, and
    names of any bytes."""
    top.mkdir()
    directories, linked = [top], [top / "first"]
    linked[0].write_bytes(b"first")
    os.utime(linked[0], ns=(0, chance.choice((-(10**18), 1, 10**18 + 7, 14 * 10**18 + 3))))  # the last is after the year 2262
    for number in range(files):
        directory = chance.choice(directories)
        name = os.fsdecode(bytes(chance.choices(range(1, 256), k=chance.randint(1, 8))).replace(b"/", b"_") + str(number).encode())
        match chance.randrange(10):
            case 0 | 1:
                (directory / name).mkdir()
                directories.append(directory / name)
            case 2:
                os.link(chance.choice(linked), directory / name)
            case 3:
                (directory / name).symlink_to(chance.choice(("/", "..", "nowhere", str(top))))
            case 4:
                os.mkfifo(directory / name)
            case 5:
                with (directory / name).open("wb") as file:
                    file.truncate(chance.randrange(10_000_000))
            case _:
                (directory / name).write_bytes(b"x" * chance.randrange(5000))
                linked.append(directory / name)


def special_trees(top: Path) -> None:
    """Make a wide directory, a chain with side branches that is deeper than MAX_OPEN, many small
    trees, and a socket."""
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
    """Make three files with many names."""
    for number in range(names):
        path = top / str(number % 7) / str(number)
        if number < 7:
            path.parent.mkdir(parents=True)
        if number < 3:
            path.write_bytes(b"x" * number)
        else:
            os.link(top / str(number % 3) / str(number % 3), path)


def measure_both(start: int, subtrees: list[Subtree], threads: int) -> tuple[list[Usage], list[Usage]]:
    """Return the answers of the native module and of Python."""
    module, result = measure.native, measure_all(start, subtrees, threads)
    measure.native = None
    try:
        return result, measure_all(start, subtrees, 1)
    finally:
        measure.native = module


def check_equal(directory: Path) -> None:
    """Measure each subtree of a directory, all of it, and missing paths, with few and many
    threads."""
    names = sorted(os.listdir(directory))
    (directory / _FILE).write_bytes(b"")
    start = os.open(directory.parent, os.O_RDONLY)
    try:
        for threads in (1, 2, 8):
            subtrees = [Subtree((directory.name, name), shallow=number % 7 == 6) for number, name in enumerate(names)]
            failing = [Subtree(("gone", "too")), Subtree(("x" * 300,)), Subtree((directory.name, _FILE, "below"))]
            in_c, python = measure_both(start, [*subtrees, Subtree((directory.name,)), *failing], threads)
            assert in_c == python, (directory, threads)
            assert [usage.complete for usage in in_c[-3:]] == [True, False, False]
    finally:
        os.close(start)


def check_changing_tree(directory: Path) -> None:
    """Measure while a thread adds, moves and removes files: nothing fails, and everything that
    stays is counted."""
    stays, changes = directory / "stays", directory / "changes"
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
    start = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(50):
            usage, _changing = measure_all(start, [Subtree(("stays",)), Subtree(("changes",))], 4)
            assert (usage.apparent_bytes, usage.files, usage.directories, usage.complete) == (1000, 100, 101, True)
    finally:
        ended.set()
        writer.join()
        os.close(start)


def check_stop(directory: Path) -> None:
    """Raise in `advance`: the walk ends, leaves no descriptor open, and passes the exception on."""

    class StopError(Exception):
        pass

    def stop(_finished: int) -> None:
        raise StopError

    start = os.open(directory.parent, os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    try:
        for threads in (1, 4):
            try:
                measure_all(start, [Subtree((directory.name,))] * 50, threads, stop)
            except StopError:
                continue
            raise AssertionError("the walk did not stop")
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(start)


def check_deleted(directory: Path) -> None:
    """Delete all subtrees of a directory, some of them read-only, with few and many threads:
    nothing is left."""
    names = sorted(os.listdir(directory))
    for number, name in enumerate(names):
        if number % 3 == 0 and (directory / name).is_dir():
            (directory / name).chmod(0o500)
    parent = os.open(directory, os.O_RDONLY)
    before = os.listdir("/proc/self/fd")
    try:
        for part, threads in ((names[::2], 8), (names, 2)):
            assert not any(delete_trees(parent, part, "shown", threads, lambda: False))
            assert not {*part} & {*os.listdir(directory)}
        assert os.listdir("/proc/self/fd") == before
    finally:
        os.close(parent)


def main(module: str, directory: str) -> None:
    """Run all checks below a directory."""
    load(module)
    top = Path(directory).resolve()
    chance = random.Random(_SEED)  # noqa: S311 - trees, not secrets
    (top / "random").mkdir()
    for number in range(12):
        random_tree(top / "random" / str(number), chance, 150)
    special_trees(top / "special")
    for trees in ("random", "special"):
        check_equal(top / trees)
        check_stop(top / trees)
    for trees in ("random", "special"):
        check_deleted(top / trees)
    (top / "changing").mkdir()
    check_changing_tree(top / "changing")


if __name__ == "__main__":
    main(*sys.argv[1:])
