"""When each scratch session was last used, as Arawn recorded it: message log and database row together."""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.arawn import database, messages
from arawn_cli.arawn.database import SessionRow
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, WORKSTREAMS
from arawn_cli.cleanup.sessions import TurnEvidence
from arawn_cli.errors import Failure
from arawn_cli.fs.openat import opened_directory, opened_file
from arawn_cli.names import is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError, signature
from arawn_cli.timestamps import latest


@dataclass(slots=True)
class _Source:
    """One `messages.jsonl`, and how far it has been read; no mark as long as it is not there."""

    workstream_id: str
    mark: messages.Mark | None = None
    failure: Failure | None = None


class Activity:
    """The record of turns: read once for a plan, and looked at again for single sessions later.

    A session whose row names another workstream is looked for in that workstream's messages too.
    Safe to use from several threads.
    """

    def __init__(self, workstreams: int, database_path: Path | None, sessions: Collection[str], cutoff: int) -> None:
        """Reads the evidence of the sessions.

        Args:
            workstreams: descriptor of `<root>/workstreams`.
            sessions: ids of the sessions that are asked about.
            database_path: Arawn's database, or None where there is none.
            cutoff: instant before which a turn need not be found; see `messages.read`.
        """
        self._workstreams = workstreams
        self._database = database_path
        self._rows_shown = database_path.name if database_path else ""
        self._sessions = frozenset(sessions)
        self._cutoff = cutoff
        self._newest: dict[str, int] = {}
        self._rows: dict[str, SessionRow] = {}
        self._database_failure: Failure | None = None
        self._lock = threading.Lock()
        self.unreadable_lines = 0
        self._signature = signature(database_path) if database_path else ()
        self._read_rows(self._sessions)
        self._sources = {SCRATCH: _Source(SCRATCH)}
        self._read_all_messages()

    def evidence(self, session: str) -> TurnEvidence:
        """What has been read about a session so far."""
        row = self._rows.get(session)
        own = Failure("parse", f"{self._rows_shown} row {session}", errno.EINVAL, "a time is not RFC 3339")
        return TurnEvidence(
            self._newest.get(session),
            row.newest if row else None,
            self.failures,
            (*((own,) if row and row.unreadable else ()), *self._failures_of(row)),
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The sources that could not be read and may have told of any session."""
        return tuple(failure for failure in (self._database_failure, self._sources[SCRATCH].failure) if failure)

    def _failures_of(self, row: SessionRow | None) -> tuple[Failure, ...]:
        """What could not be read of the workstream that a session has moved to."""
        source = self._sources.get(row.workstream_id) if row and row.workstream_id != SCRATCH else None
        return (source.failure,) if source and source.failure else ()

    def look_again(self, session: str) -> TurnEvidence:
        """The evidence after reading what the server has written since."""
        with self._lock:
            if self._database is not None:
                current = signature(self._database)
                if current != self._signature:
                    self._read_rows({session})
            self._read_all_messages()
            return self.evidence(session)

    def _read_rows(self, sessions: Collection[str]) -> None:
        if self._database is None or not sessions:
            return
        try:
            self._rows.update(database.session_rows(self._database, sessions))
        except DatabaseUnreadableError as error:
            self._database_failure = Failure("sqlite3", self._rows_shown, errno.EIO, str(error))

    def _read_all_messages(self) -> None:
        """Reads scratch's messages, and those of every workstream that a row names by now."""
        named = {row.workstream_id for row in self._rows.values() if is_valid_id(row.workstream_id)}
        for name in sorted(named - self._sources.keys()):
            self._sources[name] = _Source(name)
        for source in self._sources.values():
            self._read_messages(source)

    def _read_messages(self, source: _Source) -> None:
        try:
            with ExitStack() as stack:
                directory = stack.enter_context(opened_directory(self._workstreams, source.workstream_id))
                descriptor = stack.enter_context(opened_file(MESSAGES, directory))
                turns = messages.read(descriptor, self._sessions, self._cutoff, source.mark)
        except FileNotFoundError as error:
            if source.mark is not None:
                source.failure = _failure(source, error)
            return
        except OSError as error:
            source.failure = _failure(source, error)
            return
        source.mark = turns.mark
        self.unreadable_lines += turns.unreadable_lines
        for session, turn in turns.newest.items():
            self._newest[session] = latest(self._newest.get(session), turn) or turn


def _failure(source: _Source, error: OSError) -> Failure:
    return Failure.of("read", f"{WORKSTREAMS}/{source.workstream_id}/{MESSAGES}", error)
