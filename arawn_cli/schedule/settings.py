"""Schedule settings: scheduler, scope, account, options of the installed command."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import arawn_cli
from arawn_cli.arawn.layout import opened_root
from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.paths import unread
from arawn_cli.config.sources import DEFAULT, root_source
from arawn_cli.delivery.credentials import VARIABLE
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName


class Scheduler(StrEnum):
    """Who starts the jobs."""

    SYSTEMD = "systemd"
    CRON = "cron"


class Scope(StrEnum):
    """Whose timers they are: the machine's, or the account's own."""

    SYSTEM = "system"
    USER = "user"


class NetworkAccess(StrEnum):
    """Which connections the jobs need: none without a relay, else to this machine or to any."""

    NONE = "none"
    LOOPBACK = "loopback"
    ANY = "any"


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
    network: NetworkAccess
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


def settings_from(config: Config, flags: Flags, environment: Mapping[str, str], scope: Scope) -> Settings:
    """The settings that the timers of a scope are rendered from; the machine's run as the account that owns the root.

    Raises:
        ConfigurationError, RefusedError: the root is missing or unsafe, or its owner is no account.
    """
    with opened_root(config.root) as opened:
        root = opened.path
    schedule, account = config.maintenance.schedule, _account(root, scope)
    _refuse_another_home(config, account)
    keeps_state = bool(config.maintenance.state_dir) or scope is Scope.USER
    return Settings(
        scope=scope,
        account=account,
        command=command(),
        options=options_of(config, flags, environment, root),
        root=root,
        reads=_reads(config, account),
        state=config.state_directory.absolute() if keeps_state else None,
        metrics=_metrics(config),
        token_file=config.relay.token_file if config.relay else None,
        network=_network_access(config),
        nice=config.maintenance.nice,
        io_class=config.maintenance.io_class,
        cleanup=schedule.scratch_cleanup,
        check=schedule.disk_check,
        host=socket.gethostname(),
        logger=shutil.which("logger", path="/usr/bin:/bin"),
        namespaces=scope is Scope.USER and _may_have_namespaces(),
        root_name=config.root_name,
    )


def command() -> tuple[str, ...]:
    """The words that start this installation: its script beside the running interpreter, else the interpreter and the module."""
    script = Path(sys.executable).with_name("arawn-cli")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-P", "-m", "arawn_cli")


def warnings_of(config: Config, environment: Mapping[str, str]) -> list[str]:
    """What this shell has and a timer will not have, and what the server has and this configuration may not."""
    return [warning for warning in (unread(config.root, config.file), token_warning(config, environment)) if warning is not None]


def token_warning(config: Config, environment: Mapping[str, str]) -> str | None:
    """Says that this shell has a token that a timer will not have."""
    if config.relay and not config.relay.token_file and environment.get(VARIABLE):
        return f"the relay's token stands in ${VARIABLE}, which no timer has: name a file with maintenance.relay.token_file"
    return None


def own_account() -> Account:
    """The account that runs this.

    Raises:
        ConfigurationError: it has no name.
    """
    try:
        return Account(pwd.getpwuid(os.geteuid()).pw_name, os.path.expanduser("~"))
    except KeyError as error:
        raise ConfigurationError(f"user id {os.geteuid()} is no account of this machine: run this as one that is") from error


def _account(root: Path, scope: Scope) -> Account:
    owner = os.stat(root).st_uid if scope is Scope.SYSTEM else os.getuid()
    try:
        entry = pwd.getpwuid(owner)
    except KeyError as error:
        raise ConfigurationError(
            f"the root {root} belongs to user id {owner}, which is no account: give it to the one that runs Arawn"
        ) from error
    home = entry.pw_dir if scope is Scope.SYSTEM else os.path.expanduser("~")
    return Account(entry.pw_name, home.rstrip("/"))


def _refuse_another_home(config: Config, account: Account) -> None:
    """Makes sure that the jobs find a named root where this account does: they are told its name, and `~` is their own home.

    Raises:
        ConfigurationError: they would look elsewhere.
    """
    path = config.tables.paths.base_path or ""
    if config.root_name is not None and path.partition("/")[0] == "~" and account.home != os.path.expanduser("~").rstrip("/"):
        raise ConfigurationError(
            f"path of the root {config.root_name} begins with ~, which to {account.name}, as which the jobs run, "
            f"is {account.home}: write it out in {config.file}"
        )


def options_of(config: Config, flags: Flags, environment: Mapping[str, str], root: Path) -> tuple[str, ...]:
    """The options that give another account this configuration: `~` and the search for a root mean something else to it."""
    options = ("--config", str(config.file)) if config.file else ()
    if config.root_name is not None:
        return (*options, "--root", config.root_name)
    paths = config.tables.paths.base_path or config.tables.workstream.data_dir or ""
    of_file = root_source(config, flags, environment) not in ("--base-path", "$ARAWN_BASE_PATH", DEFAULT)
    return options if of_file and not paths.startswith("~") else (*options, "--base-path", str(root))


def _reads(config: Config, account: Account) -> tuple[Path, ...]:
    """Without a file of its own to read, a job looks for one in its account's home."""
    program = (Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), Path(arawn_cli.__file__).parent)
    named = (config.file or Path(account.home), config.database, config.relay.ca_file if config.relay else None)
    return (*program, *(path for path in named if path))


def _metrics(config: Config) -> Path | None:
    return config.metrics_directory.absolute() if config.metrics_directory else None


def _network_access(config: Config) -> NetworkAccess:
    if config.relay is None:
        return NetworkAccess.NONE
    return NetworkAccess.LOOPBACK if config.relay.address.is_loopback else NetworkAccess.ANY


def _may_have_namespaces() -> bool:
    """Whether the kernel gives this account user namespaces, tried in a process that ends at once."""
    try:
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0
