"""What a check found, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check came out; only `fail` keeps a job from being done."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`. `mend` says what to do, as a command where there is one, and is None when all is well."""

    check: str
    status: Status
    detail: str
    mend: str | None = None


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, mend: str) -> Finding:
    """Something to know, or to look at."""
    return Finding(check, Status.WARN, detail, mend)


def fail(check: str, detail: str, mend: str) -> Finding:
    """A job cannot be done."""
    return Finding(check, Status.FAIL, detail, mend)
