"""Render the units of systemd, and control its service manager."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arawn_cli.delivery.credentials import CREDENTIAL, NOTIFY_CREDENTIAL
from arawn_cli.events import JobName
from arawn_cli.fs.permissions import account_name
from arawn_cli.schedule.intervals import HOUR, calendar, delay, first_after_boot
from arawn_cli.schedule.managed_files import ScheduleError, SchedulerMissingError
from arawn_cli.schedule.places import STATE, SYSTEM_STATE, Scope, suffixed, unit_command, unit_line, unit_word
from arawn_cli.schedule.settings import REQUEST_VARIABLE, Job, Settings
from arawn_cli.units import period

if TYPE_CHECKING:
    from jinja2 import Environment


NOTIFIER = "arawn-notify@.service"

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_LINGERING = Path("/var/lib/systemd/linger")
_HIDDEN_BY_PROTECT_HOME = ("/home", "/root", "/run/user")
_HIDDEN_BY_PRIVATE_TMP = ("/tmp", "/var/tmp")  # noqa: S108 - only compared


def units(settings: Settings) -> dict[str, str]:
    """Return the units by file name: a service and a timer for each job, and the notifier.

    Raises:
        ConfigurationError: a unit cannot hold a path of the settings.
    """
    environment = _environment()
    is_system = settings.scope is Scope.SYSTEM
    scope = {"system": is_system, "systemctl": Manager(settings.scope).systemctl}
    texts = {}
    for job in settings.jobs:
        texts[f"{job.unit}.service"] = environment.get_template("job.service.j2").render(scope | _service_variables(settings, job))
        texts[f"{job.unit}.timer"] = environment.get_template("job.timer.j2").render(
            scope,
            job=job,
            calendar=calendar(job.interval),
            first_after_boot=first_after_boot(job.interval),
            delay=delay(job.interval),
            often=period(job.interval) <= HOUR,
        )
    if request := _request(settings):
        service = f"{settings.jobs[0].unit}.service"
        texts[path_unit(settings.root_name)] = environment.get_template("cleanup.path.j2").render(scope, request=request, service=service)
    journal_options = "--unit" if is_system else "--user --unit"
    texts[NOTIFIER] = environment.get_template("notify.service.j2").render(scope, settings=settings, journal_options=journal_options)
    return texts


def path_unit(root_name: str | None) -> str:
    """Return the name of the unit that starts the cleanup when a check asks for it."""
    return f"{suffixed('arawn-cleanup-on-critical', root_name)}.path"


def _request(settings: Settings) -> Path | None:
    """Return the file that a check changes to start the cleanup; None if it never does."""
    if not settings.cleanup_on_critical:
        return None
    return (settings.state or SYSTEM_STATE / suffixed(STATE, settings.root_name)) / "cleanup-request"


def state_name(settings: Settings) -> str | None:
    """Return the name below /var/lib that systemd creates for the account.

    Return None if the state is elsewhere.

    Each named root has its own name, because it may belong to another account, and systemd gives
    the directory to the account that used it last.
    """
    if settings.state is None:
        return suffixed(STATE, settings.root_name)
    if not settings.is_of_root:  # systemd gives the directory to the account, whoever had it
        return None
    name = settings.state.name
    return name if settings.state.parent == SYSTEM_STATE and name.replace("-", "").isalnum() else None


def _environment() -> Environment:
    # Imported here: only few commands render units.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("arawn_cli.schedule")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.filters |= {"word": unit_word, "command": unit_command, "line": unit_line}
    return environment


def _service_variables(settings: Settings, job: Job) -> dict[str, object]:
    cleanup = job.name is JobName.SCRATCH_CLEANUP
    # A unit with a path that does not exist fails to start, and only the root exists for certain.
    optional = [path for path in (settings.state, settings.metrics) if path]
    writable = [unit_word(path, settings.home, "-") for path in optional]
    accessed = [settings.root, *settings.reads, *optional]
    return {
        "settings": settings,
        "job": job,
        "cleanup": cleanup,
        "home": settings.home,
        "command": (*settings.command, job.name, *settings.options),
        "credential": CREDENTIAL,
        "notify_credential": NOTIFY_CREDENTIAL,
        "request": _request(settings),
        "request_variable": REQUEST_VARIABLE,
        "state_name": state_name(settings),
        "homes_hidden": settings.scope is Scope.SYSTEM and not _any_below(accessed, _HIDDEN_BY_PROTECT_HOME),
        "temporary_hidden": not _any_below(accessed, _HIDDEN_BY_PRIVATE_TMP),
        "writable": [unit_word(settings.root, settings.home), *writable] if cleanup else writable,
    }


def _any_below(paths: Iterable[Path], directories: Iterable[str]) -> bool:
    """Return whether a path or its target is below a directory or its target, if they are links."""
    places = [place for directory in directories for place in (directory, os.path.realpath(directory))]
    return any(each.is_relative_to(place) for path in paths for each in (path, Path(os.path.realpath(path))) for place in places)


def systemd_runs() -> bool:
    """Return whether systemd started this machine."""
    return os.path.isdir(_BOOTED)


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager of the system, or of the current account.

    Each method raises ScheduleError if systemctl(1) is missing or cannot be run.
    """

    scope: Scope

    @property
    def systemctl(self) -> str:
        """Return the command that controls it."""
        return "systemctl" if self.scope is Scope.SYSTEM else "systemctl --user"

    def is_running(self) -> bool:
        """Return whether the manager can be reached."""
        return systemd_runs() and (self.scope is Scope.SYSTEM or self._run(["show-environment"]).returncode == 0)

    def call(self, *arguments: str) -> None:
        """Run a command.

        Raises:
            ScheduleError: it fails.
        """
        done = self._run(list(arguments))
        if done.returncode:
            raise ScheduleError(f"systemctl {' '.join(arguments)} failed: {' '.join(done.stderr.split())}")

    def query(self, question: str, unit: str) -> str:
        """Return the answer to `is-enabled` or `is-active`, one word."""
        return self._run([question, unit]).stdout.strip()

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit, times as `@seconds`; {} without a manager."""
        done = self._run(["show", "--timestamp=unix", f"--property={','.join(names)}", unit])
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def needs_reload(self, unit: str) -> bool:
        """Return whether the file of a unit has changed since systemd read it."""
        return self.properties(unit, "NeedDaemonReload").get("NeedDaemonReload") == "yes"

    def next_run(self, timer: str) -> int | None:
        """Return when a timer elapses next, in microseconds since the epoch, or None."""
        done = self._run(["list-timers", "--all", "--output=json", timer])
        try:
            entries = json.loads(done.stdout or "[]")
        except ValueError:
            return None
        times = [entry.get("next") for entry in entries if isinstance(entry, dict) and entry.get("unit") == timer]
        return next((time for time in times if isinstance(time, int) and time > 0), None)

    def linger_command(self) -> str | None:
        """Return the command that keeps timers running after logout, or None (loginctl(1))."""
        account = account_name(os.getuid())
        if self.scope is Scope.SYSTEM or (_LINGERING / account).exists():
            return None
        command = f"loginctl enable-linger {shlex.quote(account)}"
        # polkit lets each account do it for itself; without polkit only root may.
        return command if os.geteuid() == 0 or shutil.which("pkcheck") else f"sudo {command}"

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if not systemd_runs():
            environment["SYSTEMD_OFFLINE"] = "1"
        try:
            return subprocess.run(
                ["systemctl", f"--{self.scope}", "--no-pager", "--no-ask-password", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                check=False,
            )
        except FileNotFoundError as error:
            raise SchedulerMissingError("systemctl is not installed: use --cron on a machine without systemd") from error
        except OSError as error:
            raise ScheduleError(f"cannot run systemctl: {error.strerror}") from error
