"""Write crontab lines, and edit the block of one root in an account's own crontab."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

from arawn_cli.command_events import Condition
from arawn_cli.fs.permissions import account_name
from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.managed_files import Change, ScheduleError, SchedulerMissingError, condition_of, with_header
from arawn_cli.schedule.places import Scope, cron_command, cron_line, refuse_unprintable
from arawn_cli.schedule.settings import Job, Settings

BLOCK = "crontab"

_SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
# By default logger(1) of util-linux cuts after 1 KiB. A datagram to /dev/log can have about 200
# KiB.
_WHOLE_EVENTS = ("--size", "128KiB")

# Recognised by the first words, so that a marker is found even if an editor changed the rest or
# wrote CRLF line ends.
_MARKER = re.compile(r"^# (BEGIN|END) arawn-cli schedule(?: of root ([A-Za-z0-9_-]+))?[^\n]*(?:\n|\Z)", re.MULTILINE)


def cron_file(settings: Settings) -> str:
    """Return a file for /etc/cron.d. The sixth field of its lines names the account.

    Raises:
        ConfigurationError: cron has no times for an interval, or a line cannot hold a path.
    """
    return (
        f"# Only warnings and errors are logged, so cron mails only problems. {_results(settings)}\n"
        "# The jobs run as the account that runs the Arawn server and owns its data.\n"
        "SHELL=/bin/sh\n"
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "MAILTO=root\n\n"
        "# m h dom mon dow user command\n" + _lines(settings)
    )


def cron_block(settings: Settings) -> str:
    """Return lines for an account's own crontab.

    They set no variable, because it would apply to the lines below, too.

    Raises:
        ConfigurationError: cron has no times for an interval, or a line cannot hold a path.
    """
    mails = "# Only warnings and errors are logged, so cron mails only problems, to this account or to MAILTO."
    return f"{mails} {_results(settings)}\n{_lines(settings)}"


def _results(settings: Settings) -> str:
    return "Results are not logged: there is no logger of util-linux." if settings.logger is None else "Results go to the system log."


def _lines(settings: Settings) -> str:
    return "".join(f"{cron_line(_line(settings, job))}\n" for job in settings.jobs)


def _line(settings: Settings, job: Job) -> str:
    time = cron_time(job.interval, job.name, settings.host, str(settings.root))
    words = [str(time)]
    if settings.scope is Scope.SYSTEM:
        refuse_unprintable(settings.account.name, "a crontab")
        words.append(settings.account.name)
    if time.condition is not None:
        words += [time.condition.replace("%", "\\%"), "&&"]
    command = (*settings.command, job.name, *settings.options, "--unless-running")
    if settings.logger is None:
        return " ".join([*words, cron_command((*command, "--format", "none"))])
    log = (settings.logger, *_WHOLE_EVENTS, "-t", job.unit)
    return " ".join([*words, cron_command((*command, "--format", "json")), "|", cron_command(log)])


class Daemon(Enum):
    """The kinds of cron daemons, which read different crontabs."""

    BUSYBOX = "busybox"  # only the crontabs of accounts
    FULL = "full"  # also /etc/cron.d


def running_cron() -> Daemon | None:
    """Return the kind of the cron daemon that is running; None without one."""
    for process in psutil.process_iter(["pid", "uids", "name", "exe", "cmdline"], ad_value=None):
        name, words, users = process.info["name"], process.info["cmdline"] or [], process.info["uids"]
        if users is None or users.effective != 0:  # cron is root's; another account can give its programs any name
            continue
        if name == "busybox" and words[1:2] == ["crond"]:
            return Daemon.BUSYBOX
        if name in ("cron", "crond") and not _is_in_container(process.info["pid"]):
            # The executable of a process of root is hidden from other accounts.
            program = process.info["exe"] or shutil.which(words[0] if words else name, path=_SYSTEM_PROGRAMS) or ""
            return Daemon.BUSYBOX if os.path.basename(os.path.realpath(program)).startswith("busybox") else Daemon.FULL
    return None


def _is_in_container(process: int) -> bool:
    """Whether a process has another id in another PID namespace (proc_pid_status(5))."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(len(line.split()) > 2 for line in lines if line.startswith("NSpid:"))


def start_command(*, with_systemd: bool) -> str:
    """Return the command of root that starts cron, or installs it."""
    daemon = next((name for name in ("cron", "crond") if shutil.which(name, path=_SYSTEM_PROGRAMS)), None)
    if daemon is None:
        return "apt-get install cron"
    if with_systemd:
        return f"systemctl enable --now {daemon}"
    return f"service {daemon} start" if shutil.which("service", path=_SYSTEM_PROGRAMS) else daemon


