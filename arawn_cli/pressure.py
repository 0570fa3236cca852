"""Usage x limits: a level for each scope. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arawn_cli.events import Level
from arawn_cli.model import WorkstreamRow

TOTAL = "total"

_SEVERITY = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class ScopeUsage:
    """What a scope uses, beside its warning limit, in bytes.

    `scope` is `total`, a workstream id or `session:<id>`; `complete` is false when the usage is only a lower bound.
    """

    scope: str
    name: str
    usage_bytes: int
    limit_bytes: int
    complete: bool


def level_of(usage: ScopeUsage, critical_ratio: float) -> Level:
    """Warning above the limit, critical above the limit times the ratio, as Arawn has it; at the limit is ok."""
    if usage.usage_bytes > usage.limit_bytes * critical_ratio:
        return Level.CRITICAL
    return Level.WARNING if usage.usage_bytes > usage.limit_bytes else Level.OK


def worst(levels: Iterable[Level]) -> Level:
    """The most severe of the levels, ok when there are none."""
    return max(levels, key=_SEVERITY.index, default=Level.OK)


def reaches(level: Level, threshold: Level) -> bool:
    """Whether a level is as severe as a threshold, or more; an unknown level reaches none."""
    return level in _SEVERITY and _SEVERITY.index(level) >= _SEVERITY.index(threshold)


def limit_for(workstream: WorkstreamRow, limits: Mapping[str, int], default: int) -> int:
    """The warning limit of a workstream: by its id, else by its title, else the default."""
    return limits.get(workstream.id, limits.get(workstream.title, default))


def unmatched_limits(workstreams: Iterable[WorkstreamRow], limits: Mapping[str, int]) -> list[str]:
    """The keys of configured limits that are neither an id nor a title of any workstream."""
    known = {name for workstream in workstreams for name in (workstream.id, workstream.title)}
    return [key for key in limits if key not in known]
