"""The space that a cleanup would free now, together with the trash."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from arawn_cli.arawn.layout import Root, opened_sessions
from arawn_cli.cleanup.decisions import activity_of, decisions_on, list_sessions, policy_of, removal_limit_of, with_evidence
from arawn_cli.cleanup.sessions import Decision, ScratchSession
from arawn_cli.cleanup.trash import Sessions
from arawn_cli.config.loader import Config
from arawn_cli.errors import ArawnCliError
from arawn_cli.fs.in_use import directories_in_use, mounted_in
from arawn_cli.fs.measure import Usage, combined
from arawn_cli.fs.openat import identity_of


def decisions_now(root: Root, config: Config, measured: Mapping[str, Usage], now: int) -> list[Decision] | None:
    """Return the plan of a cleanup at `now` for measured scratch sessions, or None if unknown.

    `now` is in nanoseconds. Nothing is locked or changed.
    """
    try:
        with opened_sessions(root) as descriptor:
            if descriptor is None:
                return []
            listed = list_sessions(Sessions(root, descriptor, identity_of(os.fstat(descriptor))))
            known = with_evidence(listed, activity_of(listed, config, root, now))
            return decisions_on(known, measured, policy_of(config), now)
    except (ArawnCliError, OSError):
        return None


def removable_sessions(config: Config, decisions: Sequence[Decision]) -> list[ScratchSession]:
    """Return the sessions that a cleanup would remove: none in use, none above the removal limit.

    Raises:
        OSError: it cannot be determined which directories are in use.
    """
    planned = [] if removal_limit_of(config).exceeded_by(decisions) else [decision.session for decision in decisions if decision.goes]
    directories = {session.identity for session in planned}
    in_use = directories_in_use(directories) | mounted_in(directories) if directories else frozenset()
    return [session for session in planned if session.identity not in in_use]


def reclaimable(config: Config, decisions: Sequence[Decision] | None, trash: Usage) -> Usage | None:
    """Return the usage of what a cleanup would remove, and of the trash; None if unknown."""
    if decisions is None:
        return None
    try:
        sessions = removable_sessions(config, decisions)
    except OSError:
        return None
    return combined([trash, *(session.usage for session in sessions if session.usage)])
