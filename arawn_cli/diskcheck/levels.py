"""The scopes that a check watches: the usage, limits and level of each.

The scopes are the total, every workstream, every scratch session, Arawn's own files, and the space
and inodes of the filesystem of the root and of those that are mounted at Arawn's directories. To
add one, add its name here, to FIXED if every root has it, and its usage to `scopes_of`.

The level of a scope follows from its usage, its limits and its previous alert, in pure functions.
It rises to a level after usage above the limit in `for_checks` checks in a row. It leaves the level
when usage is `recover_percent` below the limit. An incomplete measurement is a lower bound: it can
raise a level, and never lowers one. By default every check above a limit sends an event, as Arawn
does.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.arawn.layout import SCRATCH
from arawn_cli.arawn.root import Root
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.measuring import Measurements
from arawn_cli.events import Filesystem, Level, Unit
from arawn_cli.fs.usage import Usage
from arawn_cli.names import is_valid_id, shortened
from arawn_cli.problems import persistent
from arawn_cli.state_file import MAX_INTEGER
from arawn_cli.timestamps import SECOND
from arawn_cli.units import seconds_of

log = logging.getLogger(__name__)

TOTAL = "total"
FILESYSTEM = "filesystem"
INODES = "inodes"
OWN_FILES = "own_files"
SESSION = "session:"
"""Prefix of the scope of a scratch session. No workstream id contains a colon."""

FIXED = frozenset({TOTAL, OWN_FILES, FILESYSTEM, INODES})
"""Scopes that a root has apart from its workstreams and sessions.