class MarkersError(ScheduleError):
    """The marker lines of a crontab do not enclose one block."""


@dataclass(frozen=True, slots=True)
class CrontabStore:
    """The block of one root in the current account's crontab, accessed with crontab(1)."""

    account: str
    root_name: str | None = None
    names: tuple[str, ...] = (BLOCK,)

    def changes_to_install(self, bodies: Mapping[str, str]) -> list[Change]:
        """Return a change of the crontab if its block is not as it should be."""
        change = self._change(bodies[BLOCK])
        return [] if change.condition is Condition.CURRENT else [change]

    def changes_to_remove(self) -> list[Change]:
        """Return a change if there is a block. A crontab that would be empty is removed."""
        change = self._change(None)
        return [] if change.condition is Condition.MISSING else [change]

    def read(self, name: str) -> str | None:
        """Return the text of the block between its markers, or None.

        Raises:
            ScheduleError: crontab(1) fails.
            MarkersError: there is not exactly one begin with an end after it. Lines outside of a
                block would run in addition to a new one.
        """
        return self._divided(self._crontab() or "")[1]

    def installed_at(self, name: str) -> int | None:
        """Return None: only cron can read the time of its spool files."""
        return None

    def apply(self, changes: Sequence[Change]) -> None:
        """Pass the new crontab to crontab(1), which checks and installs it.

        Raises:
            ScheduleError: crontab(1) fails, or the crontab has changed since the changes were
                computed.
        """
        for change in changes:
            if self._crontab() != change.before:
                raise ScheduleError(f"the {change.place} was changed in the meantime, and is kept: run this again")
            if change.after is None:
                _crontab("-r")
            else:
                _crontab("-", text=change.after)

    @property
    def _marker(self) -> str:
        return "arawn-cli schedule" if self.root_name is None else f"arawn-cli schedule of root {self.root_name}"

    def _change(self, body: str | None) -> Change:
        crontab = self._crontab()
        before, block, after = self._divided(crontab or "")
        if block is None and before and not before.endswith("\n"):
            before += "\n"
        new = ""
        if body is not None:
            begin = f"# BEGIN {self._marker}: managed by arawn-cli; do not edit between BEGIN and END\n"
            new = f"{begin}{with_header(body)}# END {self._marker}\n"
        return Change(f"crontab of {self.account}", BLOCK, crontab, before + new + after or None, condition_of(block, body))

    def _divided(self, crontab: str) -> tuple[str, str | None, str]:
        """Return the text before this root's block, the text of the block or None, and the rest."""
        found = list(_MARKER.finditer(crontab))
        own = [index for index, marker in enumerate(found) if marker[2] == self.root_name]
        if not own:
            return crontab, None, ""
        begin, end = found[own[0]], found[own[-1]]
        if [found[index][1] for index in own] != ["BEGIN", "END"] or own[1] != own[0] + 1:
            raise MarkersError(
                f"the crontab of {self.account} should have one line '# BEGIN {self._marker}' and one line '# END {self._marker}' "
                "after it, and no other block between: correct it with crontab -e"
            )
        return crontab[: begin.start()], crontab[begin.end() : end.start()], crontab[end.end() :]

    def _crontab(self) -> str | None:
        return None if self.account.isdigit() else _crontab("-l")  # crontab(1) fails for an account without a name


def crontab_of(root_name: str | None) -> CrontabStore:
    """Return the block of a root in the crontab of this account."""
    return CrontabStore(account_name(os.getuid()), root_name)


def _crontab(action: str, text: str | None = None) -> str | None:
    """Run crontab(1). Return its output, or None if the account has no crontab.

    Raises:
        SchedulerMissingError: crontab(1) is missing.
        ScheduleError: it fails.
    """
    try:
        done = subprocess.run(
            ["crontab", action],
            input=None if text is None else text.encode("utf-8", "surrogateescape"),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as error:
        raise SchedulerMissingError("crontab is not installed: sudo apt-get install cron") from error
    except OSError as error:
        raise ScheduleError(f"cannot run crontab: {error.strerror}") from error
    message = " ".join(done.stderr.decode("utf-8", "replace").split())
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "surrogateescape")
    if "no crontab for" in message or "No such file or directory" in message:  # busybox says the latter
        return None
    raise ScheduleError(f"crontab {action} failed: {message}")
