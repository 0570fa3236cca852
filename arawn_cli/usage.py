"""Measuring trees through directory descriptors: no recursion, no link followed, no other filesystem entered."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from arawn_cli.descent import Descent
from arawn_cli.descriptors import opened_directory
from arawn_cli.model import Failure, HardLinks, Identity, Usage, identity_of, latest
from arawn_cli.names import escape

_THREADS_MAX = 8
_BLOCK = 512  # the unit of st_blocks, whatever the filesystem's block size (stat(2))


@dataclass(frozen=True, slots=True)
class Subtree:
    """A file or directory to measure: the names that lead to it from the starting directory, the last its own.

    `shallow` leaves out what is below it.
    """

    names: tuple[str, ...]
    shallow: bool = False

    @property
    def shown(self) -> str:
        """The path for people, relative to the starting directory."""
        return "/".join(self.names)


def measure(parent: int, name: str, shown: str, *, shallow: bool = False) -> Usage:
    """Measures the entry `name` of the open directory `parent`, and everything below it.

    Only regular files count in `apparent_bytes` and `files`, as Arawn counts;
    blocks are counted of everything. An entry that vanishes meanwhile is no failure.
    """
    tally = _Tally()
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        return tally.fail("stat", shown, error).total()
    if shallow or not stat.S_ISDIR(top.st_mode):
        tally.add(top)
        return tally.total()
    with Descent(shown) as descent:
        _enter(descent, tally, name, parent, top.st_dev)
        try:
            while descent.depth:
                _step(descent, tally, top.st_dev)
        except OSError as error:
            tally.fail("openat", descent.path(".."), error)
    return tally.total()


def measure_all(start: int, subtrees: Sequence[Subtree], threads: int, advance: Callable[[], None]) -> list[Usage]:
    """Measures every subtree below the open directory `start`, spread over threads.

    `advance` is called after each, from this thread. The answers have the order of the subtrees.
    """
    if threads == 1 or len(subtrees) < 2:
        return [_advancing(_measure_at(start, subtree), advance) for subtree in subtrees]
    pool = ThreadPoolExecutor(threads, "measure")
    try:
        return [_advancing(usage, advance) for usage in pool.map(lambda subtree: _measure_at(start, subtree), subtrees)]
    finally:
        pool.shutdown(cancel_futures=True)


def threads_for(configured: int) -> int:
    """How many threads measure: as configured, or for 0 one for each processor that this process may use."""
    return configured or min(len(os.sched_getaffinity(0)), _THREADS_MAX)


def combined(usages: Iterable[Usage]) -> Usage:
    """What several trees use together: a file with names in more than one of them counts once."""
    tally = _Tally()
    for usage in usages:
        tally.merge(usage)
    return tally.total()


def _advancing(usage: Usage, advance: Callable[[], None]) -> Usage:
    advance()
    return usage


def _measure_at(start: int, subtree: Subtree) -> Usage:
    shown = subtree.shown
    if len(subtree.names) == 1:
        return measure(start, subtree.names[0], shown, shallow=subtree.shallow)
    try:
        with opened_directory(start, *subtree.names[:-1]) as parent:
            return measure(parent, subtree.names[-1], shown, shallow=subtree.shallow)
    except OSError as error:
        return _Tally().fail("openat", shown, error).total()


def _enter(descent: Descent, tally: _Tally, name: str, parent: int, device: int) -> None:
    try:
        status = descent.enter(name, parent)
    except OSError as error:
        tally.fail("openat", descent.path(name) if descent.depth else descent.path(), error)
        return
    if status.st_dev != device:
        tally.other_filesystems.append(escape(descent.path()))
        descent.leave()
        return
    tally.add(status)
    _list(descent, tally)


def _list(descent: Descent, tally: _Tally) -> None:
    """Counts what the directory holds and keeps the names of its subdirectories."""
    pending = descent.here.pending
    try:
        with os.scandir(descent.descriptor) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.name)
                    continue
                try:
                    tally.add(entry.stat(follow_symlinks=False))
                except OSError as error:
                    tally.fail("stat", descent.path(entry.name), error)
    except OSError as error:
        tally.fail("getdents64", descent.path(), error)


def _step(descent: Descent, tally: _Tally, device: int) -> None:
    pending = descent.here.pending
    if pending:
        _enter(descent, tally, pending.pop(), descent.descriptor, device)
    else:
        descent.leave()


@dataclass(slots=True)
class _Tally:
    apparent: int = 0
    allocated: int = 0
    files: int = 0
    directories: int = 0
    newest: int | None = None
    linked: dict[Identity, HardLinks] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    other_filesystems: list[str] = field(default_factory=list)

    def add(self, status: os.stat_result) -> None:
        if self.newest is None or status.st_mtime_ns > self.newest:
            self.newest = status.st_mtime_ns
        allocated = status.st_blocks * _BLOCK
        if stat.S_ISDIR(status.st_mode):
            self.directories += 1
        elif stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1:
                self._link(identity_of(status), HardLinks(status.st_size, allocated, 1, status.st_nlink))
                return
            self.files += 1
            self.apparent += status.st_size
        self.allocated += allocated

    def _link(self, identity: Identity, found: HardLinks) -> None:
        known = self.linked.get(identity)
        if known is not None:
            self.linked[identity] = replace(known, met=known.met + found.met)
            return
        self.linked[identity] = found
        self.files += 1
        self.apparent += found.apparent
        self.allocated += found.allocated

    def fail(self, operation: str, path: str, error: OSError) -> _Tally:
        if not isinstance(error, FileNotFoundError):
            self.failures.append(Failure.of(operation, path, error))
        return self

    def merge(self, usage: Usage) -> None:
        shared = usage.linked.values()
        self.apparent += usage.apparent_bytes - sum(file.apparent for file in shared)
        self.allocated += usage.allocated_bytes - sum(file.allocated for file in shared)
        self.files += usage.files - len(usage.linked)
        self.directories += usage.directories
        self.newest = latest(self.newest, usage.newest_mtime)
        for identity, file in usage.linked.items():
            self._link(identity, file)
        self.failures += usage.failures
        self.other_filesystems += usage.other_filesystems

    def total(self) -> Usage:
        return Usage(
            self.apparent,
            self.allocated,
            self.files,
            self.directories,
            self.newest,
            self.linked,
            tuple(self.failures),
            tuple(self.other_filesystems),
        )
