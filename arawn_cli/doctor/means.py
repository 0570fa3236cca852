"""Checks of what the jobs need besides the tree: state, outbox, relay, clock. Nothing is changed, nothing published."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from rich.filesize import decimal

from arawn_cli.config import Config, RelayTarget
from arawn_cli.credentials import token_for
from arawn_cli.database import DatabaseUnreadableError, query
from arawn_cli.doctor.clock import is_synchronised
from arawn_cli.doctor.findings import Finding, fail, ok, warn
from arawn_cli.errors import ArawnCliError
from arawn_cli.sinks.probe import probe
from arawn_cli.state_file import FILE

_LEAST_FREE_BYTES = 16 * 1024**2


def state_findings(directory: Path, *, made_by_systemd: bool) -> Iterator[Finding]:
    """Whether state can be kept, and whether there is room for it."""
    there = directory.is_dir() if os.access(directory.parent, os.X_OK) else False
    nearest = _nearest(directory)
    if there and not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield fail(
            "state", f"{directory} cannot be written to by this account", f"sudo chown -R $(id -un) {directory}; or run doctor as its owner"
        )
    elif not there and made_by_systemd:
        yield ok("state", f"{directory} is made by systemd at the first run")
    elif not there and not os.access(nearest, os.W_OK | os.X_OK):
        yield fail(
            "state", f"{directory} is not there, and {nearest} cannot be written to", f"sudo install -d -m 0700 -o $(id -un) {directory}"
        )
    else:
        yield ok("state", f"{directory} can be written to" if there else f"{directory} is made at the first run")
    free = psutil.disk_usage(str(nearest)).free
    inodes = os.statvfs(nearest)
    if free < _LEAST_FREE_BYTES or (inodes.f_files and not inodes.f_favail):
        yield warn(
            "space for state", f"{nearest} has {decimal(free)} and {inodes.f_favail} inodes free: events may be lost", f"df -h {nearest}"
        )
    else:
        yield ok("space for state", f"{decimal(free)} free")


def outbox_finding(directory: Path) -> Finding:
    """What waits to be delivered."""
    path = directory / FILE
    try:
        rows = query(path, "SELECT count(*), count(answer) FROM outbox", ()) if path.exists() else [(0, 0)]
    except (DatabaseUnreadableError, OSError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        return warn("outbox", f"{path} cannot be read: {told}", "run doctor as the account of the timers, or as root")
    waiting, refused = rows[0]
    if refused:
        return warn("outbox", f"{waiting} events wait, {refused} of them refused by the relay", "arawn-cli disk-check --verbose says why")
    if waiting:
        return warn("outbox", f"{waiting} events wait for the relay", "arawn-cli disk-check delivers them")
    return ok("outbox", "empty")


def relay_finding(config: Config, environment: Mapping[str, str]) -> Finding:
    """Whether the relay is there and takes the token."""
    target = config.relay
    if target is None:
        return ok("relay", "none is configured: events go to standard output alone")
    if target.token_file is not None and target.token_file.exists() and not os.access(target.token_file, os.R_OK):
        return warn("relay", f"{target.token_file} cannot be read by this account; systemd reads it as root", "sudo arawn-cli doctor")
    try:
        return _probed(config, target, environment)
    except ArawnCliError as error:
        return fail("relay", str(error), "mend [maintenance.relay], or try an address with arawn-cli doctor --relay-url URL")


def clock_finding() -> Finding:
    """Whether the clock is kept right: ages are told by it."""
    try:
        synchronised = is_synchronised()
    except OSError as error:
        return warn("clock", f"the kernel does not say whether it is synchronised: {error.strerror}", "timedatectl")
    if synchronised:
        return ok("clock", "synchronised")
    return warn("clock", "not synchronised: ages are told by it", "sudo timedatectl set-ntp true")


def _probed(config: Config, target: RelayTarget, environment: Mapping[str, str]) -> Finding:
    table = config.maintenance.relay
    token = token_for(target.address, target.token_file, environment, allow_insecure=table.allow_insecure)
    said = probe(target.address, token, target.ca_file, table.origin, table.timeout_secs)
    mend = "look at the relay, and at url, token_file and ca_file in [maintenance.relay]"
    if said.fit is None:
        return warn("relay", said.text, mend)
    return ok("relay", said.text) if said.fit else fail("relay", said.text, mend)


def _nearest(directory: Path) -> Path:
    """The directory, or the first above it that is there."""
    return next(path for path in (directory, *directory.parents) if os.path.isdir(path))
