"""Find the largest directories and the largest file of a workstream, for reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter

from arawn_cli.arawn.layout import PRODUCTION, SCRATCH, SESSIONS, TRASH, V0, WORK, WORKSTREAMS
from arawn_cli.arawn.root import Root
from arawn_cli.context import RunContext
from arawn_cli.fs.measure import Subtree, measure_all
from arawn_cli.fs.mounts import is_below
from arawn_cli.fs.openat import FileKind, entries, opened_directory
from arawn_cli.fs.usage import Usage

MAX_DIRECTORIES = 3
"""Directories that are named."""

# The search for the largest file measures the rest of the tree again on each level.
_MAX_LEVELS = 12

# Directories of Arawn 0.0 whose entries are more telling than they are.
_CONTAINERS = (PRODUCTION, WORK, SESSIONS, TRASH)


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest directories of a workstream, the largest first, and its largest file.

    Paths are relative to the workstream. A file deeper than twelve levels is given by its
    directory, with `/…`. A size is the one that `size_of` returned, that of the file its apparent
    size.
    """

    directories: tuple[tuple[str, int], ...]
    file: str
    file_bytes: int


_Names = tuple[str, ...]


def largest_in(
    root: Root, workstream: str, foreign: Collection[str], size_of: Callable[[Usage], int], threads: int, context: RunContext
) -> Largest | None:
    """Return the largest parts of a workstream, or None if it is empty or cannot be listed.

    `foreign` are the mounts in the tree, by their paths below the root. They may hang: a workstream
    with one of them inside is left out.

    Raises:
        StoppedError: a signal asked the run to end.
    """
    if any(is_below(path, f"{WORKSTREAMS}/{workstream}") for path in foreign):
        return None
    containers: list[_Names] = [(workstream,)]
    if root.layout is V0:
        containers += [(workstream, name) for name in _CONTAINERS]
    elif workstream == SCRATCH:
        containers.append((workstream, TRASH))
    kinds = {
        (*names, name): kind for names in containers for name, kind in _listed(root, names).items() if (*names, name) not in containers
    }
    usages = _measured(root, kinds, threads, context)
    if not usages:
        return None
    sizes = [(names, size_of(usage)) for names, usage in usages.items() if kinds[names] is FileKind.DIRECTORY]
    directories = sorted(sizes, key=itemgetter(1), reverse=True)
    path, size, is_file = _largest_file(root, kinds, usages, threads, context)
    return Largest(
        tuple(("/".join(names[1:]), number) for names, number in directories[:MAX_DIRECTORIES] if number),
        "/".join(path[1:]) + ("" if is_file else "/…"),
        size,
    )


def _largest_file(
    root: Root, kinds: Mapping[_Names, FileKind], usages: Mapping[_Names, Usage], threads: int, context: RunContext
) -> tuple[_Names, int, bool]:
    """Return the path and size of the largest file, and whether the path is complete."""
    path = max(usages, key=lambda names: usages[names].largest_file_bytes)
    size = usages[path].largest_file_bytes
    for _ in range(_MAX_LEVELS):
        if kinds[path] is FileKind.FILE:
            break
        kinds = {(*path, name): kind for name, kind in _listed(root, path).items()}
        usages = _measured(root, kinds, threads, context)
        if not usages:  # somebody removed it meanwhile
            return path, size, False
        path = max(usages, key=lambda names: usages[names].largest_file_bytes)
    return path, size, kinds[path] is FileKind.FILE


def _listed(root: Root, names: _Names) -> dict[str, FileKind]:
    """Return the entries of a directory; none if unreadable, which the check reports."""
    try:
        with opened_directory(root.workstreams, *names) as directory:
            return {entry.name: entry.kind for entry in entries(directory) if entry.kind in (FileKind.DIRECTORY, FileKind.FILE)}
    except OSError:
        return {}


def _measured(root: Root, paths: Collection[_Names], threads: int, context: RunContext) -> dict[_Names, Usage]:
    context.progress.start("searching", len(paths))
    usages = measure_all(root.workstreams, [Subtree(names) for names in paths], threads, context.advance_or_stop)
    return dict(zip(paths, usages, strict=True))
