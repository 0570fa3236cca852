"""The sessions that a cleanup would remove now, and the space that it would free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from arawn_cli.arawn.root import Root, opened_sessions
from arawn_cli.cleanup.budget import Space
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.plan import Policy, RemovalLimit, can_turns_decide, decide_all, make_plan, oldest_first, selectable
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
        # An entry that is newer than the measurements counts as empty.
        trash = {entry: measurements.trash_entries.get(entry.path, Usage()) for entry in list_trash_entries(root)[0]}
        with opened_sessions(root) as descriptor:
            space = Space(config, root, descriptor, threads_for(config.maintenance.threads), stop_when(stopping))
            sessions = None if descriptor is None else SessionsDirectory(root, descriptor)
            decisions = _decisions(sessions, config, measurements.sessions, space, trash, now, stopping) if sessions else []
            if RemovalLimit.of(config).exceeded_by(decisions):
                return NextRemoval(decisions, frozenset(), Usage(), Usage(), is_over_limit=True)
            due = {decision.session.name: decision for decision in decisions if decision.is_removal}
            used = find_uses(sessions.descriptor, due, stopping) if sessions and due else {}
            removed = [decision for name, decision in due.items() if name not in used]
            freed, trashed = _freed_and_trashed(config, space, trash, removed, now)
        return NextRemoval(decisions, frozenset(decision.session.name for decision in removed), freed, trashed)
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def _decisions(
    directory: SessionsDirectory,
    config: Config,
    measured: Mapping[str, Usage],
    space: Space,
    trash: Mapping[TrashEntry, Usage],
    now: int,
    stopping: Callable[[], bool],
) -> Sequence[Decision]:
    """Return the plan of a cleanup at `now` for measured sessions."""
    root = directory.root
    listed = list_sessions(directory)
    evidence = Evidence(listed, root, stopping)
    sessions, usages = removable(listed, measured, directory.descriptor, ChatNeeds.to_keep(config, root.layout))
    policy = Policy.of(config)
    budget = policy.for_budgets(config) if space.exceeds_budget else policy
    sessions = evidence.add_all_to(sessions, usages, partial(can_turns_decide, policy=budget, now=now))
    decisions = decide_all(sessions, policy, now)
    candidates = selectable(decisions, decide_all(sessions, budget, now)) if space.exceeds_budget else []
    return make_plan(decisions, candidates, None, trash, space, RemovalLimit.of(config)).decisions


def _freed_and_trashed(
    config: Config, space: Space, trash: Mapping[TrashEntry, Usage], removed: Sequence[Decision], now: int
) -> tuple[Usage, Usage]:
    """Return the usage that these removals free, with that of purged trash, and that they trash."""
    days = config.maintenance.cleanup.trash_days
    due = [usage for entry, usage in trash.items() if entry.is_due(now, days)]
    early = [usage for entry, usage in trash.items() if not entry.is_due(now, days)]
    moved: list[Usage] = []
    for decision in oldest_first(removed):
        if decision.session.usage:
            (due if decision.reason is Reason.OVER_BUDGET else moved).append(decision.session.usage)
    if not days:
        return combined([*due, *early, *moved]), Usage()
    if trash or moved:
        space.add_limits()
    demanded = [*early, *moved]
    freed = space.needed(demanded, after=due)
    trashed = [usage for position, usage in enumerate(demanded) if position >= len(early) and position not in freed]
    return combined([*due, *(demanded[position] for position in freed)]), combined(trashed)
