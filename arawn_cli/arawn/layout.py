"""Describe where each generation of Arawn keeps workstreams and sessions, and find out which one wrote a tree.

Arawn 0.0 keeps the scratch sessions in `scratch/sessions/<id>/work/` and the turns of all of them in
`scratch/messages.jsonl`. Arawn's main branch keeps each in `scratch/<uuid>/`, with its own
`messages.jsonl`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.openat import FileKind, entries, opened_directory
from arawn_cli.names import is_uuid, is_valid_id
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


class Generation(StrEnum):
    """The generations of Arawn, by the name that messages use."""

    V0 = "Arawn 0.0"
    MAIN = "Arawn (main branch)"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a generation keeps scratch sessions below `workstreams/`.

    Attributes:
        sessions: names from `workstreams/` to the directory that holds the scratch sessions.
        kept: name in a session directory that its chat needs: a directory in 0.0, a file on main.
    """

    generation: Generation
    sessions: tuple[str, ...]
    kept: str

    def is_session_id(self, name: str) -> bool:
        """Return whether this generation gives sessions such names."""
        return is_valid_id(name) if self.generation is Generation.V0 else is_uuid(name)

    def is_session(self, name: str, kind: FileKind) -> bool:
        """Return whether an entry of the directory of sessions can be one, or should be reported as foreign.

        On main, Arawn keeps its own files (`memory.db`) beside the sessions.
        """
        return self.generation is Generation.V0 or kind is not FileKind.FILE or is_uuid(name)


V0 = Layout(Generation.V0, (SCRATCH, SESSIONS), WORK)
MAIN = Layout(Generation.MAIN, (SCRATCH,), MESSAGES)


def find_layout(workstreams: int, path: Path, database: Path | None) -> Layout:
    """Return the layout of an open `workstreams/` directory.

    The columns of the database decide. Without a readable database, the tree decides. An empty tree
    is that of a new server.

    Raises:
        ConfigurationError: the tree has the signs of both generations, or of none.
    """
    if database is not None and (layout := _of_database(database)) is not None:
        return layout
    try:
        signs = set(_signs(workstreams))
        empty = not entries(workstreams)
    except OSError as error:
        raise ConfigurationError(f"cannot list {path}: {error.strerror}") from error
    if empty:
        return MAIN if database is not None and database.name == DATABASE_MAIN else V0
    if len(signs) == 1:
        return V0 if signs == {Generation.V0} else MAIN
    found = "both generations of Arawn" if signs else "neither generation of Arawn"
    raise ConfigurationError(
        f"{path} has the files of {found} ({Generation.V0}: scratch/{SESSIONS}/ or NAME/{PRODUCTION}/, NAME/{WORK}/ or NAME/{MESSAGES}; "
        f"{Generation.MAIN}: NAME/UUID/{MESSAGES}), and no database says which it is: name the right root with --base-path, "
        "or Arawn's database with [maintenance] database"
    )


def _of_database(path: Path) -> Layout | None:
    """Return the layout by the columns of the table `workstreams`, or None if they cannot be read."""
    try:
        rows = query(path, "SELECT name FROM pragma_table_info('workstreams')", (), text=str)
    except DatabaseUnreadableError:
        return None
    columns = {name for (name,) in rows}
    return V0 if "title" in columns else MAIN if "name" in columns else None


def _signs(workstreams: int) -> Iterator[Generation]:
    """Yield the generations whose files are in the tree."""
    for entry in entries(workstreams):
        if entry.kind is not FileKind.DIRECTORY or not is_valid_id(entry.name):
            continue
        try:
            with opened_directory(workstreams, entry.name) as directory:
                for inner in entries(directory):
                    is_directory = inner.kind is FileKind.DIRECTORY
                    is_scratch_sessions = (entry.name, inner.name) == (SCRATCH, SESSIONS)
                    if inner.name == MESSAGES or (is_directory and (inner.name in (PRODUCTION, WORK) or is_scratch_sessions)):
                        yield Generation.V0
                    elif is_directory and is_uuid(inner.name) and _has_messages(directory, inner.name):
                        yield Generation.MAIN
        except OSError:
            continue  # measuring and listing report it; the other workstreams decide


def _has_messages(workstream: int, session: str) -> bool:
    try:
        os.stat(f"{session}/{MESSAGES}", dir_fd=workstream, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
