"""Usage x limits x what is remembered: a level for each scope, and what is told of it. Pure functions of values.

A level is a state with a history. It is raised by usage above a limit in `for_checks` checks in a row, and left
once usage is `recover_percent` below that limit. An incomplete measurement is a lower bound: it may prove
a level, and never lowers one. With the defaults every check above a limit tells of it, as Arawn itself would.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.events import Level, Unit
from arawn_cli.timestamps import SECOND

TOTAL = "total"


FILESYSTEM = "filesystem"


INODES = "inodes"


SESSION = "session:"
"""Begins the scope of a scratch session; no workstream id holds a colon."""


_SEVERITY = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class ScopeUsage:
    """What a scope uses, beside its limits, all in `unit`.

    `scope` is one of `scopes.FIXED`, `session:<id>`, or that of a workstream; `limit` is the one that a warning stands
    for; `complete` is false when the usage is only a lower bound; `sample_age_secs` is the age of the oldest part of it.
    """

    scope: str
    name: str
    usage: int
    limit: int
    critical: int
    complete: bool
    unit: Unit = Unit.BYTES
    sample_age_secs: int = 0

    def threshold(self, level: Level) -> int:
        """The usage above which a level begins."""
        return self.critical if level is Level.CRITICAL else self.limit


@dataclass(frozen=True, slots=True)
class Rules:
    """How a level is raised, left and repeated; `repeat` is in nanoseconds, 0 for every check."""

    for_checks: int = 1
    recover_percent: int = 5
    repeat: int = 0

    @classmethod
    def of(cls, for_checks: int, recover_percent: int, repeat_secs: int) -> Rules:
        """The rules as the configuration writes them."""
        return cls(for_checks, recover_percent, repeat_secs * SECOND)


@dataclass(frozen=True, slots=True)
class Alert:
    """What is remembered of a scope from one check to the next.

    Attributes:
        warnings: checks in a row, up to the last one, with usage above the limit; no more than `for_checks` are counted.
        criticals: the same, above the critical limit.
        told_at: when an event last told the level, in nanoseconds, or None.
    """

    level: Level = Level.OK
    warnings: int = 0
    criticals: int = 0
    told_at: int | None = None


QUIET = Alert()
"""Nothing to remember: the level is ok, and the last check saw nothing above a limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check makes of one scope: the level before, what is to be remembered, and whether an event tells it."""

    usage: ScopeUsage
    before: Level
    alert: Alert
    told: bool

    @property
    def level(self) -> Level:
        """The level from now on."""
        return self.alert.level

    @property
    def is_quiet_session(self) -> bool:
        """Whether it is a scratch session that is ok: there may be thousands, and they come and go."""
        return self.usage.scope.startswith(SESSION) and self.level is Level.OK


@dataclass(frozen=True, slots=True)
class Remembered:
    """An alert, and the scope as it was last seen: one that disappears recovers under its name and limits."""

    alert: Alert
    usage: ScopeUsage


def judge(usage: ScopeUsage, before: Alert, rules: Rules, now: int) -> Verdict:
    """One step of the state machine of a scope; `now` is in nanoseconds and matters to repetition alone."""
    warnings = _in_a_row(before.warnings, usage, Level.WARNING, rules)
    criticals = _in_a_row(before.criticals, usage, Level.CRITICAL, rules)
    shown = level_of(usage)
    raised = shown if min(criticals if shown is Level.CRITICAL else warnings, rules.for_checks) == rules.for_checks else Level.OK
    if shown is Level.CRITICAL and raised is Level.OK and warnings >= rules.for_checks:
        raised = Level.WARNING
    held = _held(before.level, usage, rules) if usage.complete else before.level
    level = worst((raised, held))
    told = level is not before.level or (level is not Level.OK and _due(before.told_at, rules, now))
    told_at = None if level is Level.OK else now if told else before.told_at
    return Verdict(usage, before.level, Alert(level, warnings, criticals, told_at), told)


def judge_all(
    usages: Iterable[ScopeUsage], before: Mapping[str, Remembered], rules: Rules, now: int, *, gone: Collection[str]
) -> list[Verdict]:
    """One step for every scope; those that are remembered and known to be `gone` recover."""
    verdicts = [judge(usage, before[usage.scope].alert if usage.scope in before else QUIET, rules, now) for usage in usages]
    return verdicts + [_gone(before[scope]) for scope in gone if scope in before]


def unjudged(usages: Iterable[ScopeUsage], before: Mapping[str, Remembered]) -> list[Verdict]:
    """Every scope at the level that it has, with nothing changed and nothing told."""
    alerts = ((usage, before[usage.scope].alert if usage.scope in before else QUIET) for usage in usages)
    return [Verdict(usage, alert.level, alert, told=False) for usage, alert in alerts]


def level_of(usage: ScopeUsage) -> Level:
    """What a usage alone says: warning above the limit, critical above the critical limit; at a limit is not above it."""
    if usage.usage > usage.critical:
        return Level.CRITICAL
    return Level.WARNING if usage.usage > usage.limit else Level.OK


def worst(levels: Iterable[Level]) -> Level:
    """The most severe of the levels, ok when there are none."""
    return max(levels, key=_SEVERITY.index, default=Level.OK)


def reaches(level: Level, threshold: Level) -> bool:
    """Whether a level is as severe as a threshold, or more; an unknown level reaches none."""
    return level in _SEVERITY and _SEVERITY.index(level) >= _SEVERITY.index(threshold)


def next_limit(usage: ScopeUsage, level: Level) -> int | None:
    """The limit that a scope comes to next: the one of a warning, the critical one once it is there, None above both."""
    return {Level.OK: usage.limit, Level.WARNING: usage.critical}.get(worst((level, level_of(usage))))


def limit_for(workstream: WorkstreamRow, limits: Mapping[str, int], default: int) -> int:
    """The warning limit of a workstream: by its id, else by its title, else the default."""
    return limits.get(workstream.id, limits.get(workstream.title, default))


def unmatched_limits(workstreams: Iterable[WorkstreamRow], limits: Mapping[str, int]) -> list[str]:
    """The keys of configured limits that are neither an id nor a title of any workstream."""
    known = {name for workstream in workstreams for name in (workstream.id, workstream.title)}
    return [key for key in limits if key not in known]


def _in_a_row(count: int, usage: ScopeUsage, level: Level, rules: Rules) -> int:
    if usage.usage > usage.threshold(level):
        return min(count + 1, rules.for_checks)
    # A lower bound below the limit says nothing either way.
    return 0 if usage.complete else min(count, rules.for_checks)


def _held(level: Level, usage: ScopeUsage, rules: Rules) -> Level:
    """The level that a scope keeps, coming from `level`: one is left only once usage is some percent below its limit."""
    candidates = [other for other in (Level.WARNING, Level.CRITICAL) if reaches(level, other)]
    return worst(other for other in candidates if usage.usage * 100 > usage.threshold(other) * (100 - rules.recover_percent))


def _due(told_at: int | None, rules: Rules, now: int) -> bool:
    """Whether an unchanged level is told again; a clock that went back must not silence it."""
    return told_at is None or not told_at <= now < told_at + rules.repeat


def _gone(remembered: Remembered) -> Verdict:
    before = remembered.alert.level
    return Verdict(replace(remembered.usage, usage=0, complete=True), before, QUIET, before is not Level.OK)
