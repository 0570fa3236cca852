"""The sessions that a cleanup would remove now, and the space that it would free."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from arawn_cli.arawn.root import Root, opened_sessions
from arawn_cli.cleanup.chats import ChatNeeds, removable
from arawn_cli.cleanup.evidence import decide_by_evidence, read_evidence
from arawn_cli.cleanup.plan import Policy, RemovalLimit
from arawn_cli.cleanup.sessions import Decision, ScratchSession, SessionsDirectory, list_sessions
from arawn_cli.cleanup.trash import is_due, list_trash_entries, measure_entries
from arawn_cli.config.loader import Config
from arawn_cli.errors import ArawnCliError, StoppedError
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.measure import Usage, combined
from arawn_cli.fs.openat import identity_of
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
            return decide_by_evidence(sessions, measured, evidence, Policy.of(config), now)
    except StoppedError:
        raise
    except (ArawnCliError, OSError):
        return None


def removable_sessions(root: Root, config: Config, decisions: Sequence[Decision]) -> list[ScratchSession]:
    """Return the sessions that a cleanup would remove: none in use, none above the removal limit.

    Raises:
        ArawnCliError: the directory of the sessions cannot be opened any more.
        OSError: it cannot be determined which sessions are in use.
    """
    if RemovalLimit.of(config).exceeded_by(decisions):
        return []
    planned = [decision.session for decision in decisions if decision.is_removal]
    with opened_sessions(root) as descriptor:
        uses = find_uses(descriptor, [session.name for session in planned]) if planned and descriptor is not None else {}
    return [session for session in planned if session.name not in uses]


def reclaimable(root: Root, config: Config, decisions: Sequence[Decision] | None, now: int) -> Usage | None:
    """Return the usage of what a cleanup at `now` would delete for good; None if unknown."""
    if decisions is None:
        return None
    try:
        return freed_by_cleanup(root, config, decisions, removable_sessions(root, config, decisions), now)
    except (ArawnCliError, OSError):
        return None


def freed_by_cleanup(root: Root, config: Config, decisions: Sequence[Decision], removed: Sequence[ScratchSession], now: int) -> Usage:
    """Return the usage of the sessions that it deletes, and of the trash that it purges.

    With `trash_days` it deletes no session at once, so none counts. Above the removal limit it purges
    nothing either.
    """
    if RemovalLimit.of(config).exceeded_by(decisions):
        return Usage()
    days = config.maintenance.cleanup.trash_days
    due = [entry for entry in list_trash_entries(root)[0] if is_due(entry, now, days)]
    return combined([measure_entries(root, due), *(session.usage for session in removed if session.usage and not days)])
