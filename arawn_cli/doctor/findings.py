"""What a check found, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.names import escape
from arawn_cli.vocabulary import Status


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`. `mend` is what to do, for a shell: a command, or a comment where none does it; None when all is well."""

    check: str
    status: Status
    detail: str
    mend: str | None = None


def advice(text: str) -> str:
    """What no command does, as a comment: whoever pastes it into a shell harms nothing."""
    return f"# {escape(text)}"


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, mend: str) -> Finding:
    """Something to know, or to look at."""
    return Finding(check, Status.WARN, detail, mend)


def fail(check: str, detail: str, mend: str) -> Finding:
    """A job cannot be done."""
    return Finding(check, Status.FAIL, detail, mend)
