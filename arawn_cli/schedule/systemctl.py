"""Query and control systemd's service manager with systemctl(1)."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.schedule.managed_files import ScheduleError, SchedulerMissingError
from arawn_cli.schedule.settings import Scope

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_LINGERING = Path("/var/lib/systemd/linger")


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
        return systemd_runs() if self.scope is Scope.SYSTEM else self._run(["show-environment"]).returncode == 0

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
        account = pwd.getpwuid(os.getuid()).pw_name
        if self.scope is Scope.SYSTEM or (_LINGERING / account).exists():
            return None
        command = f"loginctl enable-linger {shlex.quote(account)}"
        return command if os.geteuid() == 0 else f"sudo {command}"  # without polkit only root may do it

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        if self.scope is Scope.SYSTEM and not systemd_runs():
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
