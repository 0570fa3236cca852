"""Check Arawn's tree: root, database, messages, processes, lock, trash."""

from __future__ import annotations

import errno
import logging
import os
import pwd
from collections.abc import Iterator
from shlex import quote

from arawn_cli.arawn.database import session_rows, workstream_rows
from arawn_cli.arawn.layout import SCRATCH, SUPPORTED, V0, WORKSTREAMS
from arawn_cli.arawn.root import (
    Root,
    UnusableDirectoryError,
    bind_mount_commands,
    mounts_in,
    opened_root,
    opened_sessions,
    reason_for_no_sessions,
    writable_by_group,
)
from arawn_cli.arawn.turns import messages_reader
from arawn_cli.cleanup.chats import ChatNeeds, cannot_exchange_text, why_chats_cannot_be_kept
from arawn_cli.cleanup.lock import cleanup_lock
from arawn_cli.cleanup.plan import Policy, useless_patterns
from arawn_cli.cleanup.trash import list_trash_entries
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.measuring import links
from arawn_cli.doctor.findings import Finding, comment, fail, ok, warn
from arawn_cli.errors import ArawnCliError, LockedError, LongLockedError, RefusedError
from arawn_cli.events import JobName, rendered
from arawn_cli.fs.in_use import hidden_processes, sees_all_accounts
from arawn_cli.fs.measure import Subtree, measure_all, measuring_method
from arawn_cli.fs.openat import entries
from arawn_cli.fs.processes import shown
from arawn_cli.fs.usage import combined
from arawn_cli.locks import lock_file
from arawn_cli.names import escape
from arawn_cli.output.format import mounts_in_words
from arawn_cli.schedule.settings import ROOT, Shell
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.timestamps import DAY
from arawn_cli.units import count, size

_SHOWN_PROCESSES = 3

log = logging.getLogger(__name__)


def tree_findings(config: Config, now: int, shell: Shell) -> Iterator[Finding]:
    """Run all checks of the tree. Without a usable root the only finding is that of the root."""
    try:
        with opened_root(config.root, config.databases) as root, opened_sessions(root) as sessions:
            yield _root(root, shell)
            reason = f" {reason_for_no_sessions(root)}, so there is nothing to remove." if sessions is None else ""
            yield ok("arawn", f"found {root.layout.name}; supported are {SUPPORTED}.{reason}")
            yield _measuring(root)
            if useless := useless_patterns(config, root.layout):
                yield fail("protect", useless, comment(f"correct protect in {config.file}"))
            yield _database(config, root)
            yield _messages(root, sessions, Policy.of(config).cutoff(now))
            yield _processes(shell)
            yield _lock(config, root, now)
            yield _trash(config, root, now, shell)
            if sessions is not None and (finding := _chats(config, root, sessions)):
                yield finding
    except UnusableDirectoryError as error:
        yield fail("root", str(error), error.fix)
    except ArawnCliError as error:
        fix = comment("try arawn-cli doctor --base-path PATH with Arawn's directory, then set [maintenance] root to it")
        if isinstance(error.__cause__, PermissionError):
            fix = shell.doctor_as_root
        elif config.root_name is not None:
            fix = comment(f"set path of the root {config.root_name} in {config.file} to Arawn's directory")
        yield fail("root", str(error), fix)


def _root(root: Root, shell: Shell) -> Finding:
    owner = os.fstat(root.workstreams).st_uid
    if os.geteuid() not in (0, owner):
        detail = f"{root.path} belongs to user {owner}, but this is user {os.geteuid()}: it may see less than the timers see"
        return warn("root", detail, shell.doctor_as_root)
    if shared := writable_by_group(root):
        detail = f"every account in the group of {shared} can write to it, and can make cleanup remove sessions"
        return warn("root", detail, f"chmod g-w {quote(str(shared))}  # unless Arawn needs it")
    return ok("root", f"{root.path} is an Arawn root and safe to use")


def _measuring(root: Root) -> Finding:
    try:
        found, mounts = links(root), [f"{WORKSTREAMS}/{'/'.join(names)}" for names, is_own in mounts_in(root).items() if not is_own]
    except OSError as error:
        return fail(
            "measuring", f"cannot list {root.path}/{WORKSTREAMS}: {error.strerror}", f"ls -la {quote(f'{root.path}/{WORKSTREAMS}')}"
        )
    if found:
        more = f"; {count(len(found) - 1, 'other link')}" if found[1:] else ""
        return fail("measuring", f"{found[0]}{more}; the files behind it are not counted", bind_mount_commands(root.path / found[0].path))
    if mounts:
        detail = f"{mounts_in_words(sorted(map(escape, mounts)))}: neither counted nor removed"
        return warn("measuring", detail, f"findmnt {quote(f'{root.path}/{mounts[0]}')}")
    return ok("measuring", measuring_method())


def _database(config: Config, root: Root) -> Finding:
    path = root.database
    if path is None:
        key = "[maintenance] database" if config.root_name is None else f"database of the root {config.root_name}"
        detail = f"none found for {root.path}: a session with a turn in a workstream's messages counts as attached to it"
        return warn("database", detail, comment(f"set {key}"))
    try:
        rows = workstream_rows(path, root.layout)
    except DatabaseUnreadableError as error:
        return fail("database", f"{error}: every session in it is kept", f"namei -l {quote(str(path))}  # shows who may read it")
    return ok("database", f"{path} is readable, with {count(len(rows), 'workstream')}")


