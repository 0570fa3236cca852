"""Derive the settings of a schedule from the configuration, and check them as its account."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import arawn_cli
from arawn_cli.arawn.layout import MAIN, MESSAGES, V0, WORKSTREAMS
from arawn_cli.arawn.root import SYSTEM_DIRECTORIES, opened_root
from arawn_cli.config import relay_url
from arawn_cli.config.loader import Config, Flags, state_directory
from arawn_cli.config.lookup import home_directory
from arawn_cli.config.relay_url import Address
from arawn_cli.delivery.credentials import VARIABLE, with_kept_variables
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.events import JobName
from arawn_cli.fs.in_use import sees_all_accounts
from arawn_cli.fs.permissions import Login, account_name, user_id, way_to
from arawn_cli.names import escape
from arawn_cli.schedule.places import Scheduler, Scope, unit_of

ROOT = "root"

REQUEST_VARIABLE = "ARAWN_CLEANUP_REQUEST"
"""Names the file that a check changes to have the cleanup's unit started."""


Network = Literal["none", "loopback", "any"]
"""The connections that a job needs: none, to this machine, or to any."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the jobs run as."""

    name: str
    home: str


@dataclass(frozen=True, slots=True)
class Job:
    """One of the two jobs; `timeout` is a duration of systemd.time(7)."""

    name: JobName
    interval: str
    description: str
    timeout: str
    root_name: str | None
    network: Network

    @property
    def unit(self) -> str:
        """Return the name of its units, without `.service` or `.timer`."""
        return unit_of(self.name, self.root_name)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the files of a schedule depend on.

    Attributes:
        command: the words that start the program.
        options: the options of each job: `--config`, and `--root` or `--base-path`.
        root: Arawn's root, without symbolic links.
        reads: the paths that a job reads beside the root: program, configuration, certificates.
        state: the state directory; None if systemd creates it, or it is in the home of the account.
        metrics: the directory of the metrics file, or None.
        token_file: the file with the relay's token, or None.
        is_of_root: false if root installs the schedule of a configuration about which another
            account decides. Then root opens nothing that it names: no credential for a unit, no
            directory that systemd creates.
        owner: the id of the account that owns the root, as which the jobs work.
        notify_urls: the file with the addresses of notifications, or None.
        network: the connections that both jobs need, none without a relay and notifications.
        pings: those that the ping of a job needs.
        logger: the path of logger(1) of util-linux, or None if it is not installed.
        namespaces: whether the account can create user namespaces, which most confinement of its
            own units needs.
        root_name: the name of the root, or None for the main root.
        cleanup_on_critical: whether a check starts the cleanup.
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
    network: Network
    nice: int
    io_class: str
    cleanup: str
    check: str
    host: str
    logger: str | None
    namespaces: bool
    owner: int
    root_name: str | None = None
    cleanup_on_critical: bool = False
    is_of_root: bool = True
    pings: Mapping[str, Network] = field(default_factory=dict)
    notify_urls: Path | None = None

    @property
    def jobs(self) -> tuple[Job, Job]:
        """Return the two jobs with their intervals."""
        return (
            self._job(JobName.SCRATCH_CLEANUP, self.cleanup, "Remove inactive scratch sessions of Arawn", "6h"),
            self._job(JobName.DISK_CHECK, self.check, "Check the disk usage of Arawn's workstreams", "30min"),
        )

    def _job(self, name: JobName, interval: str, description: str, timeout: str) -> Job:
        suffix = "" if self.root_name is None else f" ({self.root_name})"
        network = max(self.network, self.pings.get(name, "none"), key=get_args(Network).index)
        return Job(name, interval, f"{description}{suffix}", timeout, self.root_name, network)

    @property
    def home(self) -> str | None:
        """Return the directory that `%h` means in user units; None for system units."""
        return self.account.home if self.scope is Scope.USER else None


def settings_from(config: Config, scope: Scope) -> Settings:
    """Return the settings of a scope. The jobs of a system schedule run as the owner of the root.

    Raises:
        ConfigurationError, RefusedError: the root is missing or unsafe, or its owner has no
            account.
    """
    with opened_root(config.root, config.databases) as opened:
        root, database = opened.path, opened.database
    schedule, account = config.maintenance.schedule, _account(root, scope)
    _refuse_another_home(config, account)
    program = (Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), Path(arawn_cli.__file__).parent)
    # Without --config, a job searches the home of its account.
    named = (config.file or Path(account.home), database, config.relay.ca_file if config.relay else None)
    keeps_state = bool(config.maintenance.state_dir) or scope is Scope.USER
    return Settings(
        scope=scope,
        account=account,
        command=command(),
        options=options_of(config, root),
        root=root,
        reads=(*program, *(path for path in named if path)),
        # Not that of the current shell: cron and systemd pass none of its variables to the jobs.
        state=_without_parents(state_directory(config.file, config.tables, {})) if keeps_state else None,
        metrics=_without_parents(config.metrics_directory),
        token_file=_without_parents(config.relay.token_file if config.relay else None),
        network=_network(config),
        pings={job: _network_to(relay_url.parse(url)) for job, url in config.pings.items()},
        notify_urls=_without_parents(config.notify_urls),
        nice=config.maintenance.nice,
        io_class=config.maintenance.io_class,
        cleanup=schedule.scratch_cleanup,
        check=schedule.disk_check,
        host=socket.gethostname(),
        logger=logger_in("/usr/bin:/bin"),
        namespaces=scope is Scope.USER and _can_create_namespaces(),
        owner=os.stat(root).st_uid,
        root_name=config.root_name,
        cleanup_on_critical=config.maintenance.cleanup.cleanup_on == "critical",
        # Units of the system are the same whoever compares them.
        is_of_root=(scope is Scope.USER and os.getuid() != 0) or config.file is None or way_to(config.file).is_of_root,
    )


