"""The closed sets of words that commands and events carry, beside `Level` and those that scratch_session.py has."""

from __future__ import annotations

from enum import StrEnum


class Unit(StrEnum):
    """What the usage of a scope counts."""

    BYTES = "bytes"
    INODES = "inodes"


class JobName(StrEnum):
    """A job that a scheduler runs, by the name of its command."""

    SCRATCH_CLEANUP = "scratch-cleanup"
    DISK_CHECK = "disk-check"


class TrashAction(StrEnum):
    """What is told of an entry of the trash."""

    LISTED = "listed"
    RESTORED = "restored"
    PURGED = "purged"
    WOULD_PURGE = "would_purge"
    BEING_PURGED = "being_purged"
    FAILED = "failed"


class Status(StrEnum):
    """How a check came out; only `fail` keeps a job from being done."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class RunResult(StrEnum):
    """How the last run of a scheduled job ended."""

    SUCCESS = "success"
    FAILED = "failed"
    LOCKED = "another run was at work"


class Condition(StrEnum):
    """What is found where a file of the tool's belongs."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"
    EDITED = "edited"
    FOREIGN = "foreign"

    @property
    def is_ours(self) -> bool:
        """Whether the tool wrote all of it, so that nothing of anybody's is lost with it."""
        return self in (Condition.CURRENT, Condition.OUTDATED)
