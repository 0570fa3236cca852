"""Whether the account of the machine's jobs gets at what they read, tried as that account."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from arawn_cli.schedule.settings import Scope, Settings


def out_of_reach(settings: Settings) -> Iterator[str]:
    """A sentence for each thing that is there and that the account cannot read; only root can try."""
    if settings.scope is Scope.USER or os.geteuid() != 0:
        return
    entry = pwd.getpwnam(settings.account.name)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    for path in dict.fromkeys((Path(settings.command[0]), *settings.reads)):
        if not os.path.exists(path):
            continue
        wanted = "-x" if os.path.isdir(path) or path == Path(settings.command[0]) else "-r"
        tried = subprocess.run(["test", wanted, path], user=entry.pw_uid, group=entry.pw_gid, extra_groups=groups, cwd="/", check=False)
        if tried.returncode:
            yield (
                f"{path} cannot be read by {entry.pw_name}, the account that the jobs run as: they would fail; "
                "give it the rights, or install the program where every account can read it, such as /opt"
            )
