"""Checks of Arawn's tree: root, database, messages, lock and trash. Nothing is changed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from shlex import quote

from arawn_cli.arawn.database import workstream_rows
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, WORKSTREAMS, Root, opened_root, opened_sessions
from arawn_cli.cleanup.trash import TrashEntry, locked, waiting
from arawn_cli.config.loader import Config, database_of
from arawn_cli.doctor.findings import ROOT, Finding, Shell, advice, fail, ok, warn
from arawn_cli.errors import ArawnCliError, LockedError
from arawn_cli.events import JobName
from arawn_cli.fs.in_use import directories_in_use
from arawn_cli.fs.measure import Subtree, combined, measure_all, measuring_method
from arawn_cli.names import escape
from arawn_cli.output.format import count, size
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.timestamps import DAY

_BLOCK = 4096


def tree_findings(config: Config, now: int, shell: Shell) -> Iterator[Finding]:
    """All checks of the tree; without a root there is but one."""
    try:
        with opened_root(config.root) as root, opened_sessions(root) as sessions:
            yield _root(root, shell)
            yield ok("measuring", measuring_method())
            yield _database(config, root)
            yield _messages(root)
            yield _processes(shell)
            yield _lock(root, sessions)
            yield _trash(config, root, now, shell)
    except ArawnCliError as error:
        yield fail("root", str(error), _mend_root(config))


def _mend_root(config: Config) -> str:
    if config.root_name is not None:
        return advice(f"put Arawn's own folder into path of the root {config.root_name} in {config.file}")
    return advice("try arawn-cli doctor --base-path PATH with Arawn's own folder, then write that to [paths] base_path")


def _root(root: Root, shell: Shell) -> Finding:
    owner = os.fstat(root.workstreams).st_uid
    if os.geteuid() not in (0, owner):
        return warn(
            "root",
            f"{root.path} belongs to user {owner}, and this is user {os.geteuid()}: not all that the timers see is seen here",
            shell.tool("doctor", account=ROOT),
        )
    return ok("root", f"{root.path} is an Arawn root, and safe to work on")


def _database(config: Config, root: Root) -> Finding:
    path = database_of(config, root)
    if path is None:
        return warn("database", f"{root.path} has none: activity is told by messages and files alone", _mend_database(config))
    try:
        rows = workstream_rows(path)
    except DatabaseUnreadableError as error:
        return fail("database", f"{error}: every session with a row in it is kept", f"namei -l {quote(str(path))}  # shows who may read it")
    return ok("database", f"{path} is readable: {count(len(rows), 'workstream')}")


def _mend_database(config: Config) -> str:
    key = "[workstream] database" if config.root_name is None else f"database of the root {config.root_name}"
    return advice(f"name it with {key}")


def _messages(root: Root) -> Finding:
    shown = f"{root.path}/{WORKSTREAMS}/{SCRATCH}/{MESSAGES}"
    try:
        descriptor = os.open(f"{SCRATCH}/{MESSAGES}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root.workstreams)
    except FileNotFoundError:
        return ok("messages", f"{shown} is not there yet: no scratch session had a turn")
    except OSError as error:
        return fail("messages", f"{shown}: {error.strerror}; every session is kept", f"namei -l {quote(shown)}  # shows who may read it")
    try:
        os.read(descriptor, _BLOCK)
    except OSError as error:
        return fail("messages", f"{shown}: {error.strerror}; every session is kept", f"ls -ld {quote(shown)}  # it should be a file")
    finally:
        os.close(descriptor)
    return ok("messages", f"{shown} is readable")


def _processes(shell: Shell) -> Finding:
    try:
        directories_in_use(frozenset())
    except OSError as error:
        found = f"{error.filename}: {error.strerror}; as long as that is so, scratch-cleanup by this account keeps every session"
        return warn("processes", found, shell.tool(JobName.SCRATCH_CLEANUP, "--dry-run", account=ROOT))
    return ok("processes", f"what {'any account' if os.geteuid() == 0 else 'this account'} has open in a session is seen")


def _lock(root: Root, sessions: int | None) -> Finding:
    try:
        with locked(sessions, root, hold=False):
            return ok("lock", "free: no other run is at work")
    except LockedError:
        return warn(
            "lock",
            f"another run is at work in {root.path}",
            f"fuser -v {quote(f'{root.path}/{WORKSTREAMS}')}  # shows who; wait for its end",
        )


def _trash(config: Config, root: Root, now: int, shell: Shell) -> Finding:
    found, failures = waiting(root)
    if failures:
        return fail("trash", str(failures[0]), f"ls -la {quote(f'{root.path}/{WORKSTREAMS}/{SCRATCH}')}")
    used = combined(measure_all(root.workstreams, [Subtree(entry.names) for entry in found], 1)).apparent_bytes
    days = config.maintenance.cleanup.trash_days
    overdue = [entry for entry in found if _is_overdue(entry, days, now)]
    text = f"{count(len(found), 'removed session')}, {size(used)}" if found else "empty"
    if overdue:
        detail = f"{text}; {len(overdue)} of them, such as {escape(overdue[0].session)}, should be gone"
        return warn("trash", detail, shell.tool(JobName.SCRATCH_CLEANUP, account=_owner_of(root.workstreams)))
    return ok("trash", text)


def _owner_of(descriptor: int) -> str | None:
    try:
        return pwd.getpwuid(os.fstat(descriptor).st_uid).pw_name
    except KeyError:
        return None


def _is_overdue(entry: TrashEntry, days: int, now: int) -> bool:
    """What a run left, with a day in which the next one takes it up."""
    return entry.removed_at < now - (days + 1) * DAY
