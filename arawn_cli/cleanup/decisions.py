"""The scratch sessions of a root and what the plan says of each: listed, their evidence read, decided. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from arawn_cli.arawn.layout import Root
from arawn_cli.cleanup.evidence import Activity
from arawn_cli.cleanup.plan import Policy, RemovalLimit, decide
from arawn_cli.cleanup.sessions import Decision, ScratchSession
from arawn_cli.cleanup.trash import Sessions, is_ours
from arawn_cli.config.loader import Config, database_of
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.mounts import lies_inside, mount_points
from arawn_cli.fs.openat import entries, identity_at
from arawn_cli.names import is_valid_id


def policy_of(config: Config) -> Policy:
    """Which sessions may go, as configured."""
    return Policy(config.older_than_days, config.maintenance.cleanup.protect)


def removal_limit_of(config: Config) -> RemovalLimit:
    """How many may go in one run, as configured."""
    return RemovalLimit(config.maintenance.cleanup.max_sessions, config.maintenance.cleanup.max_percent)


def list_sessions(sessions: Sessions) -> list[ScratchSession]:
    """Everything in a `sessions` directory but the tool's own trash; without evidence, and not measured.

    Raises:
        OSError: the directory cannot be read.
    """
    mounts = mount_points()
    listed: list[ScratchSession] = []
    for entry in entries(sessions.descriptor):
        if is_ours(entry.name):
            continue
        try:
            identity = identity_at(entry.name, sessions.descriptor)
        except FileNotFoundError:
            continue  # removed by somebody else since it was listed
        has_mount = any(lies_inside(mount, f"{sessions.path}/{entry.name}") for mount in mounts)
        listed.append(ScratchSession(entry.name, entry.kind, identity, has_mount))
    return listed


def activity_of(listed: Iterable[ScratchSession], config: Config, root: Root, now: int) -> Activity:
    """When the sessions were used, as Arawn recorded it; `now` is in nanoseconds."""
    ids = {session.name for session in listed if is_valid_id(session.name)}
    return Activity(root.workstreams, database_of(config, root), ids, policy_of(config).cutoff(now))


def with_evidence(listed: Iterable[ScratchSession], activity: Activity) -> list[ScratchSession]:
    """The sessions with what Arawn recorded of them."""
    return [replace(session, evidence=activity.evidence(session.name)) for session in listed]


def decisions_on(known: Sequence[ScratchSession], measured: Mapping[str, Usage], policy: Policy, now: int) -> list[Decision]:
    """What the plan says of sessions with evidence, by their usage as far as it was measured."""
    return [decide(replace(session, usage=measured.get(session.name)), policy, now) for session in known]
