"""Describe where each generation of Arawn keeps its files, and find which one wrote a tree.

Arawn 0.0 keeps the scratch sessions in `scratch/sessions/<id>/work/`, and the turns of all of them
in `scratch/messages.jsonl`. Arawn's main branch keeps each in `scratch/<uuid>/`, with its own
`messages.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.errors import ConfigurationError, never_stopping
from arawn_cli.fs.mounts import mount_points, require_answer
from arawn_cli.fs.openat import FileKind, entries, exists, opened_directory
from arawn_cli.names import ID_ALPHABETS, UUID_ALPHABETS, can_match, is_uuid, is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError, query

WORKSTREAMS = "workstreams"
SCRATCH = "scratch"
SESSIONS = "sessions"
PRODUCTION = "production"
WORK = "work"
MESSAGES = "messages.jsonl"
TRASH = ".trash"

DATABASE_V0 = "workstreams.db"
DATABASE_MAIN = "arawn.db"
DATABASES = (DATABASE_V0, DATABASE_MAIN)
"""Names of Arawn's databases."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a generation of Arawn keeps scratch sessions below `workstreams/`.

    Attributes:
        name: the name of the generation in messages.
        sessions: names from `workstreams/` to the directory that holds the scratch sessions.
        kept: name in a session directory that its chat needs: a directory in 0.0, a file on main.
    """

    name: str
    sessions: tuple[str, ...]
    kept: str

    def is_session_id(self, name: str) -> bool:
        """Return whether this generation gives sessions such names."""
        return is_valid_id(name) if self is V0 else is_uuid(name)

    def can_be_session_id(self, pattern: str) -> bool:
        """Return whether a shell pattern matches any id that this generation gives sessions."""
        return can_match(pattern, ID_ALPHABETS) if self is V0 else can_match(pattern, UUID_ALPHABETS, len(UUID_ALPHABETS))

    def is_session(self, name: str, kind: FileKind) -> bool:
        """Return whether an entry beside the sessions is one, or must be reported as foreign.

        On main, Arawn keeps its own files (`memory.db`) beside the sessions.
        """
        return self is V0 or kind is not FileKind.FILE or is_uuid(name)


SUPPORTED = "Arawn 0.0 (tag v0.0.0) and Arawn's main branch (tested with commit 5e085e4)"
"""The supported versions of Arawn, for people."""

V0 = Layout("Arawn 0.0", (SCRATCH, SESSIONS), WORK)
MAIN = Layout("Arawn (main branch)", (SCRATCH,), MESSAGES)

_SIGNS = f"{V0.name}: {SCRATCH}/{SESSIONS}/ or NAME/{PRODUCTION}/, NAME/{WORK}/ or NAME/{MESSAGES}; {MAIN.name}: NAME/UUID/{MESSAGES}"
_REMEDY = "name the right root with --base-path, or Arawn's database with [maintenance] database"


def find_layout(
    workstreams: int, path: Path, databases: Sequence[Path], stopping: Callable[[], bool] = never_stopping
) -> tuple[Layout, Path | None]:
    """Return the layout of an open `workstreams/` directory, and the database that belongs to it.

    The columns of the database decide, without a readable one the tree. If both generations left a
    database, the tree decides which one is in use. An empty tree is that of a new server.

    Args:
        workstreams: descriptor of the directory.
        path: its path, for messages.
        databases: the existing databases that can belong to it, first match first.
        stopping: returns whether a signal asked the run to end.

    Raises:
        StoppedError: a signal asked the run to end.
        ConfigurationError: the tree has the signs of both generations, or of none, or contradicts
            the database; a filesystem that is mounted at one of its directories does not answer.
    """
    layouts = {database: _of_database(database, stopping) for database in databases}
    known = {layout for layout in layouts.values() if layout is not None}
    try:
        _require_answers(path, stopping)
        if len(known) == 1:
            layout = known.pop()
            database = next(place for place, found in layouts.items() if found is layout)
            _refuse_contradiction(workstreams, path, layout, database, stopping)
        else:
            layout = _of_tree(workstreams, path, databases, stopping)
    except OSError as error:
        place = f"{path}/{error.filename}" if isinstance(error.filename, str) else path
        raise ConfigurationError(f"cannot read {place}: {error.strerror}") from error
    return layout, next((database for database, found in layouts.items() if found in (layout, None)), None)


def _require_answers(path: Path, stopping: Callable[[], bool]) -> None:
    """Check that filesystems which are mounted at scratch or its sessions answer.

    Raises:
        OSError: one does not.
    """
    try:
        points = mount_points()
    except OSError:  # without /proc; a job reports that, and keeps every session
        return
    for point in sorted(points & {f"{path}/{SCRATCH}", f"{path}/{SCRATCH}/{SESSIONS}"}):
        require_answer(point, stopping)


def _of_tree(workstreams: int, path: Path, databases: Sequence[Path], stopping: Callable[[], bool]) -> Layout:
    signs = set(_signs(workstreams, path, stopping))
    if not signs and not entries(workstreams):
        return MAIN if databases and databases[0].name == DATABASE_MAIN else V0
    if len(signs) == 1:
        return signs.pop()
    found = "both generations of Arawn" if signs else "neither generation of Arawn"
    raise ConfigurationError(f"{path} has the files of {found} ({_SIGNS}), and no database says which it is: {_REMEDY}")


def _refuse_contradiction(workstreams: int, path: Path, layout: Layout, database: Path, stopping: Callable[[], bool]) -> None:
    """Check that the tree is not that of the other generation, whose sessions would not be found.

    A workstream of the main branch holds any files of its agent, so only `scratch/` can tell that
    a tree is not of the main branch.
    """
    other = MAIN if layout is V0 else V0
    try:
        with opened_directory(workstreams, SCRATCH) as scratch:
            is_scratch_of_v0 = any(exists(name, scratch) for name in (SESSIONS, MESSAGES))
    except (FileNotFoundError, NotADirectoryError):  # a link to a directory is none
        is_scratch_of_v0 = False
    if is_scratch_of_v0 is not (layout is V0) and set(_signs(workstreams, path, stopping)) == {other}:
        raise ConfigurationError(
            f"{path} has the files of {other.name} ({_SIGNS}), but {database} is a database of {layout.name}: {_REMEDY}"
        )


def _of_database(path: Path, stopping: Callable[[], bool]) -> Layout | None:
    """Return the layout by the columns of `workstreams`, or None if they cannot be read."""
    try:
        rows = query(path, "SELECT name FROM pragma_table_info('workstreams')", (), stopping=stopping)
    except DatabaseUnreadableError:
        return None
    columns = {name for (name,) in rows}
    return V0 if b"title" in columns else MAIN if b"name" in columns else None


def _signs(workstreams: int, path: Path, stopping: Callable[[], bool]) -> Iterator[Layout]:
    """Yield the layouts whose files are in the tree, but not in a mount that hangs."""
    mounts = mount_points()
    for entry in entries(workstreams):
        if entry.kind is not FileKind.DIRECTORY or not is_valid_id(entry.name):
            continue
        try:
            if (point := f"{path}/{entry.name}") in mounts:
                require_answer(point, stopping)
            with opened_directory(workstreams, entry.name) as directory:
                for inner in entries(directory):
                    is_directory = inner.kind is FileKind.DIRECTORY
                    is_scratch_sessions = (entry.name, inner.name) == (SCRATCH, SESSIONS)
                    if inner.name == MESSAGES or (is_directory and (inner.name in (PRODUCTION, WORK) or is_scratch_sessions)):
                        yield V0
                    elif (
                        is_directory
                        and is_uuid(inner.name)
                        and f"{point}/{inner.name}" not in mounts
                        and exists(f"{inner.name}/{MESSAGES}", directory)
                    ):
                        yield MAIN
        except OSError:
            continue  # measuring and listing report it; the other workstreams decide
