"""What a check found, as a value. / Commands as they are typed here to fix something: with the program's path, and the right account."""

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


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`. `fix` is what to do, for a shell: a command, or a comment where none does it; None when all is well."""

    check: str
    status: Status
    detail: str
    fix: str | None = None


def advice(text: str) -> str:
    """What no command does, as a comment: whoever pastes it into a shell harms nothing."""
    return f"# {escape(text)}"


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, detail)


def warn(check: str, detail: str, fix: str) -> Finding:
    """Something to know, or to look at."""
    return Finding(check, Status.WARN, detail, fix)


def fail(check: str, detail: str, fix: str) -> Finding:
    """A job cannot be done."""
    return Finding(check, Status.FAIL, detail, fix)


ROOT = "root"


@dataclass(frozen=True, slots=True)
class Shell:
    """The shell that doctor was called from, and what it was called with."""

    config: Config
    flags: Flags
    environment: Mapping[str, str]

    def tool(self, *words: str, account: str | None = None, located: bool = True) -> str:
        """A command of this tool for an account, by default this one.

        Another account has another PATH, home and environment, so program, configuration and root are written out;
        `located=False` is for commands that take neither `--config` nor `--base-path`, and `--root` alone.
        """
        own = account in (None, _current_account())
        options = self.flags.located if own else options_of(self.config, self.flags, self.environment, self.config.root.absolute())
        program = "arawn-cli" if own and _is_on_path() else shlex.join(command())
        line = " ".join((program, shlex.join((*words, *(options if located else self.flags.named)))))
        if own or account is None:
            return line
        if os.geteuid() == 0:
            return f"su -s /bin/sh {shlex.quote(account)} -c {shlex.quote(line)}"
        return f"sudo {line}" if account == ROOT else f"sudo -u {shlex.quote(account)} {line}"

    def as_root(self, line: str) -> str:
        """A command that only root may do."""
        return line if os.geteuid() == 0 else f"sudo {line}"


def _current_account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_on_path() -> bool:
    """Whether `arawn-cli` alone starts this installation."""
    found, own = shutil.which("arawn-cli"), command()
    return found is not None and len(own) == 1 and Path(found).samefile(own[0])
