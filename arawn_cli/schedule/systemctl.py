"""systemd's manager, asked and told through systemctl(1)."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.schedule.managed_files import AskedWronglyError, NoSchedulerError, ScheduleError
from arawn_cli.schedule.settings import Scope

_BOOTED = "/run/systemd/system"  # sd_booted(3)


_LINGERING = Path("/var/lib/systemd/linger")


def systemd_runs() -> bool:
    """Whether systemd started this machine."""
    return os.path.isdir(_BOOTED)


@dataclass(frozen=True, slots=True)
class Manager:
    """The manager of a scope."""

    scope: Scope

    def answers(self) -> bool:
        """Whether there is a manager to talk to."""
        return systemd_runs() if self.scope is Scope.SYSTEM else self._run(["show-environment"]).returncode == 0

    def require(self) -> None:
        """Makes sure that an account's manager is there; files of the machine can be enabled without.

        Raises:
            AskedWronglyError: it is not.
        """
        if self.scope is Scope.USER and not self.answers():
            raise AskedWronglyError(
                f"no systemd of this account answers: log in as the account itself, not through sudo, with pam_systemd on the machine "
                f"(Debian: sudo apt install libpam-systemd), which sets XDG_RUNTIME_DIR=/run/user/{os.getuid()}; or use --cron"
            )

    def tell(self, *arguments: str) -> None:
        """A command that must succeed.

        Raises:
            ScheduleError: it does not.
        """
        done = self._run(list(arguments))
        if done.returncode:
            raise ScheduleError(f"systemctl {' '.join(arguments)} failed: {' '.join(done.stderr.split())}")

    def state(self, question: str, unit: str) -> str:
        """What `is-enabled` or `is-active` says of a unit, in one word."""
        return self._run([question, unit]).stdout.strip()

    def properties(self, unit: str, names: Sequence[str]) -> dict[str, str]:
        """Properties of a unit as systemd knows it, drop-ins included; times as `@seconds`; none where nobody answers."""
        done = self._run(["show", "--timestamp=unix", f"--property={','.join(names)}", unit])
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def is_behind(self, unit: str) -> bool:
        """Whether a unit's file has changed since systemd read it."""
        return self.properties(unit, ["NeedDaemonReload"]).get("NeedDaemonReload") == "yes"

    def next_run(self, timer: str) -> int | None:
        """When a timer elapses next, in microseconds since the epoch, or None."""
        done = self._run(["list-timers", "--all", "--output=json", timer])
        try:
            entries = json.loads(done.stdout or "[]")
        except ValueError:
            return None
        found = [entry.get("next") for entry in entries if isinstance(entry, dict) and entry.get("unit") == timer]
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    def lingering(self) -> str | None:
        """The command by which the timers of this account outlast its login (loginctl(1)); None where they do, or are the machine's."""
        account = pwd.getpwuid(os.getuid()).pw_name
        if self.scope is Scope.SYSTEM or (_LINGERING / account).exists():
            return None
        command = f"loginctl enable-linger {shlex.quote(account)}"
        return command if os.geteuid() == 0 else f"sudo {command}"  # without polkit it is root's alone

    def _run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
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
            raise NoSchedulerError("systemctl is not there: use --cron where there is no systemd") from error
        except OSError as error:
            raise ScheduleError(f"cannot run systemctl: {error.strerror}") from error
