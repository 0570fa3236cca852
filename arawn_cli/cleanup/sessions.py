"""Scratch sessions: what is known about each, and the decision."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.errors import Failure
from arawn_cli.events import Action, Reason
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import FileKind, Identity
from arawn_cli.timestamps import latest


@dataclass(frozen=True, slots=True)
class TurnEvidence:
    """When a session was used, as Arawn recorded it.

    What could not be read may have told of a later use: `shared_failures` of any session,
    `own_failures` of this one.
    """

    last_turn: int | None = None
    row: int | None = None
    shared_failures: tuple[Failure, ...] = ()
    own_failures: tuple[Failure, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.shared_failures and not self.own_failures

    @property
    def newest(self) -> int | None:
        """The later of last turn and row."""
        return latest(self.last_turn, self.row)


@dataclass(frozen=True, slots=True)
class ScratchSession:
    """An entry of `scratch/sessions/`.

    `has_mount` tells of a mount point at or below it; `usage` is None as long as it has not been measured.
    """

    name: str
    kind: FileKind
    identity: Identity
    has_mount: bool = False
    evidence: TurnEvidence = TurnEvidence()
    usage: Usage | None = None

    @property
    def last_activity(self) -> int | None:
        """The newest of all evidence, or None when there is none."""
        return latest(self.evidence.newest, self.usage.newest_mtime if self.usage else None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the plan says of one session: it goes when the reason is `expired`."""

    session: ScratchSession
    reason: Reason

    @property
    def goes(self) -> bool:
        """Whether the session is to be removed."""
        return self.reason is Reason.EXPIRED


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one session.

    `freed_bytes` is what the filesystem got back, zero for a session that waits in the trash.
    """

    session: ScratchSession
    action: Action
    reason: Reason
    freed_bytes: int = 0
    failures: tuple[Failure, ...] = ()
