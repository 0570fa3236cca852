"""The sessions that a cleanup would remove now, and the space that it would free."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from arawn_cli.arawn.root import Root, opened_sessions
from arawn_cli.cleanup.budget import Space
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.evidence import Evidence, decide_by_evidence
from arawn_cli.cleanup.plan import Policy, RemovalLimit, make_plan, selectable
from arawn_cli.cleanup.sessions import Decision, ScratchSession, SessionsDirectory, list_sessions
from arawn_cli.cleanup.trash import list_trash_entries
from arawn_cli.cleanup.trash_entry import TrashEntry
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.measuring import Measurements
from arawn_cli.errors import ArawnCliError, StoppedError
from arawn_cli.events import Reason
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.measure import stop_when, threads_for
from arawn_cli.fs.openat import identity_of
from arawn_cli.fs.usage import Usage, combined


def decisions_now(root: Root, config: Config, measurements: Measurements, now: int, stopping: Callable[[], bool]) -> list[Decision] | None:
    """Return the plan of a cleanup at `now` for a measured root, or None if unknown.

    `now` is in nanoseconds. Nothing is locked or changed.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    try:
        with opened_sessions(root) as descriptor:
            if descriptor is None:
                return []
            listed = list_sessions(SessionsDirectory(root, descriptor, identity_of(os.fstat(descriptor))))
            evidence = Evidence(listed, root, stopping)
            sessions, measured = removable(listed, measurements.sessions, descriptor, ChatNeeds.to_keep(config, root.layout))
            policy, threads = Policy.of(config), threads_for(config.maintenance.threads)
            space = Space(config, root, descriptor, threads, stop_when(stopping))
            budget = policy.for_budgets(config) if space.exceeds_budget else policy
            decided = decide_by_evidence(sessions, measured, evidence, (policy, budget), now)
            trash = _trash(root, measurements) if space.exceeds_budget else {}
            candidates = selectable(decided[policy], decided[budget])
            return [*make_plan(decided[policy], candidates, None, trash, space, RemovalLimit.of(config)).decisions]
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class NextRemoval:
    """The sessions that a cleanup would remove now, by name, and the usage to free and to trash."""

    sessions: dict[str, ScratchSession]
    freed: Usage
    trashed: Usage


def removal_now(
    root: Root,
    config: Config,
    measurements: Measurements,
    decisions: Sequence[Decision] | None,
    now: int,
    stopping: Callable[[], bool],
) -> NextRemoval | None:
    """Return what a cleanup at `now` would do by these decisions; None if that is unknown.

    It removes no session in use. Above the removal limit it does nothing. It frees the trash that
    it purges, and the sessions that it deletes at once: those that a budget selects in addition,
    and without `trash_days` all. With `trash_days` it also deletes due sessions at once, and purges
    trash before its time, but only as far as the space in use demands.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    if decisions is None:
        return None
    if RemovalLimit.of(config).exceeded_by(decisions):
        return NextRemoval({}, Usage(), Usage())
    try:
        removed = _unused(root, [decision.session for decision in decisions if decision.is_removal], stopping)
        over_budget = {decision.session.name for decision in decisions if decision.reason is Reason.OVER_BUDGET}
        return _removal(root, config, _trash(root, measurements), removed, over_budget, now, stopping)
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def _trash(root: Root, measurements: Measurements) -> dict[TrashEntry, Usage]:
    """Return the usage of each entry of the trash, oldest first; nothing of one that is new."""
    return {entry: measurements.trash_entries.get(entry.path, Usage()) for entry in list_trash_entries(root)[0]}


def _unused(root: Root, sessions: Sequence[ScratchSession], stopping: Callable[[], bool]) -> list[ScratchSession]:
    """Return the sessions that are not in use."""
    with opened_sessions(root) as descriptor:
        uses = find_uses(descriptor, [session.name for session in sessions], stopping) if sessions and descriptor is not None else {}
    return [session for session in sessions if session.name not in uses]


def _removal(
    root: Root,
    config: Config,
    trash: Mapping[TrashEntry, Usage],
    removed: Sequence[ScratchSession],
    over_budget: Collection[str],
    now: int,
    stopping: Callable[[], bool],
) -> NextRemoval:
    sessions = {session.name: session for session in removed}
    days = config.maintenance.cleanup.trash_days
    due = [usage for entry, usage in trash.items() if entry.is_due(now, days)]
    early = [usage for entry, usage in trash.items() if not entry.is_due(now, days)]
    due += [session.usage for session in removed if session.usage and session.name in over_budget]
    by_age = sorted(removed, key=lambda session: (session.last_activity or 0, session.name))
    moved = [session.usage for session in by_age if session.usage and session.name not in over_budget]
    if not days:
        return NextRemoval(sessions, combined([*due, *early, *moved]), Usage())
    with opened_sessions(root) as descriptor:
        space = Space(config, root, descriptor, threads_for(config.maintenance.threads), stop_when(stopping))
        if trash or moved:
            space.add_limits()
    demanded = [*early, *moved]
    freed = space.needed(demanded, after=due)
    trashed = [usage for position, usage in enumerate(demanded) if position >= len(early) and position not in freed]
    return NextRemoval(sessions, combined([*due, *(demanded[position] for position in freed)]), combined(trashed))
