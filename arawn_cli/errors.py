"""Exit codes, and the errors that end a run before its work is done."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import IntEnum

from arawn_cli.names import escape


class ExitCode(IntEnum):
    """What the exit status of every command means.

    The numbers from 64 on are those of sysexits.h; 130 and 143 are 128 plus
    the number of the signal, as a shell reports it.
    """

    DONE = 0
    PARTIAL = 1
    USAGE = 2
    LEVEL_REACHED = 3
    UNDELIVERED = 69
    INTERNAL = 70
    LOCKED = 75
    REFUSED = 77
    CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.PARTIAL: "done in part: an item failed or could not be read",
    ExitCode.USAGE: "usage error: an option or argument is wrong, or not possible here",
    ExitCode.LEVEL_REACHED: "the level named by --fail-on was reached",
    ExitCode.UNDELIVERED: "an event could be neither delivered nor stored",
    ExitCode.INTERNAL: "internal error, which is a bug",
    ExitCode.LOCKED: "another run is at work on this root",
    ExitCode.REFUSED: "refused for safety: nothing was removed",
    ExitCode.CONFIG: "the configuration or the root is missing or wrong",
    ExitCode.INTERRUPTED: "interrupted by SIGINT",
    ExitCode.TERMINATED: "terminated by SIGTERM",
}


class ArawnCliError(Exception):
    """An error whose text is written for the person who reads it: what happened, to what, what to do."""

    exit_code = ExitCode.INTERNAL


class ConfigurationError(ArawnCliError):
    """The configuration or the root is missing or wrong; nothing has been touched."""

    exit_code = ExitCode.CONFIG


class RefusedError(ArawnCliError):
    """Going on could remove what must stay; nothing has been touched."""

    exit_code = ExitCode.REFUSED


class LockedError(ArawnCliError):
    """Another run holds the lock of this root."""

    exit_code = ExitCode.LOCKED


class OutputLostError(ArawnCliError):
    """Standard output took no more."""

    exit_code = ExitCode.UNDELIVERED

    @classmethod
    def of(cls, error: OSError) -> OutputLostError:
        """What the system says of it, in a sentence."""
        return cls(f"standard output takes no more: {error.strerror}")


class StoppedError(ArawnCliError):
    """A signal asked the run to end; the exit code is the signal's."""

    exit_code = ExitCode.TERMINATED


@dataclass(frozen=True, slots=True)
class Failure:
    """A system call that failed on one file, kept as a value so that the rest goes on.

    `path` is escaped and relative to the root; `errno` is the kernel's number; `detail`
    says more where the number does not say enough.
    """

    operation: str
    path: str
    errno: int
    detail: str = ""

    @classmethod
    def of(cls, operation: str, path: str, error: OSError) -> Failure:
        """The failure that an OSError tells; an error without a number counts as EIO, and one in words of its own keeps them."""
        number = error.errno or errno.EIO
        told = error.strerror or ""
        return cls(operation, escape(path), number, "" if told == os.strerror(number) else told)

    def __str__(self) -> str:
        return f"{self.operation} {self.path}: {self.detail or os.strerror(self.errno)}"