def _messages(root: Root, sessions: int | None, cutoff: int) -> Finding:
    """Read the messages of all workstreams as a cleanup does."""
    with_turns: frozenset[str] = frozenset()
    try:
        names = [] if sessions is None else [entry.name for entry in entries(sessions) if root.layout.is_session_id(entry.name)]
        if root.database is not None:
            with_turns = session_rows(root.database, root.layout, ()).workstreams_with_turns
    except OSError as error:
        return fail("messages", f"cannot list the sessions: {error.strerror}", f"ls -la {quote(f'{root.path}/{WORKSTREAMS}')}")
    except DatabaseUnreadableError:
        log.debug("whether there were turns is unknown: the check of the database reports why")
    reader = messages_reader(root, names, with_turns)
    reader.read(names)
    kept = "every session" if reader.failures else "that session"
    failures = [*reader.failures.values(), *reader.own_failures.values()]
    if failures:
        more = f", and {count(len(failures) - 1, 'other failure')}" if failures[1:] else ""
        path = root.path / failures[0].path
        match failures[0].errno:
            case errno.ETIMEDOUT:
                fix = "# start the server of that filesystem again, or unmount it"
            case errno.ELOOP:
                fix = bind_mount_commands(path)
            case _:
                fix = f"namei -l {quote(str(path))}"
        return fail("messages", f"{failures[0]}{more}: {kept} is kept", fix)
    in_doubt = [
        damage
        for name in names
        if (damage := reader.damage_of(name)) and damage.at >= cutoff and reader.newest.get(name, cutoff - 1) < cutoff
    ]
    if in_doubt:
        damage = max(in_doubt, key=lambda damage: damage.at)
        detail = f"{damage}, and may be a turn of {rendered(damage.at)}: {count(len(in_doubt), 'session')} may be kept for that reason"
        shown = quote(f"{root.path}/{damage.path}")
        fix = (
            f"tail -c +{damage.offset + 1} {shown} | head -n 1 | head -c 1000 | cat -v  # shows the line; correct it"
            if (damage.offset is not None)
            else f"ls -l {shown}  # move it away, or its lines back to the beginning of the messages"
        )
        return fail("messages", detail, f"{fix}, or wait until that time is older than the cutoff")
    if not reader.found:
        return ok("messages", f"{root.path}/{WORKSTREAMS} has none{' yet' if not names else ' of a scratch session'}")
    return ok(
        "messages", "the messages of all workstreams are readable" if root.layout is V0 else "the messages of all sessions are readable"
    )


def _processes(shell: Shell) -> Finding:
    try:
        hidden = hidden_processes()
    except OSError as error:
        detail = f"{error.filename or '/proc'}: {error.strerror}; until that changes, scratch-cleanup by this account keeps every session"
        return warn("processes", detail, shell.arawn_cli(JobName.SCRATCH_CLEANUP, "--dry-run", account=ROOT))
    detail = f"open files of {'all accounts' if sees_all_accounts() else 'this account'} are visible"
    if hidden:
        names = ", ".join(map(shown, hidden[:_SHOWN_PROCESSES])) + (", …" if hidden[_SHOWN_PROCESSES:] else "")
        detail += f", except of {names}: these keep only the sessions that their command lines name"
    return ok("processes", detail)


def _lock(config: Config, root: Root, now: int) -> Finding:
    path = lock_file(config.state_directory, JobName.SCRATCH_CLEANUP, root.path)
    show = f"fuser -v {quote(str(path))}  # shows the process"
    try:
        with cleanup_lock(config.state_directory, None, root, now, hold=False):
            return ok("lock", "free")
    except LockedError as error:
        return warn("lock", str(error), f"{show}; wait until it ends")
    except LongLockedError as error:
        return fail("lock", str(error), show)
    except RefusedError as error:
        return fail("lock", str(error), f"ls -la {quote(str(path))}")


def _chats(config: Config, root: Root, sessions: int) -> Finding | None:
    needs = ChatNeeds.to_keep(config, root.layout)
    if needs is None:
        return None
    if error := why_chats_cannot_be_kept(config, root, sessions, needs):
        return fail("chats", cannot_exchange_text(error), comment("set keep_chats = false in [maintenance.cleanup]"))
    return ok("chats", "kept: the filesystem can exchange directories")


def _trash(config: Config, root: Root, now: int, shell: Shell) -> Finding:
    entries, failures = list_trash_entries(root)
    if failures:
        return fail("trash", str(failures[0]), f"ls -la {quote(f'{root.path}/{WORKSTREAMS}/{SCRATCH}')}")
    if not entries:
        return ok("trash", "empty")
    used = combined(measure_all(root.workstreams, [Subtree(entry.path) for entry in entries], 1)).apparent_bytes
    detail = f"{count(len(entries), 'removed session')}, {size(used)}"
    # The next run after an entry's time is up purges it; it has a day for that.
    purge_before = now - (config.maintenance.cleanup.trash_days + 1) * DAY
    overdue = [entry for entry in entries if entry.removed_at < purge_before]
    if not overdue:
        return ok("trash", detail)
    try:
        owner = pwd.getpwuid(os.fstat(root.workstreams).st_uid).pw_name
    except KeyError:
        owner = None
    detail += f"; {len(overdue):,} of them should have been purged, such as {escape(overdue[0].session)}"
    return warn("trash", detail, shell.arawn_cli(JobName.SCRATCH_CLEANUP, account=owner))
