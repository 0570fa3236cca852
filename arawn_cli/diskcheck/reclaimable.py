"""The sessions that a cleanup would remove now, and the space that it would free."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from arawn_cli.arawn.root import Root, opened_sessions
from arawn_cli.cleanup.budget import Space
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.evidence import decide_by_evidence, read_evidence
from arawn_cli.cleanup.plan import Policy, RemovalLimit, make_plan, selectable
from arawn_cli.cleanup.sessions import Decision, ScratchSession, SessionsDirectory, list_sessions
from arawn_cli.cleanup.trash import list_trash_entries
from arawn_cli.cleanup.trash_entry import TrashEntry
from arawn_cli.config.loader import Config
from arawn_cli.errors import ArawnCliError, StoppedError
from arawn_cli.events import Reason
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.measure import Subtree, measure_all, stop_when, threads_for
from arawn_cli.fs.openat import identity_of
from arawn_cli.fs.usage import Usage, combined
from arawn_cli.sqlite import never_stopping


def decisions_now(
    root: Root, config: Config, measured: Mapping[str, Usage], now: int, stopping: Callable[[], bool] = never_stopping
) -> list[Decision] | None:
    """Return the plan of a cleanup at `now` for measured scratch sessions, or None if unknown.

    `now` is in nanoseconds. Nothing is locked or changed.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    try:
        with opened_sessions(root) as descriptor:
            if descriptor is None:
                return []
            listed = list_sessions(SessionsDirectory(root, descriptor, identity_of(os.fstat(descriptor))))
            evidence = read_evidence(listed, root, stopping)
            sessions, measured = removable(listed, measured, descriptor, ChatNeeds.to_keep(config, root.layout))
            policy, threads = Policy.of(config), threads_for(config.maintenance.threads)
            space = Space(config, root, descriptor, threads, stop_when(stopping))
            budget = policy.for_budgets(config) if space.exceeds_budget else policy
            decided = decide_by_evidence(sessions, measured, evidence, (policy, budget), now)
            trash: dict[TrashEntry, Usage] = {}
            if space.exceeds_budget:
                entries = list_trash_entries(root)[0]
                usages = measure_all(root.workstreams, [Subtree(entry.path) for entry in entries], threads, stop_when(stopping))
                trash = dict(zip(entries, usages, strict=True))
            candidates = selectable(decided[policy], decided[budget])
            return [*make_plan(decided[policy], candidates, None, trash, space, RemovalLimit.of(config)).decisions]
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def removable_sessions(
    root: Root, config: Config, decisions: Sequence[Decision], stopping: Callable[[], bool] = never_stopping
) -> list[ScratchSession]:
    """Return the sessions that a cleanup would remove: none in use, none above the removal limit.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
        ArawnCliError: the directory of the sessions cannot be opened any more.
        OSError: it cannot be determined which sessions are in use.
    """
    if RemovalLimit.of(config).exceeded_by(decisions):
        return []
    planned = [decision.session for decision in decisions if decision.is_removal]
    with opened_sessions(root) as descriptor:
        names = [session.name for session in planned]
        uses = find_uses(descriptor, names, stopping) if planned and descriptor is not None else {}
    return [session for session in planned if session.name not in uses]


def reclaimable(
    root: Root, config: Config, decisions: Sequence[Decision] | None, now: int, stopping: Callable[[], bool] = never_stopping
) -> Usage | None:
    """Return the usage of what a cleanup at `now` would delete for good; None if unknown.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    if decisions is None:
        return None
    try:
        removed = removable_sessions(root, config, decisions, stopping)
        return freed_by_cleanup(root, config, decisions, removed, now, stopping)[0]
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def freed_by_cleanup(
    root: Root,
    config: Config,
    decisions: Sequence[Decision],
    removed: Sequence[ScratchSession],
    now: int,
    stopping: Callable[[], bool] = never_stopping,
) -> tuple[Usage, Usage]:
    """Return the usage that a cleanup at `now` frees, and the usage that it trashes.

    The first one is of the trash that it purges, and of the sessions that it deletes at once.
    With `trash_days` it deletes at once only as many due sessions as the space in use demands, and
    purges trash before its time for the same reason. Above the removal limit it frees nothing. What
    a budget selects in addition it deletes at once.

    Raises:
        StoppedError: `stopping` returned that a signal asked the run to end.
        ArawnCliError, OSError: the root cannot be measured.
    """
    if RemovalLimit.of(config).exceeded_by(decisions):
        return Usage(), Usage()
    days = config.maintenance.cleanup.trash_days
    threads = threads_for(config.maintenance.threads)
    entries = list_trash_entries(root)[0]
    usages = measure_all(root.workstreams, [Subtree(entry.path) for entry in entries], threads, stop_when(stopping))
    due = [usage for entry, usage in zip(entries, usages, strict=True) if entry.is_due(now, days)]
    early = [usage for entry, usage in zip(entries, usages, strict=True) if not entry.is_due(now, days)]
    selected = {decision.session.name for decision in decisions if decision.reason is Reason.OVER_BUDGET}
    due += [session.usage for session in removed if session.usage and session.name in selected]
    rest = [session for session in removed if session.name not in selected]
    sessions = sorted((session for session in rest if session.usage), key=lambda session: (session.last_activity or 0, session.name))
    moved = [session.usage for session in sessions if session.usage]
    if not days:
        return combined([*due, *early, *moved]), Usage()
    with opened_sessions(root) as descriptor:
        space = Space(config, root, descriptor, threads, stop_when(stopping))
        if entries or moved:
            space.add_limits()
    demanded = [*early, *moved]
    freed = space.needed(demanded, after=due)
    trashed = [usage for position, usage in enumerate(demanded) if position >= len(early) and position not in freed]
    return combined([*due, *(demanded[position] for position in freed)]), combined(trashed)
