"""Check what the jobs need besides the tree: configuration, state, outbox, relay, clock."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import cast

from arawn_cli.config import relay_url
from arawn_cli.config.loader import Config
from arawn_cli.config.lookup import PathBase, ignored_config_warning, ignored_owner_config
from arawn_cli.delivery.apprise_client import AppriseClient, addresses_from, missing_apprise
from arawn_cli.delivery.connecting import route_to
from arawn_cli.delivery.credentials import token_for
from arawn_cli.delivery.http import ProbeResult, probe
from arawn_cli.delivery.outbox import IS_NOTIFY, NOTIFY, READ_PARKED, DropPriority, Row, queued_event
from arawn_cli.delivery.retry import result_of
from arawn_cli.doctor.findings import Finding, comment, fail, ok, warn
from arawn_cli.errors import ArawnCliError, StateUnavailableError, never_stopping
from arawn_cli.events import JobName
from arawn_cli.fs.files import is_kept
from arawn_cli.fs.in_use import sees_all_accounts
from arawn_cli.fs.mounts import filesystem_of
from arawn_cli.fs.permissions import account_name, user_id, way_to
from arawn_cli.fs.system_calls import call
from arawn_cli.output.prometheus import old_files
from arawn_cli.schedule.settings import Account, Shell, can_access, is_of_system, token_warning
from arawn_cli.schedule.systemd import systemd_runs
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.state_file import FILE, DamagedError, copy_in_memory
from arawn_cli.timestamps import minute
from arawn_cli.units import count, size

_STATE_NAMES = (FILE, "cleanup-request", "cloacina")

_LEAST_FREE_BYTES = 16 * 1024**2

_IS_SENT = f"drop_priority <> {DropPriority.PARKED:d}"
_READ_ANSWERS = f"SELECT answer FROM outbox WHERE {_IS_SENT} AND NOT {IS_NOTIFY} ORDER BY sequence"  # noqa: S608 - constants
_WAITING = f"SELECT target, count(*), max(answer) FROM outbox WHERE {_IS_SENT} AND {IS_NOTIFY} GROUP BY target"  # noqa: S608 - constants
_PARKED_LISTED = 10

# With a larger maximum error, adjtimex(2) and systemd regard the clock as not synchronised.
_MAX_ERROR_MICROSECONDS = 16_000_000


def account_finding() -> Finding:
    """Name the account that this run acts as."""
    name = account_name(os.geteuid())
    is_owner = os.geteuid() != 0 and sees_all_accounts()
    return ok("account", f"root acts as {name}, the owner of the root" if is_owner else f"this run acts as {name}")


def metrics_finding(directory: Path, account: Account, shell: Shell) -> Finding:
    """Check whether the jobs can write metrics, and whether stale files are left."""
    if not os.path.isdir(directory):
        fix = _given("install -d -o {} {}", directory, account, shell, "[maintenance.metrics] textfile_dir")
        return fail("metrics", f"textfile_dir does not exist: {directory}", fix)
    if can_access(account, "-w", directory) is False:
        fix = _given("setfacl -m u:{}:rwx {}", directory, account, shell, "[maintenance.metrics] textfile_dir")
        return fail("metrics", f"{account.name} cannot write to textfile_dir: {directory}", fix)
    if old := old_files(directory):
        line = shlex.join(("rm", "-f", *map(str, old)))
        is_own = all(os.path.lexists(path) and path.lstat().st_uid == os.geteuid() for path in old)
        names = ", ".join(path.name for path in old)
        detail = f"{directory} has files of an earlier version, whose values never change: {names}"
        return warn("metrics", detail, line if is_own else shell.as_root(line))
    return ok("metrics", f"{directory} is writable by {account.name}")


def _given(line: str | None, directory: Path, account: Account, shell: Shell, key: str) -> str:
    """Return a command of root that gives a directory to the account of the jobs.

    Return advice if another account than root has named the directory or can replace it, or if it
    may be of other programs.
    """
    try:
        file, parent = shell.config.file, way_to(directory.parent)
        is_safe = (file is None or way_to(file).is_of_root) and parent.is_of_root and not is_of_system(parent.path / directory.name)
    except OSError:
        is_safe = False
    if line is None or not is_safe:
        return comment(f"name another directory with {key}, or give this one to {account.name} if it is for the jobs alone")
    return shell.as_root(line.format(quote(account.name), quote(str(directory))))


def configuration_findings(shell: Shell) -> Iterator[Finding]:
    """Check whether it is the configuration of the root's owner, and lets cleanup remove."""
    config = shell.config
    own, problem = ignored_owner_config(config.root, config.file), ignored_config_warning(config.root, config.file)
    if own is not None and problem is not None:
        named = replace(shell.flags, config=own, base_path=str(config.root.absolute()), root=None)
        line = replace(shell, flags=named).arawn_cli("doctor")
        line = line if os.access(own, os.R_OK) else shell.as_root(line)
        yield warn("configuration of the owner", problem, f"{line}  # then schedule install with the same options")
    data_dir = config.tables.workstream.data_dir
    if config.file is not None and data_dir is not None and config.root_source != str(config.file):
        path = PathBase.of_file(config.file).path(data_dir, "[workstream] data_dir")
        if not os.path.exists(path):
            detail = f"[workstream] data_dir is {path}, which does not exist; the root is {config.root}"
            yield warn("data_dir", detail, comment("mount or correct it, or set [maintenance] root"))
    if config.dry_run:
        detail = "[paths.cleanup] dry_run is true: scratch-cleanup removes nothing"
        yield warn("configuration", detail, comment(f"remove dry_run from {config.file}"))
    elif config.file is None:
        yield ok("configuration", "no file: built-in defaults")
    else:
        others = config.tables.maintenance.root_names if config.root_name is None else ""
        yield ok("configuration", f"read from {config.file}{f'; check its other roots with --root: {others}' if others else ''}")


