"""Findings of `doctor`, and the shell commands that fix them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.config.loader import Config, Flags
from arawn_cli.events import Status
from arawn_cli.fs.in_use import sees_all_accounts
from arawn_cli.fs.permissions import user_id
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

    def arawn_cli(self, *words: str, account: str | None = None, located: bool = True, state: Path | None = None) -> str:
        """Return a command of this program for an account, by default the current one.

        Another account has another environment and home, so the command names configuration and
        root. `located=False` is for commands that accept only `--root`. The command uses the state
        in `state`, by default that of the configuration.
        """
        program = command() if state in (None, self.config.state_directory) else ("env", f"STATE_DIRECTORY={state}", *command())
        if account is None or user_id(account) == os.geteuid():
            return shlex.join((*program, *words, *(self.flags.located if located else self.flags.named)))
        options = options_of(self.config, self.config.root.absolute()) if located else self.flags.named
        sudo = ("sudo",) if account == ROOT else ("sudo", "-u", account)
        return shlex.join((*sudo, *program, *words, *options))

    def as_root(self, line: str) -> str:
        """Return a command that needs root."""
        return line if sees_all_accounts() else f"sudo {line}"  # root that acts as the owner sees them, too
