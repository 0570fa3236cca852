"""The output of a monitoring plugin: one status line with performance data, and a return code.

The format is that of the Monitoring Plugins Development Guidelines
(monitoring-plugins.org/doc/guidelines.html).
"""

from __future__ import annotations

from collections.abc import Sequence

from arawn_cli.diskcheck.job import CheckResult
from arawn_cli.diskcheck.levels import SESSION, TOTAL, ScopeUsage, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.names import escape
from arawn_cli.output.format import mounts_in_words
from arawn_cli.units import count, size

RETURN_CODES = {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}

# Scopes that the text names, and sessions in the performance data: a line has room for some
# kilobytes.
_MAX_SCOPES = 10


def status(checked: CheckResult | None, problems: Sequence[str] = ()) -> tuple[str, int]:
    """Return the status line and the return code of a check.

    The line names the worst scopes. Its performance data has every scope, but only those scratch
    sessions that exceed their limit. A check that is incomplete proves neither OK nor WARNING: both
    become UNKNOWN. CRITICAL stays CRITICAL.

    Args:
        checked: the result, or None if the check ended without one.
        problems: other failures, such as lost events.
    """
    if checked is None:
        return f"DISK UNKNOWN - {_plain('; '.join(problems))}", RETURN_CODES[Level.UNKNOWN]
    level, failures = checked.summary.level, checked.measurements.failures
    parts = [] if level is Level.UNKNOWN else [_worst(checked.verdicts, level)]
    if not checked.summary.complete:
        parts.append(f"incomplete, {count(checked.summary.failure_count, 'failure')}: {failures[0]}")
    if checked.summary.not_counted:
        parts.append(f"not counted: {mounts_in_words(checked.summary.not_counted)}")
    parts += problems
    if (problems or not checked.summary.complete) and level is not Level.CRITICAL:
        level = Level.UNKNOWN
    sessions = [verdict for verdict in checked.verdicts if verdict.usage.scope.startswith(SESSION) and not verdict.is_ok_session]
    others = [verdict for verdict in checked.verdicts if not verdict.usage.scope.startswith(SESSION)]
    shown = [*others, *sorted(sessions, key=_excess, reverse=True)[:_MAX_SCOPES]]
    performance = " ".join(_performance(verdict.usage) for verdict in shown)
    return f"DISK {level.value.upper()} - {_plain('; '.join(parts))} | {performance}", RETURN_CODES[level]


def _worst(verdicts: Sequence[Verdict], level: Level) -> str:
    """Return the scopes at a level, the worst first; for OK only the total."""
    at_level = [verdict for verdict in verdicts if verdict.level is level and (level is not Level.OK or verdict.usage.scope == TOTAL)]
    at_level.sort(key=_excess, reverse=True)
    more = f" and {len(at_level) - _MAX_SCOPES} more" if len(at_level) > _MAX_SCOPES else ""
    return ", ".join(_usage_of_limit(verdict.usage) for verdict in at_level[:_MAX_SCOPES]) + more


def _excess(verdict: Verdict) -> float:
    return verdict.usage.usage / verdict.usage.limit if verdict.usage.limit else 0.0


def _usage_of_limit(usage: ScopeUsage) -> str:
    numbers = (usage.usage, usage.limit)
    if usage.unit is Unit.BYTES:  # without the space that size() has
        used, limit = (size(number).replace(" bytes", "B").replace(" byte", "B").replace(" ", "") for number in numbers)
    else:
        used, limit = map(str, numbers)
    return f"{usage.scope} {used} of {limit}"


def _performance(usage: ScopeUsage) -> str:
    """Return `'scope'=usage;warning;critical;0`, in bytes (`B`) or as bare numbers of inodes."""
    unit = "B" if usage.unit is Unit.BYTES else ""
    thresholds = f"{usage.limit};{usage.critical}" if usage.limit else ";"
    return f"'{usage.scope}'={usage.usage}{unit};{thresholds};0"


def _plain(text: str) -> str:
    """Return one line without the bar that begins performance data."""
    return escape(" ".join(text.split())).replace("|", "/")