A workstream may have such an id, so its scope gets a prefix.
"""

_WORKSTREAM = "workstream:"

_SEVERITY = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class ScopeUsage:
    """The usage of a scope and its limits, in `unit`.

    Attributes:
        scope: one of `FIXED`, `session:<id>`, or the scope of a workstream.
        limit: the limit of a warning, 0 for none.
        critical: the limit of the critical level.
        complete: if false, the usage is a lower bound.
        sample_age_secs: the age of the oldest part of the measurement.
        capacity: the part of a filesystem that an ordinary user can use, 0 for a tree.
    """

    scope: str
    name: str
    usage: int
    limit: int
    critical: int
    complete: bool
    unit: Unit = Unit.BYTES
    sample_age_secs: int = 0
    capacity: int = 0

    @property
    def percent(self) -> int:
        """Return the usage in percent of the limit, or of the capacity, rounded up as by df."""
        whole = self.capacity or self.limit
        return -(-self.usage * 100 // whole) if whole else 0

    def threshold(self, level: Level) -> int:
        """Return the usage above which a level begins; without a limit no usage is above it."""
        if not self.limit:
            return MAX_INTEGER
        return self.critical if level is Level.CRITICAL else self.limit


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


def scope_of(workstream: str) -> str:
    """Return the scope of a workstream: its id, with a prefix if a fixed scope has that name."""
    return f"{_WORKSTREAM}{workstream}" if workstream in FIXED else workstream


def is_of_filesystem(scope: str) -> bool:
    """Return whether a scope is the space or the inodes of a filesystem."""
    return scope.partition(":")[0] in (FILESYSTEM, INODES)


def can_cleanup_help(scope: str) -> bool:
    """Return whether a cleanup can reduce the usage of a scope."""
    return scope in (TOTAL, SCRATCH) or scope.startswith(SESSION) or is_of_filesystem(scope)


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


def vanished_scopes(root: Root, scopes: Iterable[str], found: Collection[str], filesystems: Mapping[str, Filesystem]) -> set[str]:
    """Return the scopes that were not found because their directory does not exist any more.

    If Arawn's own files were not found, it is unknown where they are. A filesystem of unknown size
    may be as full as before.
    """
    silent = [path for path, each in filesystems.items() if not each.total_bytes]
    unknown = {f"{scope}:{path}".rstrip(":") for path in silent for scope in (FILESYSTEM, INODES)}
    missing = set(scopes) - set(found) - {OWN_FILES} - unknown
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


# ---- Levels


class Rules(NamedTuple):
    """When a level is raised, left and repeated; `repeat` is in nanoseconds, 0 is every check."""

    for_checks: int = 1
    recover_percent: int = 5
    repeat: int = 0


def rules_of(config: Config) -> Rules:
    """Return the configured rules for levels."""
    pressure = config.maintenance.pressure
    return Rules(pressure.for_checks, pressure.recover_percent, seconds_of(pressure.repeat_interval) * SECOND)


class Alert(NamedTuple):
    """The state of a scope between two checks.

    Attributes:
        warnings: checks in a row, up to the last one, above the limit; counted up to `for_checks`.
        criticals: the same above the critical limit.
        notified_at: time of the last event about this level in nanoseconds, or None.
    """

    level: Level = Level.OK
    warnings: int = 0
    criticals: int = 0
    notified_at: int | None = None


NO_ALERT = Alert()
"""The alert of a scope that was ok and below its limits in the last check. It is not stored."""


class StoredAlert(NamedTuple):
    """An alert, and the last measurement of its scope, whose name and limits a recovery reports."""

    alert: Alert
    usage: ScopeUsage


class Verdict(NamedTuple):
    """The result for one scope: its previous level, its new alert, and whether to send an event."""

    usage: ScopeUsage
    before: Level
    alert: Alert
    notify: bool

    @property
    def level(self) -> Level:
        """The new level."""
        return self.alert.level

    @property
    def is_ok_session(self) -> bool:
        """Whether it is a scratch session that is ok. There may be thousands of them."""
        return self.usage.scope.startswith(SESSION) and self.level is Level.OK


def judge(usage: ScopeUsage, before: Alert, rules: Rules, now: int) -> Verdict:
    """Return the next state of a scope; `now`, in nanoseconds, matters only for repeated events."""
    warnings = _count_in_a_row(before.warnings, usage, Level.WARNING, rules)
    criticals = _count_in_a_row(before.criticals, usage, Level.CRITICAL, rules)
    raised = Level.OK
    if level_of(usage) is Level.CRITICAL and criticals >= rules.for_checks:
        raised = Level.CRITICAL
    elif level_of(usage) is not Level.OK and warnings >= rules.for_checks:
        raised = Level.WARNING
    kept = _level_kept(before.level, usage, rules) if usage.complete else before.level
    level = worst((raised, kept))
    notify = level is not before.level or (level is not Level.OK and _is_repeat_due(before.notified_at, rules, now))
    notified_at = None if level is Level.OK else now if notify else before.notified_at
    return Verdict(usage, before.level, Alert(level, warnings, criticals, notified_at), notify)


def judge_all(
    usages: Iterable[ScopeUsage], before: Mapping[str, StoredAlert], rules: Rules, now: int, *, vanished: Collection[str]
) -> list[Verdict]:
    """Return the next state of every scope; those in `vanished` with a stored alert recover."""
    verdicts = [judge(usage, _alert_before(usage, before), rules, now) for usage in usages]
    recovered = [
        Verdict(replace(stored.usage, usage=0, complete=True), stored.alert.level, NO_ALERT, stored.alert.level is not Level.OK)
        for scope, stored in before.items()
        if scope in vanished
    ]
    return verdicts + recovered


def unchanged(usages: Iterable[ScopeUsage], before: Mapping[str, StoredAlert]) -> list[Verdict]:
    """Return every scope with its stored alert, without events."""
    alerts = ((usage, _alert_before(usage, before)) for usage in usages)
    return [Verdict(usage, alert.level, alert, notify=False) for usage, alert in alerts]


def _alert_before(usage: ScopeUsage, before: Mapping[str, StoredAlert]) -> Alert:
    return before[usage.scope].alert if usage.scope in before else NO_ALERT


def _count_in_a_row(count: int, usage: ScopeUsage, level: Level, rules: Rules) -> int:
    if usage.usage > usage.threshold(level):
        return min(count + 1, rules.for_checks)
    # A lower bound below the limit proves nothing.
    return 0 if usage.complete else min(count, rules.for_checks)


def _level_kept(level: Level, usage: ScopeUsage, rules: Rules) -> Level:
    """Return the level that a scope at `level` keeps: usage is not `recover_percent` below it."""
    candidates = [other for other in (Level.WARNING, Level.CRITICAL) if reaches(level, other)]
    return worst(other for other in candidates if usage.usage * 100 > usage.threshold(other) * (100 - rules.recover_percent))


def _is_repeat_due(notified_at: int | None, rules: Rules, now: int) -> bool:
    """Whether to repeat an event. A clock that was set back must not suppress it."""
    return notified_at is None or not notified_at <= now < notified_at + rules.repeat


def level_of(usage: ScopeUsage) -> Level:
    """Return the level of the usage alone. At a limit is not above it."""
    return next((level for level in (Level.CRITICAL, Level.WARNING) if usage.usage > usage.threshold(level)), Level.OK)


def worst(levels: Iterable[Level]) -> Level:
    """Return the most severe level, ok without any."""
    return max(levels, key=_SEVERITY.index, default=Level.OK)


def worst_first(scope: ScopeUsage, level: Level) -> tuple[int, int, int]:
    """Return a key that sorts scopes: the worst level first, then the fullest, then the largest."""
    return -_SEVERITY.index(level) if level in _SEVERITY else 0, -scope.percent, -scope.usage


def reaches(level: Level, threshold: Level) -> bool:
    """Whether a level is at least as severe as a threshold; an unknown level is not."""
    return level in _SEVERITY and _SEVERITY.index(level) >= _SEVERITY.index(threshold)


def next_limit(usage: ScopeUsage, level: Level) -> int | None:
    """Return the next limit that a scope at `level` can exceed; None above both or without one."""
    if not usage.limit:
        return None
    return {Level.OK: usage.limit, Level.WARNING: usage.critical}.get(worst((level, level_of(usage))))
