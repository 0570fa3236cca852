"""The output of a monitoring plugin: one status line with performance data, and a return code.

The form is that of the Monitoring Plugins Development Guidelines (monitoring-plugins.org/doc/guidelines.html).
"""

from __future__ import annotations

from collections.abc import Sequence

from arawn_cli.diskcheck.job import CheckResult
from arawn_cli.diskcheck.levels import SESSION, TOTAL, ScopeUsage, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.names import escape
from arawn_cli.units import size

RETURN_CODES = {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}


# A line of output has room for some kilobytes.
_MOST = 10


def status(checked: CheckResult | None, problems: Sequence[str] = ()) -> tuple[str, int]:
    """Return the status line and the return code of a check; `problems` say what else went wrong, such as lost events.

    The line names the worst scopes, then each scope as performance data, and of the scratch sessions only those that
    exceed their limit: `'scope'=usage;warning;critical;0` in bytes (`B`), a bare number for the scope `inodes`.
    A run that is incomplete proves neither OK nor WARNING: both become UNKNOWN. CRITICAL stays CRITICAL.
    """
    if checked is None:
        return f"DISK UNKNOWN - {_plain('; '.join(problems))}", RETURN_CODES[Level.UNKNOWN]
    level = checked.summary.level
    parts = [] if level is Level.UNKNOWN else [_worst(checked.verdicts, level)]
    if not checked.summary.complete:
        parts.append(f"not all could be read, {_failures(checked)}")
    parts += problems
    if (problems or not checked.summary.complete) and level is not Level.CRITICAL:
        level = Level.UNKNOWN
    sessions = (verdict for verdict in checked.verdicts if verdict.usage.scope.startswith(SESSION))
    worst_sessions = sorted((verdict for verdict in sessions if not verdict.is_ok_session), key=_excess, reverse=True)[:_MOST]
    scopes = [verdict for verdict in checked.verdicts if not verdict.usage.scope.startswith(SESSION)]
    shown = [verdict.usage for verdict in (*scopes, *worst_sessions)]
    line = f"DISK {level.value.upper()} - {_plain('; '.join(parts))} | {' '.join(_performance(usage) for usage in shown)}"
    return line, RETURN_CODES[level]


def _failures(checked: CheckResult) -> str:
    failures = checked.measurements.failures
    return f"{len(failures)} failed: {failures[0]}"


def _worst(verdicts: Sequence[Verdict], level: Level) -> str:
    at_level = [verdict for verdict in verdicts if verdict.level is level and (level is not Level.OK or verdict.usage.scope == TOTAL)]
    named = sorted(at_level, key=_excess, reverse=True)
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return ", ".join(_sentence(verdict.usage) for verdict in named[:_MOST]) + more


def _excess(verdict: Verdict) -> float:
    return verdict.usage.usage / max(verdict.usage.limit, 1)


def _sentence(usage: ScopeUsage) -> str:
    if usage.unit is Unit.INODES:
        return f"{usage.scope} {usage.usage} of {usage.limit}"
    return f"{usage.scope} {_size(usage.usage)} of {_size(usage.limit)}"


def _size(number: int) -> str:
    return size(number).replace(" bytes", "B").replace(" byte", "B").replace(" ", "")


def _performance(usage: ScopeUsage) -> str:
    unit = "B" if usage.unit is Unit.BYTES else ""
    return f"'{usage.scope}'={usage.usage}{unit};{usage.limit};{usage.critical};0"


def _plain(text: str) -> str:
    """One line without the bar that begins performance data."""
    return escape(" ".join(text.split())).replace("|", "/")
