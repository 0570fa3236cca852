"""The use case `trash`: what cleanup removed and is not taken apart yet, to look at, bring back, or free."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arawn_cli import timestamps
from arawn_cli.arawn.layout import WORKSTREAMS, Root, opened_root, opened_sessions
from arawn_cli.cleanup.trash import TrashEntry, locked, purge, put_back, waiting
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.events import TrashAction, TrashEntryEvent
from arawn_cli.fs.measure import Subtree, measure_all, threads_for
from arawn_cli.names import escape

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Trash:
    """An open root whose trash is looked at or changed."""

    config: Config
    context: RunContext
    root: Root

    def found(self) -> tuple[list[TrashEntry], bool]:
        """What waits, and whether every place could be read; one that could not is logged."""
        entries, failures = waiting(self.root)
        for failure in failures:
            log.error("%s", failure)
        return entries, not failures

    def tell(self, entry: TrashEntry, action: TrashAction) -> None:
        """Emits an event of an entry as it stands in the trash now."""
        (usage,) = measure_all(self.root.workstreams, [Subtree(entry.names)], 1)
        self.context.emit(self.event(entry, action, usage.apparent_bytes, usage.files))

    def event(self, entry: TrashEntry, action: TrashAction, size: int, files: int) -> TrashEntryEvent:
        """An event of an entry."""
        return TrashEntryEvent(
            timestamp=self.context.timestamp(),
            host=self.context.host,
            root=self.config.root_name,
            dry_run=self.config.dry_run,
            session_id=escape(entry.session),
            action=action,
            removed_at=timestamps.render(entry.removed_at),
            held=entry.held,
            bytes=size,
            files=files,
            path=escape("/".join((WORKSTREAMS, *entry.names))),
        )


def list_trash(config: Config, context: RunContext) -> bool:
    """Emits an event for each entry, oldest first; false when a place could not be read."""
    with opened_root(config.root) as root:
        trash = _Trash(config, context, root)
        found, complete = trash.found()
        for entry in found:
            trash.tell(entry, TrashAction.BEING_PURGED if entry.gone else TrashAction.LISTED)
    return complete


def restore(config: Config, context: RunContext, session: str) -> bool:
    """Moves the session that was removed last under an id back into `sessions/`; false when that fails.

    Nothing that stands there is overwritten.
    """
    with _opened(config, context) as trash:
        candidates = [entry for entry in trash.found()[0] if entry.session == session and not entry.gone]
        if not candidates:
            log.error("no session %s in the trash of %s: `trash list` shows what is there", escape(session), trash.root.path)
            return False
        entry = max(candidates, key=lambda candidate: candidate.removed_at)
        (usage,) = measure_all(trash.root.workstreams, [Subtree(entry.names)], 1)
        failure = put_back(trash.root, entry, used=True)
        if failure:
            log.error("session %s stays in the trash: %s", escape(session), failure)
        else:
            log.info("restored session %s", escape(session))
        action = TrashAction.FAILED if failure else TrashAction.RESTORED
        context.emit(trash.event(entry, action, usage.apparent_bytes, usage.files))
        return failure is None


def empty(config: Config, context: RunContext, older_than_days: int) -> bool:
    """Takes apart what has been in the trash for more than some days; false when something fails.

    What an interrupted run holds is left to the next cleanup, which judges it anew.
    """
    limit = context.clock() - older_than_days * timestamps.DAY
    with _opened(config, context) as trash:
        found, complete = trash.found()
        due = [entry for entry in found if entry.gone or (not entry.held and (entry.removed_at < limit or not older_than_days))]
        purged = [_purged(trash, entry) for entry in due]
    return all(purged) and complete


def _purged(trash: _Trash, entry: TrashEntry) -> bool:
    if trash.context.stopping():
        return True
    if trash.config.dry_run:
        trash.tell(entry, TrashAction.WOULD_PURGE)
        return True
    (usage,) = measure_all(trash.root.workstreams, [Subtree(entry.names)], 1)
    purged = purge(trash.root, entry, trash.context.stopping, threads_for(trash.config.maintenance.threads))
    for failure in purged.failures:
        log.error("session %s stays in the trash: %s", escape(entry.session), failure)
    action = TrashAction.FAILED if purged.failures else TrashAction.PURGED if purged.finished else TrashAction.BEING_PURGED
    trash.context.emit(trash.event(entry, action, purged.freed_bytes, usage.files))
    return not purged.failures


@contextmanager
def _opened(config: Config, context: RunContext) -> Iterator[_Trash]:
    """The trash of a root, while no other run changes it."""
    with opened_root(config.root) as root, opened_sessions(root) as sessions, locked(sessions, root, hold=not config.dry_run):
        yield _Trash(config, context, root)
