"""Sessions x policy x now: a decision with a reason for each. Pure functions of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from arawn_cli.cleanup.sessions import Decision, ScratchSession, TurnEvidence
from arawn_cli.events import NO_SESSION, Reason
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import FileKind
from arawn_cli.names import is_valid_id
from arawn_cli.timestamps import DAY, SECOND

# A turn that a live server writes while the run reads is stamped after the run's `now`.
_CLOCK_TOLERANCE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Policy:
    """Which sessions may go.

    Attributes:
        older_than_days: age from which a session is inactive, 1 or more.
        protect: shell patterns on session ids.
    """

    older_than_days: int
    protect: tuple[str, ...] = ()

    def cutoff(self, now: int) -> int:
        """The instant from which on activity keeps a session."""
        return now - self.older_than_days * DAY


def decide(session: ScratchSession, policy: Policy, now: int) -> Decision:
    """Why a measured session goes or stays; the rules in the order in which they speak.

    It goes only when every piece of evidence could be read and is older than the cutoff.
    """
    reason = reason_without_files(session, policy, now)
    return Decision(session, reason if reason else _reason_by_files(session, policy, now))


def reason_without_files(session: ScratchSession, policy: Policy, now: int) -> Reason | None:
    """Why a session stays, as far as that shows without measuring its tree; None when its files must tell."""
    if not is_valid_id(session.name):
        return Reason.FOREIGN_NAME
    if session.kind is not FileKind.DIRECTORY:
        return Reason.NOT_A_DIRECTORY
    if any(fnmatchcase(session.name, pattern) for pattern in policy.protect):
        return Reason.PROTECTED
    newest = session.evidence.newest
    if newest is not None and newest > now + _CLOCK_TOLERANCE:
        return Reason.FUTURE_TIMESTAMP
    if newest is not None and newest >= policy.cutoff(now):
        return Reason.ACTIVE
    if session.has_mount:
        return Reason.MOUNT_INSIDE
    return None if session.evidence.complete else Reason.ACTIVITY_UNKNOWN


@dataclass(frozen=True, slots=True)
class RemovalLimit:
    """How much one run may remove: more, and it removes nothing.

    Attributes:
        max_sessions: sessions that may go, 0 for any number.
        max_percent: share of all scratch sessions that may go, in percent.
    """

    max_sessions: int = 0
    max_percent: int = 100

    def exceeded_by(self, decisions: Sequence[Decision]) -> str | None:
        """How a plan removes more than is allowed, for people; None when it does not."""
        going = sum(decision.goes for decision in decisions)
        sessions = sum(decision.reason not in NO_SESSION for decision in decisions)
        exceeded = [f"max_sessions = {self.max_sessions}"] if self.max_sessions and going > self.max_sessions else []
        if going * 100 > self.max_percent * sessions:
            exceeded.append(f"max_percent = {self.max_percent}")
        return (
            f"{going} of {sessions} sessions would go, more than {' and '.join(exceeded)} {'allow' if exceeded[1:] else 'allows'}"
            if exceeded
            else None
        )


def block_all(decisions: Iterable[Decision]) -> list[Decision]:
    """The plan with every session that would go kept back, for the reason `removal_limit`."""
    return [replace(decision, reason=Reason.REMOVAL_LIMIT) if decision.goes else decision for decision in decisions]


def sessions_to_measure(sessions: Iterable[ScratchSession], policy: Policy, now: int) -> list[ScratchSession]:
    """The sessions whose trees must be measured before they can be decided; the others need no walk."""
    return [session for session in sessions if reason_without_files(session, policy, now) is None]


def approved(decisions: Iterable[Decision], is_approved: Callable[[ScratchSession], bool]) -> list[Decision]:
    """The plan with every session kept back that would go and was not approved as it is now."""
    return [
        replace(decision, reason=Reason.CHANGED_SINCE_PLAN) if decision.goes and not is_approved(decision.session) else decision
        for decision in decisions
    ]


def revalidate(planned: ScratchSession, evidence: TurnEvidence, usage: Usage) -> Decision:
    """What is left of the plan to remove a session, by what is known of it now: it goes only if nothing has changed."""
    fresh = replace(planned, evidence=evidence, usage=usage)
    if not evidence.complete or not usage.complete:
        return Decision(fresh, Reason.ACTIVITY_UNKNOWN)
    if usage.other_filesystems:
        return Decision(fresh, Reason.MOUNT_INSIDE)
    same = fresh.last_activity == planned.last_activity and _shape(usage) == _shape(planned.usage)
    return Decision(fresh, Reason.EXPIRED if same else Reason.CHANGED_SINCE_PLAN)


def _shape(usage: Usage | None) -> tuple[int, int, int] | None:
    return (usage.apparent_bytes, usage.files, usage.directories) if usage else None


def _reason_by_files(session: ScratchSession, policy: Policy, now: int) -> Reason:
    usage = session.usage
    if usage is None or usage.newest_mtime is None:
        return Reason.ACTIVITY_UNKNOWN
    if usage.newest_mtime > now + _CLOCK_TOLERANCE:
        return Reason.FUTURE_TIMESTAMP
    if usage.newest_mtime >= policy.cutoff(now):
        return Reason.RECENT_FILES
    if usage.other_filesystems:
        return Reason.MOUNT_INSIDE  # a mount, or a subvolume, which no mount table shows
    return Reason.EXPIRED if usage.complete else Reason.ACTIVITY_UNKNOWN
