"""Decide which sessions a run removes, and why: pure functions of sessions, policy, space, time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from arawn_cli.arawn.layout import Layout
from arawn_cli.cleanup.budget import Space
from arawn_cli.cleanup.sessions import Decision, ScratchSession, TurnEvidence
from arawn_cli.cleanup.trash_entry import TrashEntry
from arawn_cli.config.loader import Config
from arawn_cli.events import IN_RECENT_USE, NO_SESSION, REMOVED_FOR, UNRESOLVED, Reason
from arawn_cli.fs.openat import FileKind
from arawn_cli.fs.usage import Usage
from arawn_cli.names import escape
from arawn_cli.timestamps import DAY, SECOND, minute

MOVED = "it was moved or replaced meanwhile"
"""The detail of a session that is not in its place any more."""

_OF_AGE = IN_RECENT_USE | {Reason.FUTURE_TIMESTAMP, Reason.EXPIRED}

# A turn that a running server writes while the run reads is later than the run's `now`.
_CLOCK_TOLERANCE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Policy:
    """Which sessions may be removed.

    Attributes:
        older_than_days: age from which a session is inactive, 1 or more.
        protect: shell patterns of session ids that are kept.
        keep_last: number of the most recently used sessions that are kept.
    """

    older_than_days: int
    protect: tuple[str, ...] = ()
    keep_last: int = 0

    @classmethod
    def of(cls, config: Config) -> Policy:
        """Return the configured policy."""
        cleanup = config.maintenance.cleanup
        return cls(config.older_than_days, cleanup.protect, cleanup.keep_last)

    def earlier(self, days: int) -> Policy:
        """Return the policy by which a session is inactive some days earlier."""
        return replace(self, older_than_days=self.older_than_days - days)

    def for_budgets(self, config: Config) -> Policy:
        """Return the policy that says which sessions an exceeded budget may select."""
        return replace(self, older_than_days=min(self.older_than_days, config.maintenance.cleanup.min_age_days))

    def protects(self, name: str) -> str | None:
        """Return the first pattern that matches the id of a session, or None."""
        return next((pattern for pattern in self.protect if fnmatchcase(name, pattern)), None)

    def cutoff(self, now: int) -> int:
        """Return the time from which on activity keeps a session, in nanoseconds as `now`."""
        return now - self.older_than_days * DAY


def useless_patterns(config: Config, layout: Layout) -> str | None:
    """Say which protected patterns match no session that this generation of Arawn can have.

    Return None if there are none. A pattern that a named root inherits may be meant for another
    root. An id of Arawn's main branch is a UUID; the configuration admits those of both.
    """
    own = next((entry.protect for entry in config.maintenance.roots if entry.name == config.root_name), config.maintenance.cleanup.protect)
    useless = [pattern for pattern in own if not layout.can_be_session_id(pattern)]
    if not useless:
        return None
    return (
        f"protect: {', '.join(map(repr, useless))} can match no session of {config.root}, because ids of {layout.name} are UUIDs: "
        "protect the names that the sessions have in workstreams/scratch"
    )


@dataclass(frozen=True, slots=True)
class RemovalLimit:
    """How many sessions one run may remove. If more are due, it removes none.

    Attributes:
        max_sessions: number of sessions, 0 for any number.
        max_percent: share of all scratch sessions, in percent.
    """

    max_sessions: int = 0
    max_percent: int = 100

    @classmethod
    def of(cls, config: Config) -> RemovalLimit:
        """Return the configured limit; `--force` ignores it."""
        return cls() if config.force else cls(config.maintenance.cleanup.max_sessions, config.maintenance.cleanup.max_percent)

    def room(self, decisions: Sequence[Decision]) -> int:
        """Return how many sessions a run may remove in addition to those of a plan."""
        removals = sum(decision.is_removal for decision in decisions)
        sessions = sum(decision.reason not in NO_SESSION for decision in decisions)
        most = self.max_percent * sessions // 100
        return max(min(most, self.max_sessions or most) - removals, 0)

    def exceeded_by(self, decisions: Sequence[Decision], only: Collection[str] = ()) -> str | None:
        """Say how the removals of a plan, or of `only`, exceed the limit; return None if not."""
        removals = sum(decision.is_removal and (not only or decision.session.name in only) for decision in decisions)
        sessions = sum(decision.reason not in NO_SESSION for decision in decisions)
        exceeded = [f"max_sessions = {self.max_sessions}"] if self.max_sessions and removals > self.max_sessions else []
        if removals * 100 > self.max_percent * sessions:
            exceeded.append(f"max_percent = {self.max_percent}")
        if not exceeded:
            return None
        return f"{removals} of {sessions} sessions are due, more than {' and '.join(exceeded)} {'allow' if exceeded[1:] else 'allows'}"


def sessions_to_measure(sessions: Iterable[ScratchSession], policy: Policy, now: int) -> list[ScratchSession]:
    """Return the sessions that cannot be decided without measuring their files."""
    return [session for session in sessions if reason_without_files(session, policy, now) is None]


def decide_all(sessions: Iterable[ScratchSession], policy: Policy, now: int) -> list[Decision]:
    """Decide on sessions with their evidence and usage, and keep those that were used last."""
    return _keep_last([decide(session, policy, now) for session in sessions], policy.keep_last)


def _keep_last(decisions: list[Decision], number: int) -> list[Decision]:
    """Return the plan without the removals of the `number` sessions that were used last.

    One that was not measured counts as used when its turns and row say, so others stay beside it.
    """
    if not number:
        return decisions
    sessions = [decision.session for decision in decisions if decision.reason not in NO_SESSION]
    newest = sorted(sessions, key=lambda session: (session.last_activity or 0, session.name), reverse=True)
    kept = {session.name for session in newest[:number]}
    return [
        Decision(decision.session, Reason.KEPT_LAST, f"one of the {number} used last; {_newest(decision.session)}")
        if decision.is_removal and decision.session.name in kept
        else decision
        for decision in decisions
    ]


def decide(session: ScratchSession, policy: Policy, now: int) -> Decision:
    """Decide on a measured session; the first rule that applies gives the reason.

    It is removed only if every piece of evidence could be read and is older than the cutoff.
    """
    reason = _reason(session, policy, now)
    return Decision(session, reason, _detail(session, reason, policy.protects(session.name)))


def can_turns_decide(session: ScratchSession, policy: Policy, now: int) -> bool:
    """Whether a turn could change the decision: the session is due by all else, or in doubt."""
    return _reason(session, policy, now) in REMOVED_FOR | UNRESOLVED


def _reason(session: ScratchSession, policy: Policy, now: int) -> Reason:
    return reason_without_files(session, policy, now) or _reason_by_files(session, policy, now)


def reason_without_files(session: ScratchSession, policy: Policy, now: int) -> Reason | None:
    """Return the reason that keeps a session whatever its files are, or None if they decide."""
    if session.is_foreign:
        return Reason.FOREIGN_NAME
    if session.kind is not FileKind.DIRECTORY:
        return Reason.NOT_A_DIRECTORY
    if policy.protects(session.name) is not None or session.keep_file:
        return Reason.PROTECTED
    newest = session.evidence.newest
    if newest is not None and newest > now + _CLOCK_TOLERANCE:
        return Reason.FUTURE_TIMESTAMP
    if newest is not None and newest >= policy.cutoff(now):
        return Reason.ACTIVE
    if session.evidence.is_attached:
        return Reason.ATTACHED
    return Reason.MOUNT_INSIDE if session.mount_point else None


def _reason_by_files(session: ScratchSession, policy: Policy, now: int) -> Reason:
    usage = session.usage
    if usage is not None and usage.has_vanished:
        return Reason.CHANGED_SINCE_PLAN
    if usage is None or usage.newest_mtime is None:
        return Reason.NOT_PERMITTED if usage and usage.obstacles else Reason.ACTIVITY_UNKNOWN
    if usage.newest_mtime > now + _CLOCK_TOLERANCE:
        return Reason.FUTURE_TIMESTAMP
    if usage.newest_mtime >= policy.cutoff(now):
        return Reason.RECENT_FILES
    if usage.other_filesystems:
        return Reason.MOUNT_INSIDE  # a mount, or a subvolume, which no mount table shows
    if usage.obstacles:
        return Reason.NOT_PERMITTED
    damage = session.evidence.damage
    if (damage and damage.at >= policy.cutoff(now)) or not session.evidence.complete or not usage.complete:
        return Reason.ACTIVITY_UNKNOWN
    return Reason.EXPIRED


def _detail(session: ScratchSession, reason: Reason, pattern: str | None = None) -> str:
    """Return the object behind a reason of the plan, as text for people."""
    usage = session.usage
    match reason:
        case Reason.FOREIGN_NAME:
            return f"{_KINDS[session.kind]}, and Arawn gives no session this name"
        case Reason.NOT_A_DIRECTORY:
            return _KINDS[session.kind]
        case Reason.PROTECTED:
            return f"the file {session.keep_file}" if pattern is None else f"pattern {pattern}"
        case Reason.ATTACHED:
            workstream = session.evidence.workstream
            return f"workstream {escape(workstream)}" if workstream else "its database row names no workstream, not even scratch"
        case Reason.MOUNT_INSIDE:
            return escape(session.mount_point or (usage.other_filesystems[0] if usage else ""))
        case Reason.ACTIVITY_UNKNOWN:
            failures = (*session.evidence.shared_failures, *session.evidence.own_failures, *(usage.failures if usage else ()))
            if failures:
                return str(failures[0])
            damage = session.evidence.damage
            return f"{damage}, and {damage.dated}" if damage else "it was not measured"
        case Reason.NOT_PERMITTED:
            return ""  # `explained` names the path, which is not known here
        case Reason.CHANGED_SINCE_PLAN:
            return MOVED
        case Reason.EXPIRED:
            return f"newest: {_newest(session)}; touch it if it was copied in with old times"
        case Reason.ACTIVE | Reason.RECENT_FILES | Reason.FUTURE_TIMESTAMP:
            return _newest(session)
    return ""


_KINDS = {
    FileKind.DIRECTORY: "a directory",
    FileKind.FILE: "a file",
    FileKind.LINK: "a symbolic link",
    FileKind.OTHER: "a FIFO, socket or device",
}


def _newest(session: ScratchSession) -> str:
    """Return the newest evidence and its time. The session has some."""
    evidence, usage = session.evidence, session.usage
    times = [(evidence.last_turn, "turn"), (evidence.row, "database row")]
    if usage is not None:
        times.append((usage.newest_mtime, usage.newest_shown if usage.newest_path else "its directory"))
    at, what = max((time, what) for time, what in times if time is not None)
    return f"{what}, {minute(at)}"


def keep_unapproved(decisions: Iterable[Decision], change: Callable[[ScratchSession], str | None]) -> list[Decision]:
    """Return the plan with only those removals that are approved for the sessions as they are.

    `change` names the difference from the approved plan, None for no difference.
    """
    return [
        Decision(decision.session, Reason.CHANGED_SINCE_PLAN, changed)
        if decision.is_removal and (changed := change(decision.session)) is not None
        else decision
        for decision in decisions
    ]


# ---- The plan of a run


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions of a run, except on sessions that are in use by then.

    While a bound is exceeded, it purges trash before its time, deletes due sessions instead of
    moving them to the trash, and at last removes candidates, in this order.

    Attributes:
        decisions: on each session that the run handles, as a plan file lists them.
        kept: decisions on sessions that stay.
        due: decisions on sessions that are removed for their age.
        candidates: decisions on sessions that a budget may select, oldest activity first.
        room: how many of the candidates the removal limit admits.
        expired: entries of the trash that are purged because their time is over.
        early: other entries that may be purged, oldest first, with their usages.
        left: usages of trash and due sessions that only another run removes: this run removes
            nothing to free their space.
        refusal: how the removal limit is exceeded, so that the run removes nothing; else None.
    """

    decisions: Sequence[Decision]
    kept: Sequence[Decision]
    due: Sequence[Decision] = ()
    candidates: Sequence[Decision] = ()
    room: int = 0
    expired: Sequence[TrashEntry] = ()
    early: Sequence[tuple[TrashEntry, Usage]] = ()
    left: Sequence[Usage] = ()
    refusal: str | None = None


