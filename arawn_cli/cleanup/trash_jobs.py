"""Run `trash list`, `trash restore` and `trash purge`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arawn_cli import timestamps
from arawn_cli.arawn.layout import WORKSTREAMS
from arawn_cli.arawn.root import Root, opened_root, opened_sessions
from arawn_cli.cleanup.trash import list_trash_entries, locked, purge, purged_from, put_back, remove_empty_trash
from arawn_cli.cleanup.trash_entry import TrashEntry, TrashState
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import ExitCode
from arawn_cli.events import TrashAction, TrashEntryEvent
from arawn_cli.fs.measure import Subtree, measure_all, threads_for
from arawn_cli.names import escape

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

    def report_measured(self, entry: TrashEntry, action: TrashAction) -> TrashEntryEvent:
        """Measure an entry, and emit and return its event."""
        (usage,) = measure_all(self.root.workstreams, [Subtree(entry.path)], 1, self.context.advance_or_stop)
        return self.report(entry, action, usage.apparent_bytes, usage.files)

    def report(self, entry: TrashEntry, action: TrashAction, size: int, files: int) -> TrashEntryEvent:
        """Emit and return the event of an entry."""
        in_trash = entry.state is not TrashState.PENDING and action not in (TrashAction.RESTORED, TrashAction.PURGED)
        event = TrashEntryEvent(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            session_id=escape(entry.session),
            action=action,
            removed_at=timestamps.render(entry.removed_at),
            purged_from=timestamps.render(purged_from(entry, self.config.maintenance.cleanup.trash_days)) if in_trash else None,
            held=entry.state is TrashState.PENDING,
            bytes=size,
            files=files,
            path=escape("/".join((WORKSTREAMS, *entry.path))),
        )
        self.context.emit(event)
        return event


def list_trash(config: Config, context: RunContext) -> TrashResult:
    """Emit an event for each entry, oldest first; fail if not all of the trash can be read."""
    with opened_root(config.root, config.databases, context.stopping) as root:
        trash = _Trash(config, context, root)
        entries, complete = trash.entries()
        events = [
            trash.report_measured(entry, TrashAction.BEING_PURGED if entry.state is TrashState.DELETING else TrashAction.LISTED)
            for entry in entries
        ]
    return TrashResult(tuple(events), complete)


def restore(config: Config, context: RunContext, session: str) -> TrashResult:
    """Move the last removed session of this id back into `sessions/`; overwrite nothing there."""
    with _opened(config, context) as trash:
        candidates = [entry for entry in trash.entries()[0] if entry.session == session and entry.state is not TrashState.DELETING]
        if not candidates:
            log.error("no session %s in the trash of %s: `trash list` shows what is there", escape(session), trash.root.path)
            return TrashResult((), succeeded=False)
        entry = max(candidates, key=lambda candidate: candidate.removed_at)
        (usage,) = measure_all(trash.root.workstreams, [Subtree(entry.path)], 1, trash.context.advance_or_stop)
        failure = put_back(trash.root, entry, used=True)
        if failure:
            log.error("session %s stays in the trash: %s", escape(session), failure)
        else:
            log.info("restored session %s", escape(session))
        action = TrashAction.FAILED if failure else TrashAction.RESTORED
        event = trash.report(entry, action, usage.apparent_bytes, usage.files)
        return TrashResult((event,), succeeded=failure is None)


def purge_trash(config: Config, context: RunContext, older_than_days: int) -> TrashResult:
    """Delete the sessions that have been in the trash for more than some days.

    The next cleanup moves the PENDING entries of an interrupted run back, so they are left alone.
    """
    cutoff = context.clock() - older_than_days * timestamps.DAY
    with _opened(config, context) as trash:
        entries, complete = trash.entries()
        due = [
            entry
            for entry in entries
            if entry.state is TrashState.DELETING
            or (entry.state is TrashState.CONFIRMED and (entry.removed_at < cutoff or not older_than_days))
        ]
        events = [_purge(trash, entry) for entry in due if not context.stopping()]
    return TrashResult(tuple(events), complete and all(event.action is not TrashAction.FAILED for event in events))


def _purge(trash: _Trash, entry: TrashEntry) -> TrashEntryEvent:
    if trash.config.dry_run:
        return trash.report_measured(entry, TrashAction.WOULD_PURGE)
    (usage,) = measure_all(trash.root.workstreams, [Subtree(entry.path)], 1, trash.context.advance_or_stop)
    purged = purge(trash.root, entry, trash.context.stopping, threads_for(trash.config.maintenance.threads))
    for failure in purged.failures:
        log.error("session %s stays in the trash: %s", escape(entry.session), failure)
    action = TrashAction.FAILED if purged.failures else TrashAction.PURGED if purged.finished else TrashAction.BEING_PURGED
    return trash.report(entry, action, purged.freed_bytes, usage.files)


@contextmanager
def _opened(config: Config, context: RunContext) -> Iterator[_Trash]:
    """Open the trash of a root and lock it; in a dry run only test the lock."""
    with (
        opened_root(config.root, config.databases, context.stopping) as root,
        opened_sessions(root) as sessions,
        locked(context.state.directory, sessions, root, context.clock(), hold=not config.dry_run),
    ):
        yield _Trash(config, context, root)
        if not config.dry_run:
            remove_empty_trash(root)
