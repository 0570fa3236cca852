"""What a cleanup now would free, and what the trash holds: what helps against pressure."""

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
    """What the plan of a cleanup at `now` (nanoseconds) says of the scratch sessions, measured already; None when nobody knows.

    Nothing is locked and nothing is changed.
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


def going(config: Config, decisions: Sequence[Decision]) -> list[ScratchSession]:
    """The sessions that a cleanup would remove: none in use, and none at all where the removal limit would stop the run.

    Raises:
        OSError: what is in use cannot be found out.
    """
    planned = [] if removal_limit_of(config).exceeded_by(decisions) else [decision.session for decision in decisions if decision.goes]
    directories = {session.identity for session in planned}
    held = directories_in_use(directories) | mounted_in(directories) if directories else frozenset()
    return [session for session in planned if session.identity not in held]


def reclaimable(config: Config, decisions: list[Decision] | None, trash: Usage) -> Usage | None:
    """Everything that a cleanup would remove together with all that waits in the trash; None when nobody knows."""
    if decisions is None:
        return None
    try:
        sessions = going(config, decisions)
    except OSError:
        return None
    return combined([trash, *(session.usage for session in sessions if session.usage)])
