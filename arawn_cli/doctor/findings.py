"""Findings of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.command_events import Status
from arawn_cli.names import escape


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    `fix` is a shell command in one line, or a comment if no command fixes it. It is None if all is
    well.
    """

    check: str
    status: Status
    detail: str
    fix: str | None = None


def ok(check: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, fix: str) -> Finding:
    """Return a finding about something that may be wrong."""
    return Finding(check, Status.WARN, detail, _in_one_line(fix))


def fail(check: str, detail: str, fix: str) -> Finding:
    """Return a finding about something that stops a job from working."""
    return Finding(check, Status.FAIL, detail, _in_one_line(fix))


def comment(text: str) -> str:
    """Return advice as a shell comment, which does no harm if somebody pastes it."""
    return f"# {escape(text)}"


def _in_one_line(fix: str) -> str:
    """Return a command as a comment if a path in it could control a terminal, or end its line."""
    return fix if fix.isprintable() else comment(fix)
