"""Findings of `doctor`, and the shell commands that fix them."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.config.loader import Config, Flags
from arawn_cli.events import Status
from arawn_cli.names import escape
from arawn_cli.schedule.settings import command, options_of

ROOT = "root"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    `fix` is a shell command, or a comment if no command fixes it. It is None if all is well.
    """

    check: str
    status: Status
    detail: str
    fix: str | None = None


def ok(check: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, fix: str) -> Finding:
    """Return a finding about something that may be wrong."""
    return Finding(check, Status.WARN, detail, fix)


def fail(check: str, detail: str, fix: str) -> Finding:
    """Return a finding about something that stops a job from working."""
    return Finding(check, Status.FAIL, detail, fix)


def comment(text: str) -> str:
    """Return advice as a shell comment, which does no harm if somebody pastes it."""
    return f"# {escape(text)}"


@dataclass(frozen=True, slots=True)
class Shell:
    """The shell that started `doctor`: its configuration, options and environment."""

    config: Config
    flags: Flags
    environment: Mapping[str, str]

    def arawn_cli(self, *words: str, account: str | None = None, located: bool = True) -> str:
        """Return a command of this program for an account, by default the current one.

        Another account has another PATH, home and environment, so the command names program,
        configuration and root. `located=False` is for commands that accept only `--root`.
        """
        if account is None or account == _current_account():
            program = "arawn-cli" if _is_on_path() else shlex.join(command())
            return f"{program} {shlex.join((*words, *(self.flags.located if located else self.flags.named)))}"
        options = options_of(self.config, self.flags, self.environment, self.config.root.absolute()) if located else self.flags.named
        line = shlex.join((*command(), *words, *options))
        if os.geteuid() == 0:  # there may be no sudo; su sets HOME as well
            return f"su -s /bin/sh {shlex.quote(account)} -c {shlex.quote(line)}"
        return f"sudo {line}" if account == ROOT else f"sudo -u {shlex.quote(account)} {line}"

    def as_root(self, line: str) -> str:
        """Return a command that needs root."""
        return line if os.geteuid() == 0 else f"sudo {line}"


def _current_account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_on_path() -> bool:
    """Return whether `arawn-cli` alone starts this installation."""
    found, own = shutil.which("arawn-cli"), command()
    return found is not None and len(own) == 1 and Path(found).samefile(own[0])
