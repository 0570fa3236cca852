"""Run `trash list`, `trash restore` and `trash purge`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from arawn_cli import timestamps
from arawn_cli.arawn.layout import WORKSTREAMS
from arawn_cli.arawn.root import Root, opened_root, opened_sessions
from arawn_cli.cleanup.history import Removed, read_removals, record_trash
from arawn_cli.cleanup.lock import cleanup_lock
from arawn_cli.cleanup.trash import list_trash_entries, measured_entries, purge, put_back, remove_empty_trash
from arawn_cli.cleanup.trash_entry import TrashEntry, TrashState
from arawn_cli.cleanup_events import TrashAction, TrashEntryEvent
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import ExitCode
from arawn_cli.events import rendered
from arawn_cli.fs.measure import threads_for
from arawn_cli.fs.usage import Usage
from arawn_cli.names import escape
from arawn_cli.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrashResult:
    """The result of a trash command: the event of each entry, and whether all went well."""

    entries: tuple[TrashEntryEvent, ...]
    succeeded: bool

    @property
    def exit_code(self) -> ExitCode:
        """Return 0 if all went well, else 1."""
        return ExitCode.DONE if self.succeeded else ExitCode.PARTIAL


@dataclass(frozen=True, slots=True)
class _Trash:
    """The open root whose trash is listed or changed."""

    config: Config
    context: RunContext
    root: Root

    def entries(self) -> tuple[list[TrashEntry], bool]:
        """Return the entries, oldest first, and whether all could be listed; log the failures."""
        entries, failures = list_trash_entries(self.root)
        for failure in failures:
            log.error("%s", failure)
        return entries, not failures

    def named(self, entries: Sequence[TrashEntry], sessions: Sequence[str]) -> tuple[list[TrashEntry], bool]:
        """Return the entries of these sessions, and whether each has one; log those without."""
        missing = [session for session in dict.fromkeys(sessions) if all(entry.session != session for entry in entries)]
        for session in missing:
            log.error("no session %s in the trash of %s: `trash list` lists the sessions there", escape(session), self.root.path)
        return [entry for entry in entries if entry.session in sessions], not missing

    def usage(self, entry: TrashEntry) -> Usage:
        """Measure an entry."""
        return measured_entries(self.root, [entry], self.context.advance_or_stop)[entry]

    def path(self, entry: TrashEntry) -> str:
        """Return the path of an entry, relative to the root."""
        return escape("/".join((WORKSTREAMS, *entry.path)))

    def report(
        self,
        removal: Removed,
        action: TrashAction,
        size: int,
        files: int | None = None,
        *,
        entry: TrashEntry | None = None,
        purged_at: int | None = None,
        reason: str | None = None,
    ) -> TrashEntryEvent:
        """Emit and return the event of a removal. `entry` is None if it was purged earlier."""
        is_pending = entry is not None and entry.state is TrashState.PENDING
        stays = entry is not None and not is_pending and action not in (TrashAction.RESTORED, TrashAction.PURGED)
        event = TrashEntryEvent(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            session_id=escape(removal[0]),
            action=action,
            removed_at=timestamps.render(removal[1]),
            purged_from=rendered(entry.purged_from(self.config.maintenance.cleanup.trash_days)) if entry and stays else None,
            held=is_pending,
            purged_at=rendered(purged_at),
            reason=reason,
            bytes=size,
            files=files,
            path=self.path(entry) if entry else None,
        )
        self.context.emit(event)
        return event


def list_trash(config: Config, context: RunContext, *, everything: bool = False) -> TrashResult:
    """Emit an event for each entry, oldest first; fail if not all of the trash can be read.

    With `everything`, list the recorded removals that were purged before, and give the reasons.

    Raises:
        StateUnavailableError: the record cannot be read.
    """
    with opened_root(config.root, config.databases, context.stopping) as root:
        trash = _Trash(config, context, root)
        entries, complete = trash.entries()
        removals = read_removals(context.state, root.path) if everything else []
        reasons = {(each.session, each.removed_at): f"{each.reason}: {each.detail}" if each.detail else each.reason for each in removals}
        events = [
            trash.report(key, TrashAction.PURGED, removal.bytes, purged_at=removal.purged_at, reason=reasons[key])
            for removal in removals
            if removal.purged_at is not None and (key := (removal.session, removal.removed_at))
        ]
        for entry in entries:
            action = TrashAction.BEING_PURGED if entry.state is TrashState.DELETING else TrashAction.LISTED
            usage, reason = trash.usage(entry), reasons.get(entry.removal)
            events.append(trash.report(entry.removal, action, usage.apparent_bytes, usage.files, entry=entry, reason=reason))
    return TrashResult(tuple(events), complete)


def restore(config: Config, context: RunContext, sessions: Sequence[str], *, last: bool) -> TrashResult:
    """Move removed sessions back into `sessions/`; overwrite nothing there.

    If an id was removed several times, restore the last one. With `last`, restore the sessions of
    the last run that removed any.
    """
    with _opened(config, context) as trash:
        entries = [entry for entry in trash.entries()[0] if entry.state is not TrashState.DELETING]
        complete = True
        if last:
            removed = _last_removed(context.state, trash.root)
            entries = [entry for entry in entries if entry.removal in removed]
            if not entries:
                log.error("the trash of %s has no recorded session of the last run: name the ids", trash.root.path)
                return TrashResult((), succeeded=False)
        else:
            entries, complete = trash.named(entries, sessions)
        newest = {entry.session: entry for entry in entries}  # they are sorted by time
        events = [_restore(trash, entry) for entry in newest.values() if not context.stopping()]
        done = [entry.removal for entry, event in zip(newest.values(), events, strict=False) if event.action is TrashAction.RESTORED]
        record_trash(context.state, trash.root.path, context.clock(), restored=done)
    return TrashResult(tuple(events), complete and len(done) == len(newest))


def _last_removed(state: State, root: Root) -> set[Removed]:
    """Return the removals in the trash of the last run that has some."""
    waiting = [removal for removal in read_removals(state, root.path) if removal.purged_at is None]
    last = max((removal.run for removal in waiting), default=None)
    return {(removal.session, removal.removed_at) for removal in waiting if removal.run == last}


def _restore(trash: _Trash, entry: TrashEntry) -> TrashEntryEvent:
    usage = trash.usage(entry)
    failure = put_back(trash.root, entry, used=True)
    if failure:
        log.error("session %s stays in the trash: %s", escape(entry.session), failure)
    else:
        log.info("restored session %s", escape(entry.session))
    action = TrashAction.FAILED if failure else TrashAction.RESTORED
    return trash.report(entry.removal, action, usage.apparent_bytes, usage.files, entry=entry)


def purge_trash(
    config: Config, context: RunContext, sessions: Sequence[str], older_than_days: int, approved: Collection[str | None] | None = None
) -> TrashResult:
    """Delete these sessions from the trash, or all that have been there for more than some days.

    `approved` has the paths of the entries that may be deleted, None for any.

    The next cleanup moves the PENDING entries of an interrupted run back, so they are left alone.
    """
    cutoff = context.clock() - older_than_days * timestamps.DAY
    with _opened(config, context) as trash:
        entries, complete = trash.entries()
        entries = [entry for entry in entries if entry.state is not TrashState.PENDING]
        if sessions:
            entries, found = trash.named(entries, sessions)
            complete = complete and found
        due = [entry for entry in entries if entry.state is TrashState.DELETING or entry.removed_at < cutoff or not older_than_days]
        due = [entry for entry in due if approved is None or trash.path(entry) in approved]
        events = [_purge(trash, entry) for entry in due if not context.stopping()]
        done = [entry.removal for entry, event in zip(due, events, strict=False) if event.action is TrashAction.PURGED]
        if done:
            record_trash(context.state, trash.root.path, context.clock(), purged=done)
    return TrashResult(tuple(events), complete and all(event.action is not TrashAction.FAILED for event in events))


def _purge(trash: _Trash, entry: TrashEntry) -> TrashEntryEvent:
    usage = trash.usage(entry)
    if trash.config.dry_run:
        return trash.report(entry.removal, TrashAction.WOULD_PURGE, usage.freed_bytes, usage.files, entry=entry)
    purged = purge(trash.root, entry, trash.context.stopping, threads_for(trash.config.maintenance.threads))
    for failure in purged.failures:
        log.error("session %s stays in the trash: %s", escape(entry.session), failure)
    action = TrashAction.FAILED if purged.failures else TrashAction.PURGED if purged.finished else TrashAction.BEING_PURGED
    return trash.report(entry.removal, action, purged.freed_bytes, usage.files, entry=entry)


@contextmanager
def _opened(config: Config, context: RunContext) -> Iterator[_Trash]:
    """Open the trash of a root and lock it; in a dry run only test the lock."""
    with (
        opened_root(config.root, config.databases, context.stopping) as root,
        opened_sessions(root) as sessions,
        cleanup_lock(context.state.directory, sessions, root, context.clock(), hold=not config.dry_run),
    ):
        yield _Trash(config, context, root)
        if not config.dry_run:
            remove_empty_trash(root)
