"""The scopes that a check watches, each with its usage and limits.

The total, every workstream, every scratch session, Arawn's own files, and the space and inodes of
the filesystem of the root and of those that are mounted at Arawn's directories. To add a scope, add
its name to `levels.py`, to FIXED here if every root has it, and its usage to `scopes_of`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.arawn.root import Root
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.levels import FILESYSTEM, INODES, OWN_FILES, SESSION, TOTAL, Rules, ScopeUsage
from arawn_cli.diskcheck.measuring import Measurements
from arawn_cli.events import Filesystem, Unit
from arawn_cli.fs.usage import Usage
from arawn_cli.names import is_valid_id, shortened
from arawn_cli.problems import persistent
from arawn_cli.state_file import MAX_INTEGER
from arawn_cli.timestamps import SECOND
from arawn_cli.units import seconds_of

log = logging.getLogger(__name__)

FIXED = frozenset({TOTAL, OWN_FILES, FILESYSTEM, INODES})
"""Scopes that a root has apart from its workstreams and sessions.

A workstream may have such an id, so its scope gets a prefix.
"""

_WORKSTREAM = "workstream:"


def size_in(config: Config, usage: Usage) -> int:
    """Return the size of a tree in the configured measure, at most what the state file can hold."""
    return min(usage.apparent_bytes if config.maintenance.pressure.measure == "apparent" else usage.allocated_bytes, MAX_INTEGER)


def freed_in(config: Config, usage: Usage) -> int:
    """Return the bytes that deleting a tree frees, in the configured measure."""
    return min(usage.freed_bytes if config.maintenance.pressure.measure == "apparent" else usage.freed_allocated_bytes, MAX_INTEGER)


def limit_of(config: Config, row: WorkstreamRow) -> int:
    """Return the limit of a workstream in bytes, by its id, else by its title; 0 for none."""
    limits = config.maintenance.pressure.limits
    return limits.get(row.id, limits.get(row.title, config.workstream_limit_bytes))


def unmatched_limits(workstreams: Iterable[WorkstreamRow], limits: Mapping[str, int]) -> list[str]:
    """Return the keys of configured limits that are neither id nor title of a workstream."""
    known = {name for workstream in workstreams for name in (workstream.id, workstream.title)}
    return [key for key in limits if key not in known]


def rules_of(config: Config) -> Rules:
    """Return the configured rules for levels."""
    pressure = config.maintenance.pressure
    return Rules(pressure.for_checks, pressure.recover_percent, seconds_of(pressure.repeat_interval) * SECOND)


def scope_of(workstream: str) -> str:
    """Return the scope of a workstream: its id, with a prefix if a fixed scope has that name."""
    return f"{_WORKSTREAM}{workstream}" if workstream in FIXED else workstream


def scopes_of(config: Config, measurements: Measurements) -> tuple[ScopeUsage, ...]:
    """Return every scope whose limit is certain, and log limits for unknown workstreams.

    Without the rows of the database it is unknown which workstream has a limit by its title.
    Workstreams with the same title get their ids into their names.
    """
    limits = config.maintenance.pressure.limits
    if measurements.rows_known:
        for key in unmatched_limits((tree.row for tree in measurements.workstreams), limits):
            text = "[maintenance.pressure.limits] %r is neither the id nor the title of a workstream"
            log.warning(text, key, extra=persistent(f"limit {key}"))
    scopes = [_tree(config, TOTAL, "all workstreams", measurements.total, config.total_limit_bytes)]
    if measurements.own_files is not None:
        limit = config.maintenance.pressure.own_files or 0
        scopes.append(_tree(config, OWN_FILES, "Arawn's own files", measurements.own_files.total, limit))
    titles = Counter(tree.row.title for tree in measurements.workstreams)
    for tree in measurements.workstreams:
        if measurements.rows_known or not limits or tree.row.id in limits:
            title = tree.row.title if titles[tree.row.title] == 1 else f"{tree.row.title}, {shortened(tree.row.id)}"
            scopes.append(_tree(config, scope_of(tree.row.id), title, tree.total, limit_of(config, tree.row)))
    for tree in measurements.workstreams:
        if tree.row.is_scratch:
            for session, usage in tree.sessions.items():
                scopes.append(
                    _tree(config, f"{SESSION}{session}", f"Scratch session {shortened(session)}", usage, config.session_limit_bytes)
                )
    for path, filesystem in measurements.filesystems.items():
        scopes += _filesystem(config, filesystem, f":{path}" if path else "")
    return tuple(scopes)


def scope_of_sessions(measurements: Measurements) -> str:
    """Return the scope of the filesystem that the scratch sessions are on."""
    return f"{FILESYSTEM}:{measurements.sessions_mount}" if measurements.sessions_mount else FILESYSTEM


def _tree(config: Config, scope: str, name: str, usage: Usage, limit: int) -> ScopeUsage:
    critical = int(min(limit * config.maintenance.pressure.critical_ratio, MAX_INTEGER))
    return ScopeUsage(scope, name, size_in(config, usage), limit, critical, usage.complete, sample_age_secs=usage.sample_age_secs)


def _filesystem(config: Config, filesystem: Filesystem, suffix: str) -> Iterator[ScopeUsage]:
    """Yield space and inodes, if the filesystem counts them, without those reserved for root."""
    pressure = config.maintenance.pressure
    space = filesystem.used_bytes + filesystem.free_bytes
    if space:
        limit, critical = pressure.filesystem_warning_percent * space // 100, pressure.filesystem_critical_percent * space // 100
        name = f"Filesystem {filesystem.mountpoint}"
        yield ScopeUsage(f"{FILESYSTEM}{suffix}", name, filesystem.used_bytes, limit, critical, complete=True, capacity=space)
    if filesystem.total_inodes:
        inodes = filesystem.used_inodes + filesystem.free_inodes
        limit, critical = pressure.inode_warning_percent * inodes // 100, pressure.inode_critical_percent * inodes // 100
        name = f"Inodes of {filesystem.mountpoint}"
        yield ScopeUsage(
            f"{INODES}{suffix}", name, filesystem.used_inodes, limit, critical, complete=True, unit=Unit.INODES, capacity=inodes
        )


def vanished_scopes(root: Root, scopes: Iterable[str], found: Iterable[ScopeUsage], filesystems: Mapping[str, Filesystem]) -> set[str]:
    """Return the scopes that were not found because their directory does not exist any more.

    If Arawn's own files were not found, it is unknown where they are. A filesystem of unknown size
    may be as full as before.
    """
    silent = [path for path, each in filesystems.items() if not each.total_bytes]
    unknown = {f"{scope}:{path}".rstrip(":") for path in silent for scope in (FILESYSTEM, INODES)}
    missing = set(scopes) - {usage.scope for usage in found} - {OWN_FILES} - unknown
    return {scope for scope in missing if scope in FIXED or not _directory_exists(root, scope)}


def _directory_exists(root: Root, scope: str) -> bool:
    """Whether the directory of a session or workstream exists, or may exist."""
    if scope.startswith(SESSION):
        names, name = "/".join((*root.layout.sessions, "")), scope.removeprefix(SESSION)
    else:
        names, name = "", scope.removeprefix(_WORKSTREAM)
    if not is_valid_id(name):
        return False
    try:
        os.stat(f"{names}{name}", dir_fd=root.workstreams, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
