"""Read when each scratch session was last used: Arawn's messages and database rows."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from arawn_cli.arawn.database import SessionRows, session_rows
from arawn_cli.arawn.layout import SCRATCH, WORKSTREAMS
from arawn_cli.arawn.root import Root
from arawn_cli.arawn.turns import messages_reader
from arawn_cli.cleanup.plan import Policy
from arawn_cli.cleanup.sessions import ScratchSession, TurnEvidence
from arawn_cli.config.loader import Config
from arawn_cli.errors import Failure, StoppedError
from arawn_cli.sqlite import DatabaseUnreadableError, Signature, never_stopping, signature


def read_evidence(
    listed: Iterable[ScratchSession], config: Config, root: Root, now: int, stopping: Callable[[], bool] = never_stopping
) -> Evidence:
    """Read the evidence of the listed sessions; `now` is in nanoseconds since the epoch.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    return Evidence(root, {session.name for session in listed if not session.is_foreign}, Policy.of(config).cutoff(now), stopping)


class Evidence:
    """The evidence of all sessions, read for the plan and again before and after each removal.

    A turn counts in the messages of any workstream, with or without a database row.
    """

    def __init__(self, root: Root, sessions: Collection[str], cutoff: int, stopping: Callable[[], bool] = never_stopping) -> None:
        """Read the evidence of these sessions.

        Args:
            root: the open root.
            sessions: ids of the sessions.
            cutoff: older turns need not be found; see `messages.read`.
            stopping: returns whether a signal asked the run to end.

        Raises:
            StoppedError: it did.
        """
        self._root = root
        self._stopping = stopping
        self._sessions = frozenset(sessions)
        self._rows = SessionRows({}, frozenset())
        self._signature: Signature = ()
        self._database_failure: Failure | None = None
        self._no_evidence: Failure | None = None
        self._read_rows()
        self._messages = messages_reader(root, self._sessions, cutoff, self._rows.workstreams_with_turns)
        if not self._sessions:
            return
        self._messages.read(decided=[row.id for row in self._rows.rows.values() if row.newest is not None and row.newest >= cutoff])
        if root.database is None and not self._messages.found and not self._messages.failures:
            missing = "there are neither messages nor a database: nothing records when a session was used"
            self._no_evidence = Failure("read", WORKSTREAMS, errno.ENODATA, missing)

    def of(self, session: str) -> TurnEvidence:
        """Return the evidence of a session that was read so far."""
        row = self._rows.rows.get(session)
        own: list[Failure] = []
        if row and row.unreadable and self._root.database:
            own.append(Failure("parse", f"{self._root.database.name} row {session}", errno.EINVAL, "a time is not RFC 3339"))
        if session in self._messages.own_failures:
            own.append(self._messages.own_failures[session])
        return TurnEvidence(
            self._messages.newest.get(session),
            row.newest if row else None,
            self.failures,
            tuple(own),
            workstream=row.workstream_id if row and row.workstream_id != SCRATCH else self._messages.attached.get(session),
        )

    def add_to(self, sessions: Iterable[ScratchSession]) -> list[ScratchSession]:
        """Return the sessions with their evidence."""
        return [replace(session, evidence=self.of(session.name)) for session in sessions]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The sources that could not be read and concern all sessions."""
        return tuple(failure for failure in (self._database_failure, self._no_evidence, *self._messages.failures.values()) if failure)

    @property
    def unreadable_lines(self) -> int:
        """Number of lines that are not messages."""
        return self._messages.unreadable_lines

    def reread(self, sessions: Collection[str]) -> None:
        """Read what the server has written since, as far as it can concern these sessions."""
        if self._root.database is not None and signature(self._root.database) != self._signature:
            try:
                self._read_rows()
            except StoppedError as error:  # the sessions are put back
                self._database_failure = Failure("query", self._root.database.name, errno.EINTR, str(error))
        self._messages.reread(sessions)

    def _read_rows(self) -> None:
        """Read the rows of all sessions in one transaction."""
        path = self._root.database
        if path is None or not self._sessions:
            return
        self._signature = signature(path)
        try:
            self._rows = session_rows(path, self._root.layout.generation, self._sessions, self._stopping)
        except DatabaseUnreadableError as error:
            self._database_failure = Failure("query", path.name, errno.EIO, str(error))
