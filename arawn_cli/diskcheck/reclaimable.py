"""The sessions that a cleanup would remove now, and the space that it would free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from arawn_cli.arawn.root import Root, opened_sessions
from arawn_cli.cleanup.budget import Space
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.plan import Policy, RemovalLimit, can_turns_decide, decide_all, make_plan, selectable
from arawn_cli.cleanup.sessions import Decision, Evidence, SessionsDirectory, list_sessions
from arawn_cli.cleanup.trash import list_trash_entries
from arawn_cli.cleanup.trash_entry import TrashEntry
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.measuring import Measurements
from arawn_cli.errors import ArawnCliError, StoppedError
from arawn_cli.events import Reason
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.measure import stop_when, threads_for
from arawn_cli.fs.usage import Usage, combined


@dataclass(frozen=True, slots=True)
class NextRemoval:
    """The effect of the next cleanup.

    Attributes:
        decisions: its plan.
        removed: the sessions that it would remove.
        freed: usage that it would free.
        trashed: usage that it would move to the trash.
        is_over_limit: whether it would remove nothing because too much is due.
    """

    decisions: Sequence[Decision]
    removed: frozenset[str]
    freed: Usage
    trashed: Usage
    is_over_limit: bool = False


def removal_now(root: Root, config: Config, measurements: Measurements, now: int, stopping: Callable[[], bool]) -> NextRemoval | None:
    """Return the effect of a cleanup at `now` on a measured root; None if it is unknown.

    It removes no session in use. Above the removal limit it does nothing. It frees the trash that
    it purges, and the sessions that it deletes at once: those that a budget selects in addition,
    and without `trash_days` all. With `trash_days` it also deletes due sessions at once, and purges
    trash before its time, but only as far as the space in use demands.

    `now` is in nanoseconds. Nothing is locked or changed.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    try:
        decisions = _decisions(root, config, measurements, now, stopping)
        if RemovalLimit.of(config).exceeded_by(decisions):
            return NextRemoval(decisions, frozenset(), Usage(), Usage(), is_over_limit=True)
        removed = _unused(root, [decision for decision in decisions if decision.is_removal], stopping)
        freed, trashed = _freed_and_trashed(root, config, measurements, removed, now, stopping)
        return NextRemoval(decisions, frozenset(decision.session.name for decision in removed), freed, trashed)
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def _decisions(root: Root, config: Config, measurements: Measurements, now: int, stopping: Callable[[], bool]) -> Sequence[Decision]:
    """Return the plan of a cleanup at `now`."""
    with opened_sessions(root) as descriptor:
        if descriptor is None:
            return []
        listed = list_sessions(SessionsDirectory(root, descriptor))
        evidence = Evidence(listed, root, stopping)
        sessions, measured = removable(listed, measurements.sessions, descriptor, ChatNeeds.to_keep(config, root.layout))
        policy, threads = Policy.of(config), threads_for(config.maintenance.threads)
        space = Space(config, root, descriptor, threads, stop_when(stopping))
        budget = policy.for_budgets(config) if space.exceeds_budget else policy
        sessions = evidence.add_all_to(sessions, measured, partial(can_turns_decide, policy=budget, now=now))
        decisions = decide_all(sessions, policy, now)
        candidates = selectable(decisions, decide_all(sessions, budget, now)) if space.exceeds_budget else []
        trash = _trash(root, measurements) if space.exceeds_budget else {}
        return make_plan(decisions, candidates, None, trash, space, RemovalLimit.of(config)).decisions


def _trash(root: Root, measurements: Measurements) -> dict[TrashEntry, Usage]:
    """Return the usage of each entry of the trash, oldest first; nothing of one that is new."""
    return {entry: measurements.trash_entries.get(entry.path, Usage()) for entry in list_trash_entries(root)[0]}


def _unused(root: Root, removals: Sequence[Decision], stopping: Callable[[], bool]) -> list[Decision]:
    """Return the decisions about sessions that are not in use."""
    if not removals:
        return []
    with opened_sessions(root) as descriptor:
        names = [decision.session.name for decision in removals]
        uses = {} if descriptor is None else find_uses(descriptor, names, stopping)
    return [decision for decision in removals if decision.session.name not in uses]


def _freed_and_trashed(
    root: Root, config: Config, measurements: Measurements, removed: Sequence[Decision], now: int, stopping: Callable[[], bool]
) -> tuple[Usage, Usage]:
    """Return the usage that these removals free, with that of purged trash, and that they trash."""
    days = config.maintenance.cleanup.trash_days
    trash = _trash(root, measurements)
    due = [usage for entry, usage in trash.items() if entry.is_due(now, days)]
    early = [usage for entry, usage in trash.items() if not entry.is_due(now, days)]
    moved: list[Usage] = []
    for decision in sorted(removed, key=lambda decision: (decision.session.last_activity or 0, decision.session.name)):
        if decision.session.usage:
            (due if decision.reason is Reason.OVER_BUDGET else moved).append(decision.session.usage)
    if not days:
        return combined([*due, *early, *moved]), Usage()
    with opened_sessions(root) as descriptor:
        space = Space(config, root, descriptor, threads_for(config.maintenance.threads), stop_when(stopping))
        if trash or moved:
            space.add_limits()
    demanded = [*early, *moved]
    freed = space.needed(demanded, after=due)
    trashed = [usage for position, usage in enumerate(demanded) if position >= len(early) and position not in freed]
    return combined([*due, *(demanded[position] for position in freed)]), combined(trashed)
