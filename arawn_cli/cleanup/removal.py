"""Remove sessions: check, rename into the trash, check again, undo the rename if one was used."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from arawn_cli.arawn.layout import SCRATCH, TRASH, WORKSTREAMS
from arawn_cli.cleanup.chats import (
    ChatNeeds,
    Places,
    cannot_exchange_text,
    chats_that_fit,
    check_preparable,
    discard,
    no_space,
    prepare,
    why_chats_cannot_be_kept,
    without_needs,
)
from arawn_cli.cleanup.obstacles import explained, why_immovable, why_immutable
from arawn_cli.cleanup.plan import MOVED, Policy, contents, revalidate
from arawn_cli.cleanup.sessions import Decision, Evidence, Outcome, ScratchSession, SessionsDirectory, keep_file_in
from arawn_cli.cleanup.trash import TrashDirectory, check_trash_writable, open_trash
from arawn_cli.cleanup.trash_entry import TrashState, confirmed_name, deleting_name, pending_name
from arawn_cli.cleanup_events import Action
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.errors import Failure, StoppedError
from arawn_cli.events import Reason
from arawn_cli.fs.delete import delete_trees, freed_bytes
from arawn_cli.fs.exchange import CANNOT_EXCHANGE, exchange, move
from arawn_cli.fs.in_use import find_uses
from arawn_cli.fs.measure import Subtree, measure, measure_all, stop_when, threads_for
from arawn_cli.fs.openat import Identity, exists, identity_at, identity_of, many_descriptors, open_directory
from arawn_cli.fs.usage import Usage
from arawn_cli.locks import try_lock
from arawn_cli.names import escape
from arawn_cli.timestamps import SECOND

# Sessions between two scans of the processes, and the files that they have: they are away while
# they are measured again. Each session has an open descriptor, which holds its lock.
_BATCH_MAX, _BATCH_FILES = 2000, 100_000

# Files that were measured so recently are not measured again before the rename: after it they are.
_FRESH = 5 * SECOND

_DESCRIPTORS = 4 * _BATCH_MAX

# Sessions that are deleted before the first of their outcomes follows, and the files that they
# have.
_PART_MAX, _PART_FILES = 500, 10_000

_Item = TypeVar("_Item")
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class Candidate:
    """A session that is being removed; its lock is held until its batch ends.

    Attributes:
        planned: the decision to remove it.
        usage: its usage when it was last checked.
        trash_name: its name in the trash, once it was moved there.
        needs: what its chat needs, if that stays; None if the whole session is removed.
        places: the two directories, once they were exchanged.
        removed_at: the time in its name in the trash.
        descriptor: its open directory.
    """

    planned: Decision
    usage: Usage = field(default_factory=Usage)
    trash_name: str = ""
    needs: ChatNeeds | None = None
    places: Places | None = None
    descriptor: int = -1
    removed_at: int | None = None

    @property
    def session(self) -> ScratchSession:
        """The session as it was planned."""
        return self.planned.session

    @property
    def name(self) -> str:
        """Its present name."""
        return self.trash_name or self.session.name


class SessionRemover:
    """Remove due sessions; a dry run makes the same checks, and only reports the removals.

    A step for one session returns the outcome if the removal of this session ends there, else None.
    """

    def __init__(
        self,
        sessions: SessionsDirectory,
        evidence: Evidence,
        config: Config,
        context: RunContext,
        now: int,
        measured_at: int,
        purged_inodes: int,
    ) -> None:
        """Prepare to carry out a plan that decided at `now`.

        It was measured from `measured_at` of the context's monotonic clock. `purged_inodes` is the
        number of inodes that the run, or only a real one, purged from the trash.
        """
        self._sessions = sessions
        self._evidence = evidence
        self._config = config
        self._context = context
        self._stopping = context.stopping
        self._policy = Policy.of(config)
        self._now = now
        self._measured_at = measured_at
        self._purge = False
        self._dry_run = config.dry_run
        self._purged_inodes = purged_inodes
        self._threads = threads_for(config.maintenance.threads)
        self._needs = ChatNeeds.to_keep(config, sessions.root.layout)
        self._cannot_exchange: OSError | None = None

    def remove(self, due: Sequence[Decision], *, purge: bool) -> Iterator[Outcome]:
        """Yield the outcome of each due session. After a signal, no other session is begun.

        With `purge` the sessions are deleted at once; else they stay in the trash.
        """
        if not due:
            return
        self._purge = purge
        if self._dry_run and self._needs:  # a real run will see
            self._cannot_exchange = why_chats_cannot_be_kept(self._config, self._sessions.root, self._sessions.descriptor, self._needs)
        with many_descriptors(_DESCRIPTORS) as limit:
            # A dry run keeps no descriptor.
            batches = [due] if self._dry_run else portions(due, _files, max(1, min(_BATCH_MAX, limit // 4)), _BATCH_FILES)
            for batch in batches:
                if self._stopping():
                    return
                with ExitStack() as resources, suppress(StoppedError):
                    yield from self._remove_batch(batch, resources)

    def _remove_batch(self, batch: Sequence[Decision], resources: ExitStack) -> Iterator[Outcome]:
        """Remove some sessions.

        Raises:
            StoppedError: a signal ended the run; sessions without an outcome are in their places.
        """
        # Lock each session, and check that it was not used since the plan was made.
        try:
            mounts = self._sessions.mounts_inside()
        except OSError as error:
            yield from (_failed(decision.session, Failure.of("read", "/proc/self/mountinfo", error)) for decision in batch)
            return
        if immovable := why_immutable(self._sessions.descriptor, self._sessions.path):
            yield from (_kept(decision.session, Reason.NOT_PERMITTED, f"{self._sessions.shown} {immovable}") for decision in batch)
            return
        locked: list[Candidate] = []
        for candidate in map(Candidate, batch):
            if self._stopping():
                break
            if mount := mounts.get(candidate.session.name):
                yield _kept(candidate.session, Reason.MOUNT_INSIDE, f"mount point {escape(mount)}")
            elif outcome := self._lock(candidate, resources):
                yield outcome
            else:
                locked.append(candidate)
            if self._dry_run:
                resources.close()
        blocked = self._recheck(locked, self._sessions.descriptor, measure_again=self._context.monotonic() - self._measured_at > _FRESH)
        yield from blocked.values()
        candidates = [candidate for candidate in locked if candidate.session.identity not in blocked]
        if not candidates:
            return

        # Open the trash; a dry run only checks that it could.
        try:
            if self._dry_run:
                yield from self._announced(candidates, has_trash=check_trash_writable(self._sessions))
                return
            trash = resources.enter_context(open_trash(self._sessions))
        except OSError as error:
            if isinstance(error, FileNotFoundError):  # somebody removed the whole directory
                yield from (_changed(candidate.session) for candidate in candidates)
                return
            failure = Failure.of("open", f"{WORKSTREAMS}/{SCRATCH}/{TRASH}", error)
            yield from (_not_moved(candidate.session, failure) for candidate in candidates)
            return

        # Sessions that are not confirmed are moved back; the outcomes follow when that is done.
        confirmed, outcomes = self._move_to_trash(candidates, trash)
        yield from outcomes
        if self._purge:
            yield from self._delete(confirmed, trash)
        else:
            yield from (self._removed(candidate, Action.TRASHED) for candidate in confirmed)

    def _announced(self, candidates: Sequence[Candidate], *, has_trash: bool) -> list[Outcome]:
        """Return the outcomes of a dry run; inodes limit the number of chats that are kept.

        Deleting the sessions of a batch gives the next one theirs back.
        """
        action = Action.WOULD_DELETE if self._purge else Action.WOULD_TRASH
        reserved = (not has_trash) - self._purged_inodes  # the trash was not purged in a dry run
        room = chats_that_fit(self._sessions.descriptor, self._needs, reserved=reserved) if self._needs else None
        outcomes: list[Outcome] = []
        for number, candidate in enumerate(candidates):
            begun = number % _BATCH_MAX if self._purge else number
            fits = room is None or candidate.needs is None or begun < room
            outcomes.append(self._removed(candidate, action) if fits else self._not_renamed(candidate, no_space()))
        return outcomes

    def _lock(self, candidate: Candidate, resources: ExitStack) -> Outcome | None:
        """Lock a session, and check that it can be moved."""
        session = candidate.session
        try:
            descriptor = open_directory(session.name, self._sessions.descriptor)
            resources.callback(os.close, descriptor)
            if identity_of(os.fstat(descriptor)) != session.identity:
                return _changed(session)
            if not try_lock(descriptor):
                return _kept(session, Reason.LOCKED)
            if outcome := self._protected(session, descriptor):
                return outcome
            if decision := why_immovable(self._sessions, session, descriptor):
                return self._apply(decision, candidate)
        except OSError as error:
            if error.errno in _REPLACED:
                return _changed(session)
            return _failed(session, Failure.of("check", f"{self._sessions.shown}/{session.name}", error))
        candidate.descriptor = descriptor
        if self._needs is None:
            return None
        try:
            if not check_preparable(descriptor, self._needs):
                return None
        except OSError as error:
            return self._cannot_move(session, error)
        candidate.needs = self._needs
        return None if self._cannot_exchange is None else self._not_exchanged(candidate, self._cannot_exchange)

    def _protected(self, session: ScratchSession, descriptor: int) -> Outcome | None:
        """Look for a `.keep` file again; one that was restored or renamed has an old time."""
        path = keep_file_in(descriptor, self._sessions.root.layout)
        return _kept(session, Reason.PROTECTED, f"the file {path}") if path else None

    def _recheck(self, candidates: Sequence[Candidate], directory: int, *, measure_again: bool) -> dict[Identity, Outcome]:
        """Return outcomes of sessions used since the plan, or in use, in an open directory.

        Processes come first: the check of files then finds those that one writes and closes later.

        Raises:
            StoppedError: a signal asked the run to end.
        """
        self._evidence.reread([candidate.session.name for candidate in candidates])
        try:
            if not self._sessions.is_in_place():
                return {candidate.session.identity: _changed(candidate.session) for candidate in candidates}
        except OSError as error:
            failure = Failure.of("check", self._sessions.shown, error)
            return {candidate.session.identity: _failed(candidate.session, failure) for candidate in candidates}
        blocked = self._sessions_in_use(candidates, directory)
        free = [candidate for candidate in candidates if candidate.session.identity not in blocked]
        usages = self._measure(free, directory) if measure_again else [candidate.session.usage for candidate in free]
        shared = self._evidence.failures
        for candidate, usage in zip(free, usages, strict=True):
            policy = self._policy.for_budgets(self._config) if candidate.planned.reason is Reason.OVER_BUDGET else self._policy
            evidence = self._evidence.of(candidate.session.name, shared)
            decision = revalidate(candidate.session, evidence, usage or Usage(), policy, self._now)
            if outcome := self._apply(decision, candidate):
                blocked[candidate.session.identity] = outcome
        return blocked

    def _measure(self, candidates: Sequence[Candidate], directory: int) -> list[Usage]:
        subtrees = [Subtree((candidate.name,), shown=candidate.session.name) for candidate in candidates]
        usages = measure_all(directory, subtrees, self._threads, stop_when(self._stopping))
        return [without_needs(usage, directory, each.name, self._needs) for usage, each in zip(usages, candidates, strict=True)]

    def _apply(self, decision: Decision, candidate: Candidate) -> Outcome | None:
        if not decision.is_removal or not decision.session.usage:
            decision = explained(decision, self._sessions.path)
            return _kept(decision.session, decision.reason, decision.detail)
        candidate.usage = decision.session.usage
        return None

    def _sessions_in_use(self, candidates: Sequence[Candidate], directory: int) -> dict[Identity, Outcome]:
        """Return outcomes of sessions in use in an open directory; of all, if unknown."""
        sessions = {candidate.name: candidate.session for candidate in candidates}
        if not sessions:
            return {}
        try:
            uses = find_uses(directory, sessions, self._stopping)
        except OSError as error:
            path = str(error.filename)  # a descriptor or a name in a directory of /proc says nothing to people
            failure = Failure.of("check", path if path.startswith("/") else "/proc", error)
            return {session.identity: _kept_like_others(session, Reason.ACTIVITY_UNKNOWN, failure) for session in sessions.values()}
        return {sessions[name].identity: _kept(sessions[name], use.reason, use.detail) for name, use in uses.items()}

    def _move_to_trash(self, candidates: Sequence[Candidate], trash: TrashDirectory) -> tuple[list[Candidate], list[Outcome]]:
        """Move sessions to the trash, and move back those that were used until then."""
        # Rename each session. No path leads into it any more; a process may still have it open.
        moved: list[Candidate] = []
        outcomes: list[Outcome] = []
        for candidate in candidates:
            if self._stopping():
                break
            candidate.removed_at = self._context.clock() // SECOND * SECOND
            if outcome := self._exchange(candidate, candidate.needs, trash) if candidate.needs else self._rename(candidate, trash):
                outcomes.append(outcome)
            else:
                moved.append(candidate)

        # Check all again.
        try:
            stop_when(self._stopping)(0)
            used = self._recheck(moved, trash.descriptor, measure_again=True)
        except StoppedError:
            return [], [*outcomes, *(failed for candidate in moved if (failed := self._put_back(candidate, trash)))]
        confirmed: list[Candidate] = []
        for candidate in moved:
            # Its next state, so that no later run moves it back.
            name = deleting_name(candidate.trash_name) if self._purge else confirmed_name(candidate.trash_name)
            blocked = (
                used.get(candidate.session.identity)
                or self._protected(candidate.session, candidate.descriptor)
                or self._recheck_name(candidate, trash)
            )
            if blocked := blocked or self._rename_entry(candidate, name, trash):
                outcomes.append(self._put_back(candidate, trash) or blocked)
            else:
                confirmed.append(candidate)
        return confirmed, outcomes

    def _rename(self, candidate: Candidate, trash: TrashDirectory) -> Outcome | None:
        name = pending_name(candidate.session.name, candidate.removed_at or 0, prefix=trash.prefix)
        try:
            move(candidate.session.name, self._sessions.descriptor, name, trash.descriptor)
        except OSError as error:
            return self._not_renamed(candidate, error)
        candidate.trash_name = name
        return None

    def _exchange(self, candidate: Candidate, needs: ChatNeeds, trash: TrashDirectory) -> Outcome | None:
        """Exchange a session for a directory that holds what its chat needs."""
        session = candidate.session
        if self._cannot_exchange is not None:  # this run has tried it
            return self._not_exchanged(candidate, self._cannot_exchange)
        name = pending_name(session.name, candidate.removed_at or 0, prefix=trash.prefix, exchanged=True)
        try:
            name, record = prepare(candidate.descriptor, needs, trash.descriptor, name)
        except OSError as error:
            if error.errno in CANNOT_EXCHANGE:
                return self._cannot_move(session, error)
            return self._not_renamed(candidate, error)
        places = Places(self._sessions.descriptor, session.name, trash.descriptor, name, needs, record)
        try:
            if places.exchange():
                if identity_at(name, trash.descriptor) == session.identity:
                    candidate.trash_name, candidate.places = name, places
                    return None
                exchange(session.name, self._sessions.descriptor, name, trash.descriptor)
            places.complete()
        except OSError as error:
            with suppress(OSError):
                found = identity_at(name, trash.descriptor)
                if found[1] == record.directory:
                    discard(trash.descriptor, name, needs)
                elif found == session.identity:  # the error came after the exchange
                    places.bring_back()
            if error.errno not in CANNOT_EXCHANGE:
                return self._not_renamed(candidate, error)
            if error.errno != errno.EXDEV:  # overlayfs cannot move directories of a lower layer, but others
                self._cannot_exchange = error
            return self._not_exchanged(candidate, error)
        return _changed(session)

    def _not_exchanged(self, candidate: Candidate, error: OSError) -> Outcome:
        failure = Failure.of("rename", self._sessions.shown, OSError(error.errno, cannot_exchange_text(error)))
        return _kept_like_others(candidate.session, Reason.CANNOT_MOVE, failure)

    def _recheck_name(self, candidate: Candidate, trash: TrashDirectory) -> Outcome | None:
        """Check that the session is the one that was moved, and that its chat has its messages."""
        session = candidate.session
        try:
            if identity_at(candidate.trash_name, trash.descriptor) != session.identity:
                return _changed(session)
            if candidate.places and not candidate.places.is_unchanged():
                return _changed(session, "Arawn replaced its messages meanwhile")
        except OSError as error:
            return _failed(session, Failure.of("check", f"{trash.shown}/{candidate.trash_name}", error))
        return None

    def _rename_entry(self, candidate: Candidate, name: str, trash: TrashDirectory) -> Outcome | None:
        try:
            os.rename(candidate.trash_name, name, src_dir_fd=trash.descriptor, dst_dir_fd=trash.descriptor)
        except OSError as error:
            return _failed(candidate.session, Failure.of("rename", f"{trash.shown}/{candidate.trash_name}", error))
        candidate.trash_name = name
        candidate.places = candidate.places and replace(candidate.places, entry=name)
        return None

    def _put_back(self, candidate: Candidate, trash: TrashDirectory) -> Outcome | None:
        """Undo the rename or exchange. On failure, the session stays PENDING for the next run."""
        try:
            if candidate.places:
                candidate.places.bring_back()
            else:
                move(candidate.trash_name, trash.descriptor, candidate.session.name, self._sessions.descriptor)
        except OSError as error:
            return _failed(candidate.session, Failure.of("rename", f"{trash.shown}/{candidate.trash_name}", error))
        return None

    def _delete(self, confirmed: Sequence[Candidate], trash: TrashDirectory) -> Iterator[Outcome]:
        """Delete sessions; the outcomes of some follow before the next ones are begun."""
        for part in portions(confirmed, lambda candidate: candidate.usage.files, _PART_MAX, _PART_FILES):
            names = [candidate.trash_name for candidate in part]
            failures = delete_trees(trash.descriptor, names, trash.shown, self._threads, self._stopping)
            yield from map(partial(self._deleted, trash), part, failures)

    def _deleted(self, trash: TrashDirectory, candidate: Candidate, failures: Sequence[Failure]) -> Outcome:
        """Return the outcome of a deletion, which a signal or a failure may have ended early."""
        removed = self._removed(candidate, Action.DELETED)
        if not failures:
            is_whole = not self._stopping() or not exists(candidate.trash_name, trash.descriptor)
            # The next run deletes the rest, and counts it. Measuring it now could take long.
            return removed if is_whole else replace(removed, freed_bytes=0)
        left = measure(trash.descriptor, candidate.trash_name, f"{trash.shown}/{candidate.trash_name}")
        if contents(left) == contents(candidate.usage):  # it is whole: put it back
            name = candidate.trash_name.replace(TrashState.DELETING, TrashState.PENDING, 1)
            outcome = self._rename_entry(candidate, name, trash) or self._put_back(candidate, trash)
            return outcome or replace(_not_moved(candidate.session, failures[0]), failures=tuple(failures))
        freed = freed_bytes(candidate.usage, left)
        return replace(removed, action=Action.FAILED, reason=Reason.IO_ERROR, freed_bytes=freed, failures=tuple(failures), detail="")

    def _removed(self, candidate: Candidate, action: Action) -> Outcome:
        freed = candidate.usage.freed_bytes if self._purge else 0
        planned = candidate.planned
        return Outcome(planned.session, action, planned.reason, freed, detail=planned.detail, removed_at=candidate.removed_at)

    def _cannot_move(self, session: ScratchSession, error: OSError) -> Outcome:
        failure = Failure.of("rename", f"{self._sessions.shown}/{session.name}", error)
        return Outcome(session, Action.KEPT, Reason.CANNOT_MOVE, failures=(failure,))

    def _not_renamed(self, candidate: Candidate, error: OSError) -> Outcome:
        if error.errno in _REPLACED:
            return _changed(candidate.session)
        if error.errno == errno.EBUSY:
            return _kept(candidate.session, Reason.MOUNT_INSIDE)
        return _not_moved(candidate.session, Failure.of("rename", f"{self._sessions.shown}/{candidate.session.name}", error))


def portions(items: Sequence[_Item], files_of: Callable[[_Item], int], most: int, most_files: int) -> Iterator[list[_Item]]:
    """Yield the items in portions of up to `most`, with up to `most_files` files or one item."""
    portion: list[_Item] = []
    files = 0
    for item in items:
        if portion and (len(portion) == most or files + files_of(item) > most_files):
            yield portion
            portion, files = [], 0
        portion.append(item)
        files += files_of(item)
    if portion:
        yield portion


def _files(decision: Decision) -> int:
    return decision.session.usage.files if decision.session.usage else 0


def _kept(session: ScratchSession, reason: Reason, detail: str = "") -> Outcome:
    return Outcome(session, Action.KEPT, reason, detail=detail)


def _changed(session: ScratchSession, what: str = MOVED) -> Outcome:
    return _kept(session, Reason.CHANGED_SINCE_PLAN, what)


def _kept_like_others(session: ScratchSession, reason: Reason, failure: Failure) -> Outcome:
    """Keep a session because of a failure that all share."""
    evidence = replace(session.evidence, shared_failures=(*session.evidence.shared_failures, failure))
    return _kept(replace(session, evidence=evidence), reason)


def _not_moved(session: ScratchSession, failure: Failure) -> Outcome:
    """Keep a session that the kernel did not let this account remove."""
    match failure.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Outcome(session, Action.KEPT, Reason.NOT_PERMITTED, detail=str(failure))
        case errno.EXDEV:
            return Outcome(session, Action.KEPT, Reason.CANNOT_MOVE, detail=str(failure))
        case _:
            return _failed(session, failure)


def _failed(session: ScratchSession, failure: Failure) -> Outcome:
    return Outcome(session, Action.FAILED, Reason.IO_ERROR, failures=(failure,))