def make_plan(
    decisions: Sequence[Decision],
    candidates: Sequence[Decision],
    expired: Sequence[TrashEntry] | None,
    trash: Mapping[TrashEntry, Usage],
    space: Space,
    limit: RemovalLimit,
    only: Collection[str] = (),
) -> Plan:
    """Return the plan of a run.

    Args:
        decisions: on all sessions, by age.
        candidates: those on sessions that a budget may select, oldest activity first.
        expired: entries of the trash whose time is over; None if the run leaves the trash alone.
        trash: all entries of the trash, oldest first; empty if no bound is exceeded.
        space: the bounds.
        limit: the removal limit.
        only: the sessions that the run handles, if not all. A budget selects of these only those
            that it selects of all.
    """
    room = limit.room(decisions)
    due = usages_of(decision for decision in decisions if decision.is_removal)
    chosen = space.needed(usages_of(candidates), budgets_only=True, after=[*trash.values(), *due])[:room]
    selected = {candidates[position].session.name: over_budget(candidates[position], space.reason) for position in chosen}
    if only:
        candidates = [decision for decision in candidates if decision.session.name in selected.keys() & only]
    handled = [decision for decision in decisions if not only or decision.session.name in only]
    planned = [selected.get(decision.session.name, decision) for decision in handled]
    others_due = usages_of(decision for decision in decisions if decision.is_removal and only and decision.session.name not in only)
    left = [*trash.values(), *others_due] if expired is None else []
    if refusal := limit.exceeded_by(decisions, only):
        return Plan(planned, block_all(handled, refusal), left=left, refusal=refusal)
    undecided = {decision.session.name for decision in candidates}
    due_entries = frozenset(expired or ())
    return Plan(
        planned,
        kept=[decision for decision in handled if not decision.is_removal and decision.session.name not in undecided],
        due=[decision for decision in handled if decision.is_removal],
        candidates=candidates,
        room=room,
        expired=expired or (),
        early=[(entry, usage) for entry, usage in trash.items() if expired is not None and entry not in due_entries],
        left=left,
    )


