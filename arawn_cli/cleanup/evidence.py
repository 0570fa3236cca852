"""Read when each scratch session was last used: Arawn's messages and database rows."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from arawn_cli.arawn.database import SessionRows, session_rows
from arawn_cli.arawn.layout import MAIN, SCRATCH, WORKSTREAMS
from arawn_cli.arawn.root import Root
from arawn_cli.arawn.turns import messages_reader
from arawn_cli.cleanup.plan import Policy, can_turns_decide, decide_all
from arawn_cli.cleanup.sessions import Decision, ScratchSession, TurnEvidence
from arawn_cli.errors import Failure
from arawn_cli.fs.openat import NO_IDENTITY
from arawn_cli.fs.usage import Usage
from arawn_cli.sqlite import DatabaseUnreadableError, Signature, never_stopping, signature


def is_used_since(removed_at: int, evidence: TurnEvidence) -> bool | None:
    """Whether a session has a turn after its removal, by complete evidence; None in doubt."""
    if evidence.last_turn is not None and evidence.last_turn > removed_at:
        return True
    if not evidence.complete or (evidence.damage is not None and evidence.damage.at > removed_at):
        return None
    return False


def decide_by_evidence(
    sessions: Sequence[ScratchSession], measured: Mapping[str, Usage], evidence: Evidence, policies: Collection[Policy], now: int
) -> dict[Policy, list[Decision]]:
    """Decide on measured sessions by each policy; read the messages if they can change a decision.

    Raises:
        StoppedError: a signal asked the run to end.
    """
    youngest = min(policies, key=lambda policy: policy.older_than_days)
    known: list[ScratchSession] = []
    for session in evidence.add_to(sessions, measured):
        known.append(session)
        if can_turns_decide(session, youngest, now):
            evidence.complete()
            known = list(evidence.add_to(sessions, measured))
            break
    return {policy: decide_all(known, policy, now) for policy in set(policies)}


class Evidence:
    """The evidence of all sessions, read for the plan and again before and after each removal.

    A turn counts in the messages of any workstream, with or without a database row.
    """

    def __init__(
        self, listed: Iterable[ScratchSession], root: Root, stopping: Callable[[], bool] = never_stopping, *, removed: Iterable[str] = ()
    ) -> None:
        """Read rows of sessions, and on Arawn's main branch the times of their messages.

        Args:
            listed: the sessions in their place.
            root: the open root.
            stopping: returns whether a signal asked the run to end.
            removed: ids of sessions in the trash.

        Raises:
            StoppedError: it did.
        """
        # A mount in place of a session may hang, and keeps it anyway.
        names = {session.name for session in listed if not session.is_foreign and session.identity != NO_IDENTITY}
        self._root = root
        self._stopping = stopping
        self._sessions = frozenset({*names, *removed})
        self._rows = SessionRows({}, frozenset())
        self._signature: Signature = ()
        self._database_failure: Failure | None = None
        self._no_evidence: Failure | None = None
        self._read_rows()
        self._messages = messages_reader(root, self._sessions, self._rows.workstreams_with_turns, stopping)
        if root.layout is MAIN:
            self.complete()

    def complete(self) -> None:
        """Read all messages.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if not self._sessions:
            return
        self._messages.read(self._sessions)
        if self._root.database is None and not self._messages.found and not self._messages.failures:
            missing = "there are neither messages nor a database: nothing records when a session was used"
            self._no_evidence = Failure("read", WORKSTREAMS, errno.ENODATA, missing)

    def of(self, session: str, shared: tuple[Failure, ...] | None = None) -> TurnEvidence:
        """Return the evidence of a session read so far; `shared` are the failures, if known."""
        row = self._rows.rows.get(session)
        own: list[Failure] = []
        if row and row.unreadable and self._root.database:
            own.append(Failure("parse", f"{self._root.shown_database} row {session}", errno.EINVAL, "a time is not RFC 3339"))
        if session in self._messages.own_failures:
            own.append(self._messages.own_failures[session])
        return TurnEvidence(
            self._messages.newest.get(session),
            row.newest if row else None,
            self.failures if shared is None else shared,
            tuple(own),
            workstream=row.workstream_id if row and row.workstream_id != SCRATCH else self._messages.attached.get(session),
            damage=self._messages.damage_of(session),
        )

    def add_to(self, sessions: Iterable[ScratchSession], measured: Mapping[str, Usage]) -> Iterator[ScratchSession]:
        """Yield the sessions with their evidence, and the usage of those that were measured."""
        shared = self.failures
        return (replace(session, evidence=self.of(session.name, shared), usage=measured.get(session.name)) for session in sessions)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The sources that could not be read and concern all sessions."""
        return tuple(failure for failure in (self._database_failure, self._no_evidence, *self._messages.failures.values()) if failure)

    @property
    def damaged_lines(self) -> int:
        """Number of lines that are not messages."""
        return self._messages.damaged_lines

    def reread(self, sessions: Collection[str]) -> None:
        """Read what the server has written since, as far as it can concern these sessions.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        if self._root.database is not None and signature(self._root.database) != self._signature:
            self._read_rows()
        self._messages.read(sessions)

    def _read_rows(self) -> None:
        """Read the rows of all sessions in one transaction."""
        path = self._root.database
        if path is None or not self._sessions:
            return
        self._signature = signature(path)
        try:
            self._rows = session_rows(path, self._root.layout, self._sessions, self._stopping)
        except DatabaseUnreadableError as error:
            self._database_failure = Failure("query", self._root.shown_database, errno.EIO, str(error).removeprefix(f"{path}: "))
