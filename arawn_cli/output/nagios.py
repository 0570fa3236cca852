"""A disk check as a monitoring plugin tells it: one status line with performance data, and a return code.

The form is that of the Monitoring Plugins Development Guidelines (monitoring-plugins.org/doc/guidelines.html).
"""

from __future__ import annotations

from collections.abc import Sequence

from arawn_cli.diskcheck.job import Checked
from arawn_cli.diskcheck.levels import SESSION, TOTAL, ScopeUsage, Verdict
from arawn_cli.events import Level, Unit
from arawn_cli.names import escape
from arawn_cli.output.format import size

RETURN_CODES = {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}


# A line of output has room for some kilobytes.
_MOST = 10


UNKNOWN = RETURN_CODES[Level.UNKNOWN]


def status_line(checked: Checked) -> str:
    """The worst scopes in words, and every scope in numbers; of scratch sessions only those that are not ok.

    Performance data is `'scope'=usage;warning;critical;0`, in bytes (`B`), for the scope `inodes` a bare number.
    """
    level = checked.summary.level
    incomplete = "" if checked.summary.complete else f"not all could be read, {_failures(checked)}"
    text = "; ".join(part for part in ("" if level is Level.UNKNOWN else _worst(checked.verdicts, level), incomplete) if part)
    sessions = (verdict for verdict in checked.verdicts if verdict.usage.scope.startswith(SESSION))
    worst_sessions = sorted((verdict for verdict in sessions if not verdict.is_quiet_session), key=_excess, reverse=True)[:_MOST]
    scopes = [verdict for verdict in checked.verdicts if not verdict.usage.scope.startswith(SESSION)]
    shown = [verdict.usage for verdict in (*scopes, *worst_sessions)]
    return f"DISK {level.value.upper()} - {_plain(text)} | {' '.join(_performance(usage) for usage in shown)}"


def unknown_line(reason: str) -> str:
    """The line of a check that came to nothing."""
    return f"DISK UNKNOWN - {_plain(reason)}"


def _failures(checked: Checked) -> str:
    failures = checked.inspection.failures
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
