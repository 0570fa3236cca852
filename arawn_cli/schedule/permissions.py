"""Check, as the account of the jobs, what it can access: root can access everything."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import arawn_cli
from arawn_cli.arawn.layout import MAIN, MESSAGES, V0, WORKSTREAMS
from arawn_cli.schedule.settings import Account, Scheduler, Scope, Settings

_MODES = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}


def can_access(account: Account, test: str, path: Path) -> bool | None:
    """Return whether `test -r`, `-w` or `-x` succeeds for an account; None if that is not known."""
    entry = pwd.getpwnam(account.name)
    if entry.pw_uid == os.geteuid():
        return os.access(path, _MODES[test])
    if os.geteuid() != 0:
        return None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    try:
        done = subprocess.run(
            ["test", test, str(path)], user=entry.pw_uid, group=entry.pw_gid, extra_groups=groups, cwd="/", capture_output=True, check=False
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
    # systemd reads the token of system services as root.
    if settings.token_file is not None and (scheduler is Scheduler.CRON or settings.scope is Scope.USER):
        tests.append(("-r", settings.token_file))
    return _inaccessible(settings.account, tests)


def _inaccessible(account: Account, tests: Iterable[tuple[str, Path]]) -> list[Path]:
    found = (path for test, path in tests if os.path.exists(path) and can_access(account, test, path) is False)
    return list(dict.fromkeys(found))
