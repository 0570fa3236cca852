"""What the units and crontab lines are rendered from, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path


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


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a job runs as."""

    name: str
    home: str


@dataclass(frozen=True, slots=True)
class Job:
    """One of the two jobs; `interval` is a duration or a calendar word."""

    name: str
    interval: str
    description: str
    timeout: str

    @property
    def unit(self) -> str:
        """The name of its units, without the suffix."""
        return f"arawn-{self.name}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a rendering depends on.

    Attributes:
        command: the words that start the program.
        options: words that follow each command: `--config`, and `--base-path` where the file does not say the root.
        root: Arawn's root, with its links resolved.
        reads: what a job reads besides the root: program, configuration, certificates.
        state: the configured state directory, or None where systemd, or the account's home, gives one.
        metrics: the directory of the metrics file, or None.
        token_file: what systemd passes on as the relay's token, or None.
        logger: the path of logger(1), or None where there is none.
        namespaces: whether an account may have user namespaces, without which its own units cannot be confined.
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

    @property
    def jobs(self) -> tuple[Job, Job]:
        """The two jobs with their intervals."""
        return (
            Job("scratch-cleanup", self.cleanup, "Remove inactive scratch sessions of Arawn", "6h"),
            Job("disk-check", self.check, "Check the disk usage of Arawn's workstreams", "30min"),
        )

    @property
    def home(self) -> str | None:
        """The directory that `%h` stands for in these units: an account's own manager knows it."""
        return self.account.home if self.scope is Scope.USER else None
