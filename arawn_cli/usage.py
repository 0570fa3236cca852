"""Measuring trees: by the native module on every core where it is installed, else in Python, with the same answers."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arawn_cli import native
from arawn_cli.descriptors import opened_directory
from arawn_cli.instants import SECOND
from arawn_cli.model import Failure, HardLinks, Usage
from arawn_cli.names import escape
from arawn_cli.native import Measured
from arawn_cli.tally import Tally

_THREADS_PER_PROCESSOR = 4  # most wait for the disk, where its contents are not in memory
_THREADS_MAX = 16
_DESCRIPTORS = 64  # for one thread: the way down a tree that it takes apart, and names of it that others unlink meanwhile


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


def _nobody(_finished: int) -> None:
    """Nobody waits to be told how far it is."""


def measure(parent: int, name: str, shown: str) -> Usage:
    """Measures the entry `name` of the open directory `parent`, and everything below it; `shown` is its path for people.

    Only regular files count in `apparent_bytes` and `files`, as Arawn counts;
    blocks are counted of everything. An entry that vanishes meanwhile is no failure.
    """
    if native.module is None:
        return _walk(parent, name, shown)
    (measured,) = native.module.measure(parent, ((os.fsencode(name), False),), 1, _nobody)
    usage = _usage(measured, shown)
    return _walk(parent, name, shown) if _lacked_descriptors(usage) else usage


def measure_all(start: int, subtrees: Sequence[Subtree], threads: int, advance: Callable[[int], None] = _nobody) -> list[Usage]:
    """Measures every subtree below the open directory `start`, natively by so many threads.

    `advance` is called from this thread every now and then, with the number of subtrees that were finished since; what
    it raises ends the measuring. The answers have the order of the subtrees.
    """
    if native.module is None:
        return _measure_in_python(start, subtrees, advance)
    given = tuple((b"\0".join(map(os.fsencode, subtree.names)), subtree.shallow) for subtree in subtrees)
    found = native.module.measure(start, given, threads, advance)
    usages = [_usage(measured, subtree.shown) for measured, subtree in zip(found, subtrees, strict=True)]
    return [_walk_at(start, subtree) if _lacked_descriptors(usage) else usage for usage, subtree in zip(usages, subtrees, strict=True)]


def threads_for(configured: int) -> int:
    """How many threads measure and remove: as configured, or for 0 by the processors that this process may use.

    Fewer where the process may not have descriptors enough for so many.
    """
    wanted = configured or min(len(os.sched_getaffinity(0)) * _THREADS_PER_PROCESSOR, _THREADS_MAX)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(wanted, descriptors // _DESCRIPTORS), 1)


def means_of_measuring() -> str:
    """What measures, for people."""
    return "measures in Python: the native module was not built" if native.module is None else "measures natively, on every core"


def _measure_in_python(start: int, subtrees: Sequence[Subtree], advance: Callable[[int], None]) -> list[Usage]:
    """In this thread alone: several would take turns at the interpreter, which costs more than a second processor gives."""
    usages = []
    for subtree in subtrees:
        usages.append(_walk_at(start, subtree))
        advance(1)
    return usages


def _walk_at(start: int, subtree: Subtree) -> Usage:
    shown = subtree.shown
    if len(subtree.names) == 1:
        return _walk(start, subtree.names[0], shown, shallow=subtree.shallow)
    try:
        with opened_directory(start, *subtree.names[:-1]) as parent:
            return _walk(parent, subtree.names[-1], shown, shallow=subtree.shallow)
    except OSError as error:
        return Tally().fail("openat", shown, error).total()


def _walk(parent: int, name: str, shown: str, *, shallow: bool = False) -> Usage:
    try:
        from arawn_cli.walk import walk
    except OSError as error:  # no descriptor is left, not even to load it with
        return Tally().fail("openat", shown, error).total()
    return walk(parent, name, shown, shallow=shallow)


def _usage(measured: Measured, shown: str) -> Usage:
    (apparent, allocated, files, directories, largest, time), links, failures, others = measured
    newest = None if time is None else time[0] * SECOND + time[1]
    if not (links or failures or others):
        return Usage(apparent, allocated, files, directories, largest, newest)
    tally = Tally(apparent, allocated, files, directories, largest, newest)
    for device, inode, size, blocks, met, count in links:
        tally.link((device, inode), HardLinks(size, blocks, met, count))
    tally.failures += [Failure(operation, _below(shown, path), number) for operation, path, number in failures]
    tally.other_filesystems += [_below(shown, path) for path in others]
    return tally.total()


def _below(shown: str, path: bytes) -> str:
    return escape(f"{shown}/{os.fsdecode(path)}" if path else shown)


def _lacked_descriptors(usage: Usage) -> bool:
    """Whether the threads of the native walk ran out of descriptors, of which the one in Python needs fewer."""
    return any(failure.errno in (errno.EMFILE, errno.ENFILE) for failure in usage.failures)
