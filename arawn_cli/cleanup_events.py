"""The events of `scratch-cleanup` and of `trash`."""

from __future__ import annotations

from dataclasses import dataclass

from arawn_cli.events import Event, FailureReport
from arawn_cli.scratch_session import Action, Reason
from arawn_cli.vocabulary import TrashAction


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchSessionEvent(Event):
    """One scratch session, and what a cleanup did with it."""

    type: str = "scratch_session"
    session_id: str
    """its id, that is the name of its directory; what does not print is escaped as `\\xNN`"""
    action: Action
    """what was done: `kept` was used since the cutoff, `skipped` stays for another reason"""
    reason: Reason
    """why it went or stayed; the README has them all"""
    last_turn: str | None
    """when its last message was written; null where none since the cutoff, or shortly before it, was found"""
    last_activity: str | None
    """the newest of its last turn, its row in the database and the files in it, as far as they were looked at; null where none was
    found"""
    bytes: int | None
    """apparent bytes of its files; null where it did not have to be measured"""
    files: int | None
    """regular files in it, each inode once; null where it did not have to be measured"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashEntryEvent(Event):
    """A removed session in the trash, and what became of it."""

    type: str = "trash_entry"
    session_id: str
    """the id that it had; one that is too long for the trash is cut, and ends with `+`"""
    action: TrashAction
    """what was done; `being_purged` is taken apart in part, and finished by the next cleanup"""
    removed_at: str
    """when it was removed, to the second"""
    held: bool
    """whether an interrupted run had only begun to remove it: the next cleanup puts it back and judges it anew"""
    bytes: int
    """apparent bytes of its files; after `purge`, those that the filesystem got back"""
    files: int
    """regular files in it, each inode once"""
    path: str
    """where it lies or lay in the trash, relative to the root"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchCleanup(Event):
    """The end of a cleanup."""

    type: str = "scratch_cleanup"
    sessions_checked: int
    """sessions that were looked at: `sessions_cleaned`, all of `sessions_skipped`, and those that failed"""
    sessions_cleaned: int
    """sessions that were removed, or in a dry run would be"""
    bytes_reclaimed: int
    """apparent bytes that the filesystem got back, or in a dry run would, leftovers of earlier runs included; what waits in the trash
    is not among them"""
    cleaned_session_ids: tuple[str, ...]
    """ids of the sessions that `sessions_cleaned` counts"""
    sessions_skipped: dict[str, int]
    """how many sessions stayed, by reason"""
    failures: tuple[FailureReport, ...]
    """what could not be read or removed"""
    trash_bytes: int
    """apparent bytes of removed sessions that wait in the trash when the run ends"""
    duration_ms: int
    """milliseconds that the run took"""
