"""Define the events of `scratch-cleanup` and `trash`, and the values of their keys."""

from __future__ import annotations

from enum import StrEnum

from arawn_cli.events import Event, FailureReport, Reason, doc, event, part


class Action(StrEnum):
    """What a cleanup did with a session."""

    DELETED = "deleted"
    TRASHED = "trashed"
    RESTORED = "restored"
    WOULD_DELETE = "would_delete"
    WOULD_TRASH = "would_trash"
    WOULD_RESTORE = "would_restore"
    KEPT = "kept"
    FAILED = "failed"

    @property
    def is_removal(self) -> bool:
        """Whether the session is (in a dry run: would be) deleted or moved to the trash."""
        return self in (Action.DELETED, Action.TRASHED, Action.WOULD_DELETE, Action.WOULD_TRASH)


class ChatResult(StrEnum):
    """What a removal means for the chats of the sessions."""

    KEPT = "kept"
    WITHOUT_FILES = "without_files"
    DELETED = "deleted"


class TrashAction(StrEnum):
    """What happened to an entry of the trash."""

    LISTED = "listed"
    RESTORED = "restored"
    PURGED = "purged"
    WOULD_PURGE = "would_purge"
    BEING_PURGED = "being_purged"
    FAILED = "failed"


@event
class ScratchSessionEvent(Event):
    """One scratch session, and what a cleanup did with it."""

    type: str = doc("type of the event", default="scratch_session")
    session_id: str = doc("its id, which is the name of its directory; bytes that do not print are escaped as `\\xNN`")
    action: Action = doc("what was done with it")
    reason: Reason = doc("why it was removed or kept; docs/reasons.md explains each reason")
    detail: str | None = doc("the object behind the reason, such as the newest file, the process, the mount point or the owner; else null")
    last_turn: str | None = doc(
        "time of its last message; null without one, or if no session was due by rows and files, so that no messages were read"
    )
    last_activity: str | None = doc(
        "newest of its last turn, its database row and its files, as far as they were examined; null if none was found"
    )
    bytes: int | None = doc("apparent size of its files in bytes; null if it was not measured")
    files: int | None = doc("number of its regular files, each inode once; null if it was not measured")


@part
class ExpiringSession:
    """A session that a cleanup removes soon if nobody uses it."""

    session_id: str = doc("its id")
    expires: str = doc("when it becomes due: its last activity and the days of the cutoff")


@event
class ScratchCleanup(Event):
    """The summary of a cleanup, its last event."""

    type: str = doc("type of the event", default="scratch_cleanup")
    sessions_checked: int = doc(
        "number of sessions: `sessions_cleaned`, `sessions_restored`, all of `sessions_kept`, and those that failed"
    )
    sessions_cleaned: int = doc("number of sessions that were removed, or in a dry run would be")
    bytes_freed: int = doc(
        "apparent bytes that the filesystem got back, or in a dry run would get: of sessions that are deleted, and of purged entries of "
        "the trash"
    )
    bytes_trashed: int = doc("apparent bytes of the sessions that this run moved to the trash, or in a dry run would move; not freed yet")
    trash_until: str | None = doc("from when a run purges what this run moved to the trash; null if it moved nothing there")
    database_found: bool = doc(
        "whether there is a database of Arawn's; without one, a session counts as attached if one of its turns is in the messages of a "
        "workstream"
    )
    chats: ChatResult = doc(
        "what a removal means for the chat: it is `kept` (keep_chats), it goes on `without_files` and can never write one again (Arawn "
        "0.0), or it is `deleted` with its history (Arawn's main branch)"
    )
    over_budget_bytes: int = doc(
        "bytes by which a budget (`max_total`, `min_free_percent`) is still exceeded, or in a dry run would be; 0 if it is met"
    )
    expiring: tuple[ExpiringSession, ...] | None = doc(
        "sessions that become due within two days, the first ones first, at most 50; null unless `on` in `[maintenance.notify]` has "
        "`expiring`"
    )
    no_sessions: str | None = doc(
        "why there is no directory of scratch sessions (a new server, or an Arawn 0.0 that creates none), else null"
    )
    cleaned_session_ids: tuple[str, ...] = doc("ids of the sessions in `sessions_cleaned`")
    sessions_restored: int = doc(
        "number of sessions that were put back from the trash because their chat goes on, or in a dry run would be"
    )
    sessions_kept: dict[str, int] = doc("number of kept sessions, by reason")
    failures: tuple[FailureReport, ...] = doc("what could not be read or removed, at most 20")
    failure_count: int = doc("number of all failures, also of those that `failures` leaves out")
    trash_bytes: int | None = doc("apparent bytes of removed sessions in the trash at the end of the run; null if a signal ended it")
    duration_ms: int = doc("duration of the run in milliseconds")


@event
class TrashEntryEvent(Event):
    """A removed session in the trash, and what happened to it."""

    type: str = doc("type of the event", default="trash_entry")
    session_id: str = doc("its former id; one that is too long for the trash is cut and ends with `+`")
    action: TrashAction = doc("what was done; the next cleanup completes an entry that is `being_purged`")
    removed_at: str = doc("when it was removed, to the second")
    purged_from: str | None = doc(
        "from when a cleanup purges it; null if the next cleanup puts it back (`held`), or after it was restored or purged"
    )
    held: bool = doc("whether its removal was interrupted: the next cleanup puts it back and decides again")
    purged_at: str | None = doc("when it was deleted for good, for an earlier removal (`trash list --all`); else null")
    reason: str | None = doc("why it was removed, with the detail, as far as that is recorded (`trash list --all`); else null")
    bytes: int = doc("apparent size of its files in bytes; after a purge, bytes that were freed")
    files: int | None = doc("number of its regular files, each inode once; null if it was purged earlier")
    path: str | None = doc("its path in the trash, relative to the root; null if it was purged earlier")
