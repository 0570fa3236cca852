"""What an account may do with files, asked as that account: root's own powers say nothing of a job's."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import arawn_cli
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, SESSIONS, WORKSTREAMS
from arawn_cli.schedule.settings import Account, Scheduler, Scope, Settings

_MODES = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}


def may(account: Account, test: str, path: Path) -> bool | None:
    """Whether an account passes a test of test(1), `-r`, `-w` or `-x`, on a path; None where this process cannot tell."""
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
    except OSError:  # a root that may not become another account, as in some containers
        return None
    return done.returncode == 0


def program_out_of_reach(settings: Settings) -> list[Path]:
    """What of the program the account of the jobs cannot start or read."""
    program = [("-x", Path(settings.command[0])), ("-x", Path(sys.executable)), ("-r", Path(arawn_cli.__file__))]
    return _kept_from(settings.account, iter(program))


def files_out_of_reach(settings: Settings, scheduler: Scheduler) -> list[Path]:
    """What else the jobs need, is there, and is kept from their account."""
    return _kept_from(settings.account, _needed(settings, scheduler))


def out_of_reach(settings: Settings, scheduler: Scheduler) -> Iterator[str]:
    """A sentence for each thing that the jobs need and their account has no access to."""
    for path in (*program_out_of_reach(settings), *files_out_of_reach(settings, scheduler)):
        yield f"{settings.account.name}, the account that the jobs run as, has no access to {path}: they would fail"


def _needed(settings: Settings, scheduler: Scheduler) -> Iterator[tuple[str, Path]]:
    yield from (("-r", path) for path in settings.reads if path != Path(settings.account.home))
    workstreams = settings.root / WORKSTREAMS
    for directory in (workstreams, workstreams / SCRATCH, workstreams / SCRATCH / SESSIONS):
        yield from ((test, directory) for test in _MODES)
    yield "-r", workstreams / SCRATCH / MESSAGES
    # systemd reads the token as root for the machine's services.
    if settings.token_file is not None and (scheduler is Scheduler.CRON or settings.scope is Scope.USER):
        yield "-r", settings.token_file


def _kept_from(account: Account, tests: Iterator[tuple[str, Path]]) -> list[Path]:
    return list(dict.fromkeys(path for test, path in tests if os.path.exists(path) and may(account, test, path) is False))
