"""The level of each scope, from its usage, limits and previous alert. Pure functions.

A scope rises to a level after usage above the limit in `for_checks` checks in a row. It leaves the
level when usage is `recover_percent` below the limit. An incomplete measurement is a lower bound:
it can raise a level, and never lowers one. By default every check above a limit sends an event, as
Arawn does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from arawn_cli.events import Level, Unit
from arawn_cli.state_file import MAX_INTEGER

TOTAL = "total"
FILESYSTEM = "filesystem"
INODES = "inodes"
OWN_FILES = "own_files"
SESSION = "session:"
"""Prefix of the scope of a scratch session. No workstream id contains a colon."""

_SEVERITY = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class ScopeUsage:
    """The usage of a scope and its limits, in `unit`.

    `scope` is one of `limits.FIXED`, `session:<id>`, or the scope of a workstream. `limit` is the
    limit of a warning, 0 for none. If `complete` is false, the usage is a lower bound.
    `sample_age_secs` is the age of the oldest part of the measurement. `capacity` is what an
    ordinary user can use of a filesystem, 0 for a tree.
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


@dataclass(frozen=True, slots=True)
class Rules:
    """When a level is raised, left and repeated; `repeat` is in nanoseconds, 0 is every check."""

    for_checks: int = 1
    recover_percent: int = 5
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Alert:
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


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert, and the last measurement of its scope, whose name and limits a recovery reports."""

    alert: Alert
    usage: ScopeUsage


@dataclass(frozen=True, slots=True)
class Verdict:
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
