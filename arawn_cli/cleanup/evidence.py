"""Read when each scratch session was last used: Arawn's messages and database rows."""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from arawn_cli.arawn import database, messages
from arawn_cli.arawn.database import SessionRow
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, WORKSTREAMS
from arawn_cli.arawn.root import Root
from arawn_cli.cleanup.plan import Policy
from arawn_cli.cleanup.sessions import ScratchSession, TurnEvidence
from arawn_cli.config.loader import Config
from arawn_cli.errors import Failure
from arawn_cli.fs.openat import opened_directory, opened_file
from arawn_cli.names import is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError, signature
from arawn_cli.timestamps import latest


def read_evidence(listed: Iterable[ScratchSession], config: Config, root: Root, now: int) -> Evidence:
    """Read the evidence of the listed sessions; `now` is in nanoseconds since the epoch."""
    ids = {session.name for session in listed if is_valid_id(session.name)}
    return Evidence(root, ids, Policy.of(config).cutoff(now))


@dataclass(slots=True)
class _Source:
    """The messages of a workstream. `mark` is where reading ended; None if there are none yet."""

    workstream_id: str
    position: messages.LogPosition | None = None
    failure: Failure | None = None


class Evidence:
    """The evidence of all sessions, read for the plan and again before each removal.

    If the row of a session names another workstream, that workstream's messages are read, too.
    Several threads may use it.
    """

    def __init__(self, root: Root, sessions: Collection[str], cutoff: int) -> None:
        """Read the evidence of these sessions.

        Args:
            root: the open root.
            sessions: ids of the sessions.
            cutoff: older turns need not be found; see `messages.read`.
        """
        self._workstreams = root.workstreams
        self._generation = root.layout.generation
        self._database = root.database
        self._database_name = root.database.name if root.database else ""
        self._sessions = frozenset(sessions)
        self._cutoff = cutoff
        self._newest: dict[str, int] = {}
        self._rows: dict[str, SessionRow] = {}
        self._database_failure: Failure | None = None
        self._lock = threading.Lock()
        self.unreadable_lines = 0
        self._signature = signature(root.database) if root.database else ()
        self._read_rows(self._sessions)
        self._sources = {SCRATCH: _Source(SCRATCH)}
        self._read_all_messages()

    def of(self, session: str) -> TurnEvidence:
        """Return the evidence of a session that was read so far."""
        row = self._rows.get(session)
        own = Failure("parse", f"{self._database_name} row {session}", errno.EINVAL, "a time is not RFC 3339")
        return TurnEvidence(
            self._newest.get(session),
            row.newest if row else None,
            self.failures,
            (*((own,) if row and row.unreadable else ()), *self._failures_of(row)),
        )

    def add_to(self, sessions: Iterable[ScratchSession]) -> list[ScratchSession]:
        """Return the sessions with their evidence."""
        return [replace(session, evidence=self.of(session.name)) for session in sessions]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The sources that could not be read and concern all sessions."""
        return tuple(failure for failure in (self._database_failure, self._sources[SCRATCH].failure) if failure)

    def _failures_of(self, row: SessionRow | None) -> tuple[Failure, ...]:
        """Return why the messages of the workstream that a row names could not be read."""
        source = self._sources.get(row.workstream_id) if row and row.workstream_id != SCRATCH else None
        return (source.failure,) if source and source.failure else ()

    def reread(self, session: str) -> TurnEvidence:
        """Read what the server has written since, and return the evidence of a session."""
        with self._lock:
            if self._database is not None:
                current = signature(self._database)
                if current != self._signature:
                    self._read_rows({session})
            self._read_all_messages()
            return self.of(session)

    def _read_rows(self, sessions: Collection[str]) -> None:
        if self._database is None or not sessions:
            return
        try:
            self._rows.update(database.session_rows(self._database, self._generation, sessions))
        except DatabaseUnreadableError as error:
            self._database_failure = Failure("query", self._database_name, errno.EIO, str(error))

    def _read_all_messages(self) -> None:
        """Read the messages of scratch and of every workstream that a row names."""
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
                turns = messages.read(descriptor, self._sessions, self._cutoff, source.position)
        except FileNotFoundError as error:
            if source.position is not None:
                source.failure = _failure(source, error)
            return
        except OSError as error:
            source.failure = _failure(source, error)
            return
        source.position = turns.position
        self.unreadable_lines += turns.unreadable_lines
        for session, turn in turns.newest.items():
            self._newest[session] = latest(self._newest.get(session), turn) or turn


def _failure(source: _Source, error: OSError) -> Failure:
    return Failure.of("read", f"{WORKSTREAMS}/{source.workstream_id}/{MESSAGES}", error)
