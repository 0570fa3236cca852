"""Exit codes, and the errors that end a command early."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Literal, Self

from arawn_cli.names import cut, escape

log = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """The exit codes of every command, with their meanings.

    The numbers from 64 on are those of sysexits.h; 130 and 143 are 128 plus the number of the
    signal, as in a shell.
    """

    _value_: int
    meaning: str

    def __new__(cls, number: int, meaning: str = "") -> Self:
        """Return the number with its meaning."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning = meaning
        return code

    DONE = 0, "done"
    PARTIAL = 1, "partly done: something failed or could not be read"
    USAGE = 2, "an option or argument is wrong, or cannot be used here"
    LEVEL_REACHED = 3, "the level named by --fail-on was reached"
    UNDELIVERED = 69, "an event was neither delivered nor stored, or standard output cannot be written"
    INTERNAL = 70, "internal error, which is a bug"
    LOCKED = 75, "another run on this root is in progress"
    REFUSED = 77, "refused for safety: nothing was removed"
    CONFIG = 78, "the configuration or the root is missing or wrong"
    INTERRUPTED = 130, "interrupted by SIGINT"
    TERMINATED = 143, "terminated by SIGTERM"


class ArawnCliError(Exception):
    """An error with a message for people: what happened, to what, what to do.

    Attributes:
        pings: if it ended a run that had read its configuration file, and no more, the addresses by
            job to ping.
    """

    exit_code = ExitCode.INTERNAL
    pings: Mapping[str, str] = MappingProxyType({})


class StateUnavailableError(ArawnCliError):
    """The state file cannot be used now. Its content is unchanged."""

    exit_code = ExitCode.PARTIAL


class ConfigurationError(ArawnCliError):
    """The configuration or the root is missing or wrong; nothing has been touched."""

    exit_code = ExitCode.CONFIG


class RefusedError(ArawnCliError):
    """Continuing could remove something that must be kept; nothing has been touched."""

    exit_code = ExitCode.REFUSED


class LockedError(ArawnCliError):
    """Another run holds the lock of this root."""

    exit_code = ExitCode.LOCKED


class LongLockedError(ArawnCliError):
    """Another run has held the lock of this root for more than a day, so it may hang."""

    exit_code = ExitCode.PARTIAL


class NoSuchSessionError(ArawnCliError):
    """A session that the command line names does not exist; nothing has been touched."""

    exit_code = ExitCode.USAGE


class DeclinedError(ArawnCliError):
    """The person at the terminal did not agree; nothing has been touched."""

    exit_code = ExitCode.DONE


class OutputLostError(ArawnCliError):
    """Standard output cannot be written."""

    exit_code = ExitCode.UNDELIVERED


class StoppedError(ArawnCliError):
    """A signal asked the run to end; the exit code is the signal's."""

    exit_code = ExitCode.TERMINATED

    def __init__(self) -> None:
        super().__init__("stopped by a signal")


def never_stopping() -> bool:
    """Return that no signal asked the run to end: the default where none is caught."""
    return False


def log_error(error: BaseException) -> ExitCode:
    """Log an error that ended a command, as one line, and return its exit code."""
    match error:
        case ArawnCliError():
            log.log(logging.WARNING if isinstance(error, DeclinedError) else logging.ERROR, "%s", error)
            return error.exit_code
        case KeyboardInterrupt():
            log.error("interrupted")
            return ExitCode.INTERRUPTED
        case OSError() | MemoryError():  # the system refused an operation that no step expects to fail
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename is not None else ""
            reason = error.strerror if isinstance(error, OSError) else "not enough memory"
            log.error("ended early: %s%s; run it again", escape(place), reason or error)
            log.debug("traceback", exc_info=error)
            return ExitCode.PARTIAL
        case _:
            log.error("internal error, please report it: %s: %s", type(error).__name__, error)
            log.debug("traceback", exc_info=error)
            return ExitCode.INTERNAL


Operation = Literal["open", "list", "measure", "read", "parse", "query", "check", "rename", "delete"]
"""Operations that fail: `check` is whether a session may be removed, `query` reads the database."""


FAILURES_LISTED = 20
"""Failures that a run lists in its log, its events and its report. It counts the others."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed operation on one file, kept as a value so that the run continues.

    `path` is escaped and relative to the root; `errno` is the kernel's number; `detail` adds what
    the number does not say. Both texts are cut to 1,000 characters.
    """

    operation: Operation
    path: str
    errno: int
    detail: str = ""

    def __post_init__(self) -> None:
        """Cut long texts: thousands of paths can be thousands of names deep."""
        object.__setattr__(self, "path", cut(self.path))
        object.__setattr__(self, "detail", cut(self.detail))

    @classmethod
    def of(cls, operation: Operation, path: str, error: OSError) -> Failure:
        """Make a failure of an OSError.

        Without a number it counts as EIO. A text that differs from the number's is kept.
        """
        number = error.errno or errno.EIO
        text = error.strerror or ""
        return cls(operation, escape(path), number, "" if text == os.strerror(number) else text)

    def __str__(self) -> str:
        return f"{self.operation} {self.path}: {self.detail or os.strerror(self.errno)}"