def block_all(decisions: Iterable[Decision], exceeded: str) -> list[Decision]:
    """Return the plan with no removals, for the reason `removal_limit`, which says `exceeded`."""
    return [Decision(decision.session, Reason.REMOVAL_LIMIT, exceeded) if decision.is_removal else decision for decision in decisions]


def selectable(by_age: Iterable[Decision], by_budget: Iterable[Decision]) -> list[Decision]:
    """Return decisions on sessions that a budget may select, oldest activity first.

    Both plans are of the same sessions, the second one of the policy `for_budgets`.
    """
    return oldest_first(
        old for old, young in zip(by_age, by_budget, strict=True) if old.reason in IN_RECENT_USE and young.reason is Reason.EXPIRED
    )


def over_budget(decision: Decision, why: str) -> Decision:
    """Return the decision to remove a session that its age alone would keep."""
    return Decision(decision.session, Reason.OVER_BUDGET, f"{why}; newest: {decision.detail}")


def oldest_first(decisions: Iterable[Decision]) -> list[Decision]:
    """Return decisions in the order of the last activity of their sessions."""
    return sorted(decisions, key=lambda decision: (decision.session.last_activity or 0, decision.session.name))


def usages_of(decisions: Iterable[Decision]) -> list[Usage]:
    """Return the usage of each session, nothing for one that was not measured."""
    return [decision.session.usage or Usage() for decision in decisions]


# ---- The second look at a planned removal


def revalidate(planned: ScratchSession, evidence: TurnEvidence, usage: Usage, policy: Policy, now: int) -> Decision:
    """Decide again on a planned removal by new evidence and usage: a session that changed stays.

    `policy` and `now` are those of the plan.
    """
    if evidence == planned.evidence and usage == planned.usage:
        return Decision(planned, Reason.EXPIRED)
    fresh = replace(planned, evidence=evidence, usage=usage)
    decision = decide(fresh, policy, now)
    if decision.reason in _OF_AGE and fresh.last_activity != planned.last_activity:
        return Decision(fresh, Reason.CHANGED_SINCE_PLAN, f"used meanwhile: {_newest(fresh)}")
    if decision.is_removal and contents(usage) != contents(planned.usage):
        return Decision(fresh, Reason.CHANGED_SINCE_PLAN, "files were added, removed or changed meanwhile")
    return decision


def contents(usage: Usage | None) -> tuple[int, int, int] | None:
    """Return the counts of a tree that a change of its contents changes."""
    return (usage.apparent_bytes, usage.files, usage.directories) if usage else None
