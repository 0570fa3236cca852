"""Check the environment of the jobs: clock, state, outbox, relay."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import cast

import psutil

from arawn_cli.config.loader import Config, RelayTarget
from arawn_cli.delivery.credentials import token_for
from arawn_cli.delivery.probe import probe
from arawn_cli.doctor.findings import ROOT, Finding, Shell, advice, fail, ok, warn
from arawn_cli.errors import ArawnCliError
from arawn_cli.output.format import count, size
from arawn_cli.schedule.permissions import can_access
from arawn_cli.schedule.settings import Account
from arawn_cli.sqlite import DatabaseUnreadableError, query
from arawn_cli.state import FILE

# Past this, adjtimex(2) counts a clock as not synchronised, and so does systemd.
_LARGEST_ERROR_MICROSECONDS = 16_000_000


class _Timex(ctypes.Structure):
    """The start of `struct timex` of adjtimex(2), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def is_synchronised() -> bool:
    """Whether the clock's largest error is a known, small one; the clock is only read.

    Raises:
        OSError: the kernel does not say, as in some containers.
    """
    library = ctypes.CDLL(None, use_errno=True)
    state = _Timex()
    if library.adjtimex(ctypes.byref(state)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return bool(state.maximum_error < _LARGEST_ERROR_MICROSECONDS)


_LEAST_FREE_BYTES = 16 * 1024**2


def state_findings(directory: Path, account: Account, shell: Shell, *, made_by_systemd: bool) -> Iterator[Finding]:
    """Whether the account of the jobs can keep state, and whether there is room for it."""
    yield _state(directory, account, shell, made_by_systemd=made_by_systemd)
    nearest = _nearest(directory)
    free = psutil.disk_usage(str(nearest)).free
    inodes = os.statvfs(nearest)
    if free < _LEAST_FREE_BYTES or (inodes.f_files and not inodes.f_favail):
        yield warn(
            "space for state",
            f"{nearest} has {size(free)} and {inodes.f_favail} inodes free: events may be lost",
            f"df -h {quote(str(nearest))}",
        )
    else:
        yield ok("space for state", f"{size(free)} free")


def _state(directory: Path, account: Account, shell: Shell, *, made_by_systemd: bool) -> Finding:
    try:
        status = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return _state_to_come(directory, account, shell, made_by_systemd=made_by_systemd)
    except OSError as error:
        return warn("state", f"{directory}: {error.strerror}, so that nothing is known of it", shell.tool("doctor", account=ROOT))
    shown, owner = quote(str(directory)), pwd.getpwnam(account.name).pw_uid
    if any(user != owner for user in (status.st_uid, _owner_in(directory))):
        detail = f"{directory} or what is in it belongs to another account than {account.name}, as which the jobs run: they keep no state"
        return fail("state", detail, shell.as_root(f"chown -R {quote(account.name)}: {shown}"))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fail("state", f"{directory} is writable by others: the jobs keep no state", shell.as_root(f"chmod go-w {shown}"))
    if can_access(account, "-w", directory) is False:
        return fail("state", f"{directory} cannot be written to by {account.name}", f"namei -l {shown}; findmnt -T {shown}")
    return ok("state", f"{directory} is {account.name}'s to write to")


def _owner_in(directory: Path) -> int:
    """Whose the state file is; the directory's owner where there is none, or it cannot be seen."""
    try:
        return os.lstat(directory / FILE).st_uid
    except OSError:
        return os.stat(directory).st_uid


def _state_to_come(directory: Path, account: Account, shell: Shell, *, made_by_systemd: bool) -> Finding:
    if made_by_systemd:
        return ok("state", f"{directory} is made by systemd at the first run")
    nearest = _nearest(directory)
    if can_access(account, "-w", nearest) is False:
        detail = f"{directory} is not there, and {nearest} cannot be written to by {account.name}"
        return fail("state", detail, shell.as_root(f"install -d -m 0700 -o {quote(account.name)} {quote(str(directory))}"))
    return ok("state", f"{directory} is made at the first run")


def outbox_finding(directory: Path, shell: Shell, deliver: str) -> Finding:
    """What waits to be delivered; `deliver` is the command that tries it."""
    path = directory / FILE
    try:
        rows = query(path, "SELECT count(*), count(answer) FROM outbox", ()) if path.exists() else [(0, 0)]
    except (DatabaseUnreadableError, OSError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        return warn("outbox", f"{path} cannot be read: {told}", shell.tool("doctor", account=ROOT))
    waiting, refused = cast("tuple[int, int]", rows[0])
    if refused:
        detail = f"{count(waiting, 'event')} not delivered yet, {refused} of them refused by the relay: the log has its answers"
        return warn("outbox", detail, deliver)
    if waiting:
        return warn("outbox", f"{count(waiting, 'event')} not delivered yet", deliver)
    return ok("outbox", "empty")


def relay_finding(config: Config, environment: Mapping[str, str], shell: Shell) -> Finding:
    """Whether the relay is there and takes the token."""
    target = config.relay
    if target is None:
        return ok("relay", "none is configured: events go to standard output alone")
    if target.token_file is not None and target.token_file.exists() and not os.access(target.token_file, os.R_OK):
        return warn(
            "relay", f"{target.token_file} cannot be read by this account; systemd reads it as root", shell.tool("doctor", account=ROOT)
        )
    try:
        return _probed(config, target, environment)
    except ArawnCliError as error:
        return fail("relay", str(error), advice("fix [maintenance.relay]; arawn-cli doctor --relay-url URL tries another address"))


def clock_finding(shell: Shell) -> Finding:
    """Whether the clock is kept right: ages are told by it."""
    try:
        synchronised = is_synchronised()
    except OSError as error:
        return warn("clock", f"the kernel does not say whether it is synchronised: {error.strerror}", "timedatectl")
    if synchronised:
        return ok("clock", "synchronised")
    return warn("clock", "not synchronised: ages are told by it", shell.as_root(_synchronise()))


def _synchronise() -> str:
    """The command that has the clock kept right: switching on what is there, or getting something."""
    try:
        words = ["timedatectl", "show", "--property=CanNTP", "--value"]
        can = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "apt-get install chrony"
    return "timedatectl set-ntp true" if can == "yes" else "apt-get install systemd-timesyncd"


def _probed(config: Config, target: RelayTarget, environment: Mapping[str, str]) -> Finding:
    table = config.maintenance.relay
    token = token_for(target.address, target.token_file, environment, allow_insecure=table.allow_insecure)
    said = probe(target.address, token, target.ca_file, table.origin, table.timeout_secs)
    fix = advice("look at the relay, and at url, token_file and ca_file in [maintenance.relay]")
    if said.ok is None:
        return warn("relay", said.text, fix)
    return ok("relay", said.text) if said.ok else fail("relay", said.text, fix)


def _nearest(directory: Path) -> Path:
    """The directory, or the first above it that is there."""
    return next(path for path in (directory, *directory.parents) if os.path.isdir(path))
