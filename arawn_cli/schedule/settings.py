"""What the units and crontab lines are rendered from, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path

from arawn_cli.vocabulary import JobName


class Scheduler(StrEnum):
    """Who starts the jobs."""

    SYSTEMD = "systemd"
    CRON = "cron"


class Scope(StrEnum):
    """Whose timers they are: the machine's, or the account's own."""

    SYSTEM = "system"
    USER = "user"


class Reach(Enum):
    """How far the jobs' connections go: nowhere without a relay, else to this machine or to any."""

    NOWHERE = "nowhere"
    LOOPBACK = "loopback"
    ANYWHERE = "anywhere"


def suffixed(name: str, root_name: str | None) -> str:
    """A name of a unit, file or directory, as it is for a named root: so those of several roots stand beside each other."""
    return name if root_name is None else f"{name}-{root_name}"


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a job runs as."""

    name: str
    home: str


@dataclass(frozen=True, slots=True)
class Job:
    """One of the two jobs; `interval` is a duration or a calendar word."""

    name: JobName
    interval: str
    description: str
    timeout: str
    root_name: str | None

    @property
    def unit(self) -> str:
        """The name of its units, without the suffix."""
        return suffixed(f"arawn-{self.name}", self.root_name)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a rendering depends on.

    Attributes:
        command: the words that start the program.
        options: words that follow each command: `--config`, and `--root`, or `--base-path` where the file does not say the root.
        root: Arawn's root, with its links resolved.
        reads: what a job reads besides the root: program, configuration, certificates.
        state: the configured state directory, or None where systemd, or the account's home, gives one.
        metrics: the directory of the metrics file, or None.
        token_file: what systemd passes on as the relay's token, or None.
        logger: the path of logger(1), or None where there is none.
        namespaces: whether an account may have user namespaces, without which its own units cannot be confined.
        root_name: which of the file's named roots this is, or None for the main one.
    """

    scope: Scope
    account: Account
    command: tuple[str, ...]
    options: tuple[str, ...]
    root: Path
    reads: tuple[Path, ...]
    state: Path | None
    metrics: Path | None
    token_file: Path | None
    reach: Reach
    nice: int
    io_class: str
    cleanup: str
    check: str
    host: str
    logger: str | None
    namespaces: bool
    root_name: str | None = None

    @property
    def jobs(self) -> tuple[Job, Job]:
        """The two jobs with their intervals."""
        name, of = self.root_name, "" if self.root_name is None else f" ({self.root_name})"
        return (
            Job(JobName.SCRATCH_CLEANUP, self.cleanup, f"Remove inactive scratch sessions of Arawn{of}", "6h", name),
            Job(JobName.DISK_CHECK, self.check, f"Check the disk usage of Arawn's workstreams{of}", "30min", name),
        )

    @property
    def home(self) -> str | None:
        """The directory that `%h` stands for in these units: an account's own manager knows it."""
        return self.account.home if self.scope is Scope.USER else None
