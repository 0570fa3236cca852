"""Measure Arawn's own files: everything in its directory except the workstreams.

These are databases, models, logs and feed mirrors. No cleanup removes them.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.arawn.layout import DATABASE_V0, MAIN, WORKSTREAMS
from arawn_cli.arawn.root import Root, home_directories, mounts_below, without_mounts
from arawn_cli.context import RunContext
from arawn_cli.errors import Failure
from arawn_cli.fs.measure import Subtree, measure_all
from arawn_cli.fs.mounts import require_answer
from arawn_cli.fs.openat import FileKind, entries
from arawn_cli.fs.usage import Usage, combined
from arawn_cli.names import escape
from arawn_cli.sqlite import COMPANIONS

_BACKUPS = ".arawn-backups"


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """The usage of Arawn's own files.

    Attributes:
        directory: Arawn's directory.
        entries: the usage of each of its entries by escaped name, that of a directory with `/`. A
            database includes the files that SQLite keeps beside it.
        failure: why the directory could not be listed, or None.
    """

    directory: Path
    entries: dict[str, Usage]
    failure: Failure | None = None

    @property
    def total(self) -> Usage:
        """All entries; a file linked from several of them counts once."""
        listing = () if self.failure is None else (Usage(failures=(self.failure,)),)
        return combined((*self.entries.values(), *listing))


def own_directory(root: Root) -> Path | None:
    """Return Arawn's directory, or None if it is not known or not Arawn's alone.

    On main it is the root. Arawn 0.0 keeps its database in its configuration directory, which may
    be anywhere. A home directory, a directory in `/` and one that everyone can write to have other
    files, too.
    """
    if root.layout is MAIN:
        return root.path
    if root.database is None or root.database.name != DATABASE_V0:
        return None
    directory = root.database.parent
    if directory == root.path:
        return directory
    try:
        status = directory.stat()
    except OSError:
        return None
    is_shared = len(directory.parts) < 3 or status.st_mode & stat.S_IWOTH or directory in home_directories(status.st_uid)
    return None if is_shared else directory


def measure_own_files(root: Root, threads: int, context: RunContext) -> OwnFiles | None:
    """Measure Arawn's own files, or return None if its directory is not known.

    No link is followed and no other filesystem entered.

    Raises:
        StoppedError: a signal asked the run to end.
    """
    directory = own_directory(root)
    return None if directory is None else measure_entries(directory, root.path / WORKSTREAMS, threads, context)


def measure_backups(root: Root, threads: int, context: RunContext) -> OwnFiles | None:
    """Measure the backups of Arawn, or return None if there are none that can be read.

    They are in `.arawn-backups` in the home directory of the account that owns the root.

    Raises:
        StoppedError: a signal asked the run to end.
    """
    owner = root.path.stat().st_uid
    try:
        home = Path.home() if owner == os.geteuid() else Path(pwd.getpwuid(owner).pw_dir)
    except (KeyError, RuntimeError):  # no such account, or it has no home
        return None
    found = measure_entries(home / _BACKUPS, root.path / WORKSTREAMS, threads, context)
    return None if found.failure else found


def measure_entries(directory: Path, workstreams: Path, threads: int, context: RunContext) -> OwnFiles:
    """Measure each entry of a directory, without the `workstreams/` that may be below it.

    Paths in failures are relative to the root, which contains `workstreams`.

    Raises:
        StoppedError: a signal asked the run to end.
    """
    inner = workstreams.relative_to(directory).parts if workstreams.is_relative_to(directory) else ()
    relative = os.path.relpath(directory, workstreams.parent)
    try:
        require_answer(str(directory), context.stopping)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return OwnFiles(directory, {}, Failure.of("open", relative, error))
    usages: defaultdict[str, list[Usage]] = defaultdict(list)
    try:
        parts = list(_parts(descriptor, directory.resolve(), relative, inner))
        context.progress.start("measuring Arawn's own files", len(parts))
        measured = measure_all(descriptor, [subtree for _, subtree in parts], threads, context.advance_or_stop)
    except OSError as error:
        return OwnFiles(directory, {}, Failure.of("list", relative, error))
    finally:
        os.close(descriptor)
    for (name, _), usage in zip(parts, measured, strict=True):
        usages[name].append(usage)
    return OwnFiles(directory, {name: combined(parts) for name, parts in usages.items()})


def _parts(descriptor: int, directory: Path, relative: str, excluded: tuple[str, ...]) -> Iterator[tuple[str, Subtree]]:
    """Yield the subtrees of an open directory without mounts, and without this path below it.

    Each has the name of the entry of the directory that it belongs to.
    """
    left_out = dict.fromkeys(filter(None, (*mounts_below(directory), excluded)), False)
    for entry in entries(descriptor):
        shown = _shown(entry.name, is_directory=entry.kind is FileKind.DIRECTORY)
        for subtree in without_mounts(descriptor, Subtree((entry.name,)), left_out):
            yield shown, subtree._replace(shown=os.path.normpath(os.path.join(relative, *subtree.names)))


def _shown(name: str, *, is_directory: bool) -> str:
    """Return the name of an entry, or that of the database that a file of SQLite belongs to."""
    if is_directory:
        return f"{escape(name)}/"
    suffix = next((suffix for suffix in COMPANIONS if name.endswith(f".db{suffix}")), "")
    return escape(name.removesuffix(suffix))