def _without_parents(path: Path | None) -> Path | None:
    """Return an absolute path without `..`: systemd ignores settings whose path has one."""
    if path is None:
        return None
    return Path(os.path.realpath(path)) if ".." in path.parts else path.absolute()


def _network_to(address: Address) -> Network:
    return "loopback" if address.is_loopback else "any"


def _network(config: Config) -> Network:
    if config.notify_urls is not None:
        return "any"
    return "none" if config.relay is None else _network_to(config.relay.address)


def logger_in(path: str) -> str | None:
    """Return the logger(1) of util-linux in a search path; None without one.

    That of busybox cuts each event after 1 KiB, and its system log after 256 bytes.
    """
    found = shutil.which("logger", path=path)
    return None if found is None or os.path.basename(os.path.realpath(found)).startswith(("busybox", "toybox")) else found


_OF_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr")


def refuse_unusable(settings: Settings) -> None:
    """Refuse directories of another account's configuration that root would open to it.

    Raises:
        RefusedError: a directory belongs to the system, is behind a link, or this account cannot
            write to it anyway.
    """
    for path in (settings.state, settings.metrics):
        if path is not None and (problem := _problem_of(path)):
            raise RefusedError(
                f"{escape(str(path))}, which the configuration names: {problem}; name another directory, or use a configuration of root"
            )


def is_of_system(path: Path) -> bool:
    """Whether a path without links is a directory of the system, or below one that no job needs."""
    return str(path) in SYSTEM_DIRECTORIES or any(path.is_relative_to(place) for place in _OF_SYSTEM)


def _problem_of(path: Path) -> str | None:
    try:
        way = way_to(path)
        existing = next(place for place in (way.path, *way.path.parents) if place.is_dir())
    except OSError as error:
        return error.strerror
    if way.has_links:
        return "a link is on the way to it"
    if is_of_system(way.path):
        return "it belongs to the system"
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        return f"the account of the configuration cannot write to {escape(str(existing))}"
    return None


def command() -> tuple[str, ...]:
    """Return the script beside the interpreter, else the interpreter and the module.

    With `-P` the interpreter does not search the working directory, which may be of another
    account.
    """
    script = Path(sys.executable).with_name("arawn-cli")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-P", "-m", "arawn_cli")


def token_warning(config: Config, environment: Mapping[str, str]) -> str | None:
    """Return a warning if the relay's token is in an environment variable, which timers lack."""
    if config.relay and not config.relay.token_file and with_kept_variables(environment).get(VARIABLE):
        return f"the relay's token is in ${VARIABLE}, which timers do not have: name a file with maintenance.relay.token_file"
    return None


def own_account(user: int) -> Account:
    """Return the account of this process; its home is `/` if it has none, as in Docker."""
    return Account(account_name(user), str(home_directory() or "/").rstrip("/"))


def _account(root: Path, scope: Scope) -> Account:
    if scope is Scope.USER:
        return own_account(os.getuid())
    owner = os.stat(root).st_uid
    try:
        entry = pwd.getpwuid(owner)
    except KeyError as error:
        raise ConfigurationError(
            f"the root {root} belongs to user id {owner}, which has no account: change its owner to the account that runs Arawn"
        ) from error
    return Account(entry.pw_name, entry.pw_dir.rstrip("/"))


def _refuse_another_home(config: Config, account: Account) -> None:
    """Refuse a named root below `~` if the jobs have another home.

    They get its name and resolve `~` themselves.

    Raises:
        ConfigurationError: the jobs would use another directory.
    """
    path = config.tables.maintenance.root
    if config.root_name is not None and path.partition("/")[0] == "~" and account.home != os.path.expanduser("~").rstrip("/"):
        raise ConfigurationError(
            f"path of the root {config.root_name} begins with ~, which is {account.home} for {account.name}, the account of the jobs: "
            f"write an absolute path in {config.file}"
        )


def options_of(config: Config, root: Path) -> tuple[str, ...]:
    """Return the options that make another account, with another home, use this configuration.

    The root is always named: a new directory must not become another candidate for the timers.
    """
    options = ("--config", str(config.file)) if config.file else ()
    return (*options, *(("--base-path", str(root)) if config.root_name is None else ("--root", config.root_name)))


