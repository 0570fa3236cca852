"""What is watched: the total, every workstream, every scratch session, and the filesystem below, each beside its limits."""

from __future__ import annotations

from collections.abc import Iterator

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.config.loader import Config
from arawn_cli.config.schema import seconds_of
from arawn_cli.diskcheck.levels import FILESYSTEM, INODES, SESSION, TOTAL, Rules, ScopeUsage, limit_for
from arawn_cli.diskcheck.measuring import TreeUsage
from arawn_cli.events import Filesystem, Unit
from arawn_cli.fs.measure import Usage

FIXED = frozenset({TOTAL, FILESYSTEM, INODES})
"""The scopes that are called the same in every root. A workstream may have such an id: its scope is called otherwise."""


# The largest integer of the state file (sqlite.org/datatype3.html); more bytes than any disk has.
_LARGEST = 2**63 - 1


def size_in(config: Config, usage: Usage) -> int:
    """What a tree uses, in the configured measure; sparse files may claim more than any reader's integers hold."""
    return min(usage.apparent_bytes if config.maintenance.pressure.measure == "apparent" else usage.allocated_bytes, _LARGEST)


def freed_in(config: Config, usage: Usage) -> int:
    """What removing a tree gives back, in the configured measure."""
    return min(usage.freed_bytes if config.maintenance.pressure.measure == "apparent" else usage.freed_allocated_bytes, _LARGEST)


def limit_of(config: Config, row: WorkstreamRow) -> int:
    """The warning limit of a workstream, in bytes."""
    return limit_for(row, config.maintenance.pressure.limits, config.workstream_limit_bytes)


def scope_of(workstream: str) -> str:
    """The scope of a workstream: its id, but for one that is called as a scope of another kind is."""
    return f"workstream:{workstream}" if workstream in FIXED else workstream


def knows_limit(config: Config, row: WorkstreamRow, *, rows_known: bool) -> bool:
    """Whether the limit of a workstream is certain: without the database nobody knows which title has one of its own."""
    limits = config.maintenance.pressure.limits
    return rows_known or not limits or row.id in limits


def rules_of(config: Config) -> Rules:
    """How levels are raised, left and repeated, as configured."""
    pressure = config.maintenance.pressure
    return Rules.of(pressure.for_checks, pressure.recover_percent, seconds_of(pressure.repeat_interval))


def scopes_of(config: Config, inventory: TreeUsage, filesystem: Filesystem, *, rows_known: bool) -> Iterator[ScopeUsage]:
    """Every scope whose limit is certain: the filesystem's space and inodes only where it counts them."""
    total = inventory.total
    yield _tree(config, TOTAL, "all workstreams", total, config.total_limit_bytes)
    for tree in inventory.workstreams:
        if knows_limit(config, tree.row, rows_known=rows_known):
            yield _tree(config, scope_of(tree.row.id), tree.row.title, tree.total, limit_of(config, tree.row))
    for tree in inventory.workstreams:
        if tree.row.is_scratch:
            for session, usage in tree.sessions.items():
                yield _tree(config, f"{SESSION}{session}", tree.row.title, usage, config.session_limit_bytes)
    yield from _filesystem(config, filesystem)


def _tree(config: Config, scope: str, name: str, usage: Usage, limit: int) -> ScopeUsage:
    size, critical = size_in(config, usage), _critical(config, limit)
    return ScopeUsage(scope, name, size, limit, critical, usage.complete, sample_age_secs=usage.sample_age_secs)


def _critical(config: Config, limit: int) -> int:
    """The critical limit, in bytes, that goes with a warning limit."""
    return int(min(limit * config.maintenance.pressure.critical_ratio, _LARGEST))


def _filesystem(config: Config, filesystem: Filesystem) -> Iterator[ScopeUsage]:
    """Space and inodes as an ordinary user has them: what is kept for root is neither used nor free, as in df(1)."""
    limits = config.maintenance.pressure
    space = filesystem.used_bytes + filesystem.free_bytes
    warning, critical = (space * percent // 100 for percent in (limits.filesystem_warning_percent, limits.filesystem_critical_percent))
    if space:
        yield ScopeUsage(FILESYSTEM, filesystem.mountpoint, filesystem.used_bytes, warning, critical, complete=True)
    if filesystem.total_inodes:
        inodes = filesystem.used_inodes + filesystem.free_inodes
        warning, critical = (inodes * percent // 100 for percent in (limits.inode_warning_percent, limits.inode_critical_percent))
        yield ScopeUsage(INODES, filesystem.mountpoint, filesystem.used_inodes, warning, critical, complete=True, unit=Unit.INODES)