def state_findings(directory: Path, account: Account, shell: Shell, *, created_by: str | None) -> Iterator[Finding]:
    """Check whether the account of the jobs can write its state, and whether there is space.

    `created_by` says who creates a missing directory, or None if the jobs cannot.
    """
    yield _state(directory, account, shell, created_by)
    existing = _existing(directory)
    filesystem = filesystem_of(existing)
    if not filesystem.total_bytes:
        yield ok("space for state", f"{existing} is on a filesystem whose free space is unknown")
    elif filesystem.free_bytes < _LEAST_FREE_BYTES or (filesystem.total_inodes and not filesystem.free_inodes):
        inodes = f" and {count(filesystem.free_inodes, 'inode')}" if filesystem.total_inodes else ""
        detail = f"{existing} has {size(filesystem.free_bytes)}{inodes} free: events may be lost"
        yield warn("space for state", detail, f"df -h {quote(str(existing))}")
    else:
        yield ok("space for state", f"{size(filesystem.free_bytes)} free")


def _state(directory: Path, account: Account, shell: Shell, created_by: str | None) -> Finding:
    quoted = quote(str(directory))
    give = partial(_given, directory=directory, account=account, shell=shell, key="[maintenance] state_dir")
    try:
        status = os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except OSError as error:
        return warn("state", f"cannot check {directory}: {error.strerror}", shell.doctor_as_root)
    found = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not os.path.isdir(found):
        fix = comment("move it away, or name another directory with [maintenance] state_dir")
        return fail("state", f"{found} is not a directory: the jobs cannot save state", fix)
    if created_by == "systemd" and (status is None or status.st_uid != user_id(account.name)):
        return ok("state", f"{directory} will belong to {account.name}: systemd creates it, or changes its owner, when a job starts")
    if status is None:
        if can_access(account, "-w", found) is False:
            detail = f"{directory} does not exist, and {account.name} cannot write to {found}"
            return fail("state", detail, give("install -d -m 0700 -o {} {}"))
        if created_by is None:
            detail = f"{directory} does not exist, and systemd lets no job create it: the jobs cannot save state"
            return fail("state", detail, shell.as_itself(f"mkdir -p -m 0700 {quoted}"))
        return ok("state", f"{directory} does not exist yet; {created_by} creates it")
    owners = {status.st_uid}
    with suppress(OSError):  # there may be no state file yet
        owners.add(os.lstat(directory / FILE).st_uid)
    if owners != {user_id(account.name)}:
        detail = f"{directory} or its state file does not belong to {account.name}, the account of the jobs: they cannot save state"
        return fail("state", detail, give("chown -R {}: {}" if _holds_only_state(directory) else None))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fail("state", f"{directory} is writable by others: the jobs refuse to use it", shell.as_root(f"chmod go-w {quoted}"))
    if can_access(account, "-w", directory) is False:
        return fail("state", f"{account.name} cannot write to {directory}", f"namei -l {quoted}; findmnt -T {quoted}")
    return ok("state", f"{directory} is writable by {account.name}")