def _can_create_namespaces() -> bool:
    """Return whether this account can create a user namespace."""
    try:
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Shell:
    """The shell that started the program, for the commands of fixes."""

    config: Config
    flags: Flags
    environment: Mapping[str, str]

    def arawn_cli(self, *words: str, account: str | None = None, state: Path | None = None) -> str:
        """Return a command of this program for an account, by default the one that started it.

        Root becomes the owner of the root by itself. Any other account has another environment and
        home, so the command names configuration and root. The command uses the state in `state`, by
        default that of the configuration.
        """
        variables = () if state in (None, self.config.state_directory) else ("env", f"STATE_DIRECTORY={state}")
        program = (*variables, *command(), *words)
        if account is None or user_id(account) == os.geteuid() or (account == ROOT and sees_all_accounts()):
            return self.flags.typed(shlex.join((*program, *self.flags.located)))
        sudo = ("sudo",) if account == ROOT else ("sudo", "-u", account)
        return shlex.join((*sudo, *program, *options_of(self.config, self.config.root.absolute())))

    @property
    def doctor_as_root(self) -> str:
        """The command that checks everything as root."""
        return self.arawn_cli("doctor", account=ROOT)

    def as_root(self, line: str) -> str:
        """Return a command that needs root."""
        # Root that acts as the owner sees all accounts, too.
        return self.flags.typed(line) if sees_all_accounts() else f"sudo {line}"

    @property
    def is_of_account(self) -> bool:
        """Whether the shell is one of the account of this process, which root can have become."""
        return not self.flags.sudo and (os.getuid() == 0 or not sees_all_accounts())

    def as_itself(self, line: str) -> str:
        """Return a command that the account of this process runs itself, and not root for it."""
        if self.is_of_account:
            return line
        account = account_name(os.getuid())
        return self.as_root(line) if account == ROOT else f"sudo -u {shlex.quote(account)} {line}"

    def by_user_manager(self, line: str) -> str:
        """Return a command that needs the systemd manager of the account of this process."""
        return line if self.is_of_account else self.as_itself(f"env XDG_RUNTIME_DIR={runtime_directory()} {line}")

    def schedule(self, verb: str, scope: Scope, *flags: str) -> str:
        """Return the command that installs or removes a schedule in a scope."""
        if scope is Scope.SYSTEM or self.is_of_account:
            return self.arawn_cli("schedule", verb, *flags, account=ROOT if scope is Scope.SYSTEM else None)
        return self.as_itself(shlex.join((*command(), "schedule", verb, *flags, *options_of(self.config, self.config.root.absolute()))))


def runtime_directory() -> str:
    """Return the directory with the sockets of this account's systemd manager."""
    return f"/run/user/{os.getuid()}"


_MODES = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}


def can_access(account: Account, test: str, path: Path) -> bool | None:
    """Return whether `test -r`, `-w` or `-x` succeeds for an account; None if that is not known."""
    user = user_id(account.name)
    if user == os.geteuid():
        return os.access(path, _MODES[test])
    if os.geteuid() != 0:
        return None
    login = Login.of(user)
    try:
        done = subprocess.run(
            ["test", test, str(path)], user=user, group=login.group, extra_groups=login.groups, cwd="/", capture_output=True, check=False
        )
    except OSError:  # in some containers root cannot become another account
        return None
    return done.returncode == 0


def inaccessible_program(settings: Settings) -> list[Path]:
    """Return the parts of the program that the account of the jobs cannot run or read."""
    program = [("-x", Path(settings.command[0])), ("-x", Path(sys.executable)), ("-r", Path(arawn_cli.__file__))]
    return _inaccessible(settings.account, program)


def inaccessible_files(settings: Settings, scheduler: Scheduler) -> list[Path]:
    """Return the other existing files that the jobs need and their account cannot access."""
    workstreams = settings.root / WORKSTREAMS
    tests = [("-r", path) for path in settings.reads if path != Path(settings.account.home)]
    # The sessions of both generations: only those that exist are tested.
    for directory in (workstreams, workstreams.joinpath(*MAIN.sessions), workstreams.joinpath(*V0.sessions)):
        tests += [(test, directory) for test in _MODES]
    tests += [("-r", path) for path in sorted(workstreams.glob(f"*/{MESSAGES}"))]
    # systemd reads the secrets of system services as root, if root named them.
    if scheduler is Scheduler.CRON or settings.scope is Scope.USER or not settings.is_of_root:
        tests += [("-r", secret) for secret in (settings.token_file, settings.notify_urls) if secret is not None]
    return _inaccessible(settings.account, tests)


def _inaccessible(account: Account, tests: Iterable[tuple[str, Path]]) -> list[Path]:
    found = (path for test, path in tests if os.path.exists(path) and can_access(account, test, path) is False)
    return list(dict.fromkeys(found))