def _holds_only_state(directory: Path) -> bool:
    """Whether a directory has nothing but files of this program; false if it cannot be listed."""
    with suppress(OSError):
        return all(name.startswith(_STATE_NAMES) or name.endswith(".lock") for name in os.listdir(directory))
    return False


def _existing(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that exists."""
    return next(path for path in (directory, *directory.parents) if os.path.isdir(path))


def outbox_findings(directory: Path, account: Account, shell: Shell, run_check: str) -> Iterator[Finding]:
    """Check for queued, refused or parked events. `run_check` is the command to send them."""
    try:
        answers = [cast("str | None", answer) for (answer,) in _rows(directory, _READ_ANSWERS)]
        parked = [queued_event(cast("Row", row)) for row in _rows(directory, READ_PARKED)]
    except StateUnavailableError as error:
        yield fail("state file", f"the jobs cannot use it: {error}", comment("name another directory with [maintenance] state_dir"))
        return
    except DamagedError as error:
        yield warn("outbox", f"{directory / FILE} cannot be used ({error}): the next run begins a new one with its events", run_check)
        return
    except (DatabaseUnreadableError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield warn("outbox", f"cannot read {directory / FILE}: {reason}", shell.doctor_as_root)
        return
    retry = shell.arawn_cli(JobName.DISK_CHECK, "--parked", "retry", account=account.name, state=directory) + "  # or drop"
    for event in parked[:_PARKED_LISTED]:
        since = f" since {minute(event.refused_at)}" if event.refused_at is not None else ""
        detail = f"event {event.event} is not sent any more: refused {count(event.refusals, 'time')}{since}, at last with {event.answer}"
        yield warn("parked", detail, retry)
    if len(parked) > _PARKED_LISTED:
        yield warn("parked", f"and {count(len(parked) - _PARKED_LISTED, 'more event')}", retry)
    if answers:
        refused = sum(answer is not None for answer in answers)
        details = f"; {refused:,} of them refused" if refused else ""
        last = f"; the last event was refused with {answers[-1]}" if answers[-1] is not None else ""
        yield warn("outbox", f"{count(len(answers), 'event')} queued{details}{last}", run_check)
    else:
        yield ok("outbox", "nothing is to be sent" if parked else "empty")


def _rows(directory: Path, statement: str) -> list[tuple[object, ...]]:
    """Read the state file, if there is one, as the jobs do. It raises as `copy_in_memory`."""
    copy = copy_in_memory(directory / FILE)
    if copy is None:
        return []
    with closing(copy):
        return copy.execute(statement).fetchall()


def relay_findings(config: Config, shell: Shell) -> Iterator[Finding]:
    """Check whether the relay can be reached and accepts the token, and whether timers have it."""
    yield _relay(config, shell)
    if warning := token_warning(config, shell.environment):
        yield warn("token", warning, comment("set token_file in [maintenance.relay]"))


def _relay(config: Config, shell: Shell) -> Finding:
    target, table = config.relay, config.maintenance.relay
    if target is None:
        return ok("relay", "not configured: events are only printed")
    if target.token_file is not None and not is_kept(target.token_file) and _is_unreadable(target.token_file):
        detail = f"this account cannot read {target.token_file}; systemd reads it as root"
        return warn("relay", detail, shell.doctor_as_root)
    try:
        token = token_for(target.address, target.token_file, shell.environment, allow_insecure=table.allow_insecure)
        route = route_to(target.address, target.ca_file, use_proxy=config.maintenance.use_proxy)
        result = result_of(lambda: probe(route, token, table.origin, table.timeout_secs), table.deadline_secs, never_stopping, 0)
    except OSError as error:
        result = ProbeResult(False, f"{target.address}: {error}")
    except ArawnCliError as error:
        return fail("relay", str(error), comment("fix [maintenance.relay]; arawn-cli doctor --relay-url URL tries another address"))
    if result.ok:
        return ok("relay", result.text)
    fix = comment("check the relay, and url, token_file and ca_file in [maintenance.relay]")
    return warn("relay", result.text, fix) if result.ok is None else fail("relay", result.text, fix)


def ping_findings(config: Config) -> Iterator[Finding]:
    """Check the addresses of the pings without using them: a ping would say that a job ran."""
    for job, url in config.pings.items():
        address = relay_url.parse(url)
        end = address.target.partition("?")[0].rpartition("/")[2]
        if end in ("start", "fail", "log") or end.isdigit():
            yield warn("ping", f"the address of {job} ends with /{end}", comment(f"remove /{end}: each run appends this part itself"))
        elif not address.is_secure and not address.is_loopback:
            detail = f"{job} pings {address.host} in plain text: anyone who intercepts the address can ping, too"
            yield warn("ping", detail, comment("use an address with https"))
        else:
            yield ok("ping", f"{job} pings {address.host}")


def notify_findings(config: Config, directory: Path, shell: Shell, run_check: str, *, test: bool) -> Iterator[Finding]:
    """Check notifications, and whether some are queued. With `test`, send one."""
    file, maintenance = config.notify_urls, config.maintenance
    if file is None:
        if test:
            yield fail("notifications", "not configured", comment("name a file of addresses with [maintenance.notify] urls_file"))
        return
    with suppress(StateUnavailableError, DamagedError, DatabaseUnreadableError, OSError):  # `outbox_findings` says it
        for target, number, answer in cast("list[tuple[str, int, str | None]]", _rows(directory, _WAITING)):
            refused = f"; refused: {answer}" if answer is not None else ""
            detail = f"{count(number, 'notification')} waiting for address {target.removeprefix(NOTIFY)}{refused}"
            yield warn("notifications", detail, run_check)
    if not is_kept(file) and _is_unreadable(file):
        yield warn("notifications", f"this account cannot read {file}; systemd reads it as root", shell.doctor_as_root)
        return
    if (missing := missing_apprise()) is not None:
        yield warn("notifications", "Apprise, the extra arawn-cli[notify], is not installed: notifications wait", missing)
        return
    try:
        addresses = addresses_from(file, shell.environment)
    except ArawnCliError as error:
        yield fail("notifications", str(error), comment("fix [maintenance.notify]"))
        return
    for address in addresses:
        try:
            with closing(AppriseClient(address, use_proxy=maintenance.use_proxy)) as client:
                problem = client.problem(maintenance.relay.deadline_secs, test=test)
        except ArawnCliError as error:
            problem = str(error)
        if problem is not None:
            yield fail("notifications", f"{address} of {file}: {problem}", comment(f"correct {file}; then arawn-cli doctor --notify-test"))
        else:
            yield ok("notifications", f"{address}: {'a test message was sent' if test else 'not tried; --notify-test sends a message'}")


def _is_unreadable(path: Path) -> bool:
    return os.path.lexists(path) and not os.access(path, os.R_OK)


def clock_finding(shell: Shell) -> Finding:
    """Check whether the clock is synchronised."""
    try:
        synchronised = is_synchronised()
    except OSError as error:
        return warn("clock", f"the kernel does not report whether it is synchronised: {error.strerror}", "timedatectl")
    if synchronised:
        return ok("clock", "synchronised")
    if systemd_runs() and shutil.which("timedatectl"):
        query_ntp = ["timedatectl", "show", "--property=CanNTP", "--value"]
        can_ntp = subprocess.run(query_ntp, capture_output=True, text=True, check=False).stdout.strip()
        fix = "timedatectl set-ntp true" if can_ntp == "yes" else "apt-get install systemd-timesyncd"
    else:
        fix = "apt-get install chrony"
    return warn("clock", "not synchronised; ages depend on it", shell.as_root(fix))


def is_synchronised() -> bool:
    """Return whether the maximum error of the clock is known and small. The clock is only read.

    Raises:
        OSError: the kernel does not report it, as in some containers.
    """
    state = ctypes.create_string_buffer(512)  # larger than `struct timex`; mode 0 only reads
    call("adjtimex", state)
    # adjtimex(2): the fields are modes, offset, freq, maxerror, and others.
    *_, maximum_error = struct.unpack_from("@I3l", state)
    return bool(maximum_error < _MAX_ERROR_MICROSECONDS)
