"""Moving sessions out of `sessions/`: the last look before each, the atomic rename, and the look after it.

A session is renamed into the trash and taken apart there. Right before the
rename it is looked at again; right after it, when no path leads into it any more,
once more, and a session that was used in between goes back to its place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

from arawn_cli.cleanup.sessions import Decision, Outcome, ScratchSession
from arawn_cli.cleanup.trash import Sessions, TrashDirectory, check_trash_writable, gone, name_for, open_trash, settled
from arawn_cli.errors import Failure
from arawn_cli.events import Action, Reason
from arawn_cli.fs.delete import PARALLEL_MIN_FILES, delete_tree, freed_bytes, thread_pool
from arawn_cli.fs.in_use import PATIENCE_SECS, directories_in_use, mounted_in
from arawn_cli.fs.measure import Usage, measure
from arawn_cli.fs.mounts import lies_inside, mount_points
from arawn_cli.fs.openat import Identity, identity_at, identity_of, open_directory, require_writable
from arawn_cli.locks import try_lock

# Sessions renamed between two scans of the processes; each holds a descriptor and its lock meanwhile.
_BATCH = 32


_NOT_THE_SAME = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


Look = Callable[[ScratchSession, int, str], Decision]
"""The plan for a session, made again from what it is now at a name in an open directory."""


@dataclass(slots=True)
class _Hand:
    """A session in hand; its lock is held until the batch ends. `name` is the one it has in the trash."""

    session: ScratchSession
    usage: Usage
    name: str = ""


class Remover:
    """Removes due sessions, or in a dry run says what it would remove, by the same checks."""

    def __init__(
        self,
        sessions: Sessions,
        look: Look,
        clock: Callable[[], int],
        stopping: Callable[[], bool],
        *,
        purge: bool,
        dry_run: bool,
        threads: int,
    ) -> None:
        """`purge` takes removed sessions apart at once, by so many threads; without it they stay in the trash."""
        self._sessions = sessions
        self._look = look
        self._clock = clock
        self._stopping = stopping
        self._purge = purge
        self._dry_run = dry_run
        self._threads = threads
        self._patience_secs = PATIENCE_SECS

    def remove(self, due: Sequence[ScratchSession]) -> Iterator[Outcome]:
        """What becomes of each due session, one after the other; once stopping, no further one is begun."""
        for start in range(0, len(due), _BATCH):
            if self._stopping():
                return
            with ExitStack() as stack:
                yield from self._batch(due[start : start + _BATCH], stack)

    def _batch(self, due: Sequence[ScratchSession], stack: ExitStack) -> Iterator[Outcome]:
        hands: list[_Hand] = []
        for session in due:
            if self._stopping():
                break
            examined = self._examine(session, stack)
            if isinstance(examined, Outcome):
                yield examined
            else:
                hands.append(examined)
        try:
            obstacles = _obstacles(hands, self._patience_secs)
        except OSError as error:
            self._patience_secs = 0  # what stays hidden is waited for once, and not for each batch
            yield from (_in_doubt(hand.session, error) for hand in hands)
            return
        yield from (_skipped(hand.session, reason) for hand in hands if (reason := obstacles.get(hand.session.identity)))
        if free := [hand for hand in hands if hand.session.identity not in obstacles]:
            yield from self._carried_out(free, stack)

    def _carried_out(self, free: Sequence[_Hand], stack: ExitStack) -> Iterator[Outcome]:
        """What becomes of sessions that nothing speaks against."""
        try:
            place = None if self._dry_run else stack.enter_context(open_trash(self._sessions))
            if place is None:
                check_trash_writable(self._sessions)
        except OSError as error:
            failure = Failure.of("openat", f"{self._sessions.shown}/../.trash", error)
            yield from (_failed(hand.session, failure) for hand in free)
            return
        if place is None:
            yield from (self._would_go(hand) for hand in free)
        else:
            yield from self._remove(free, place)

    def _would_go(self, hand: _Hand) -> Outcome:
        """A directory that moves to another parent has to be writable itself."""
        try:
            require_writable(hand.session.name, self._sessions.descriptor)
        except OSError as error:
            return self._not_renamed(hand, error)
        return self._gone(hand, Action.WOULD_DELETE)

    def _examine(self, session: ScratchSession, stack: ExitStack) -> _Hand | Outcome:
        """The last look before the rename: a session in hand, or what speaks against removing it."""
        try:
            descriptor = open_directory(session.name, self._sessions.descriptor)
            stack.callback(os.close, descriptor)
            if identity_of(os.fstat(descriptor)) != session.identity or not self._sessions.stand():
                return _skipped(session, Reason.CHANGED_SINCE_PLAN)
            if not try_lock(descriptor):
                return _skipped(session, Reason.LOCKED)
            path = f"{self._sessions.path}/{session.name}"
            if any(lies_inside(mount, path) for mount in mount_points()):
                return _skipped(session, Reason.MOUNT_INSIDE)
            now = self._look(session, self._sessions.descriptor, session.name)
        except OSError as error:
            if error.errno in _NOT_THE_SAME:
                return _skipped(session, Reason.CHANGED_SINCE_PLAN)
            return _failed(session, Failure.of("openat", f"{self._sessions.shown}/{session.name}", error))
        return _Hand(session, now.session.usage) if now.goes and now.session.usage else _skipped(now.session, now.reason)

    def _remove(self, free: Sequence[_Hand], place: TrashDirectory) -> Iterator[Outcome]:
        moved: list[_Hand] = []
        for hand in free:
            if self._stopping():
                break
            refusal = self._rename(hand, place)
            if refusal:
                yield refusal
            else:
                moved.append(hand)
        try:
            obstacles = _obstacles(moved, self._patience_secs)
        except OSError as error:
            yield from [self._put_back(hand, place) or _in_doubt(hand.session, error) for hand in moved]
            return
        verdicts = [self._settle(hand, place, obstacles) for hand in moved]
        yield from (verdict for verdict in verdicts if verdict)
        gone = [hand for hand, verdict in zip(moved, verdicts, strict=True) if not verdict]
        if not self._purge:
            yield from (self._gone(hand, Action.DELETED) for hand in gone)
            return
        large = any(hand.usage.files >= PARALLEL_MIN_FILES for hand in gone)
        with thread_pool(self._threads if large else 0) as files, thread_pool(min(self._threads, len(gone))) as sessions:
            run_map = map if sessions is None else sessions.map
            yield from run_map(lambda hand: self._take_apart(hand, place, files), gone)

    def _rename(self, hand: _Hand, place: TrashDirectory) -> Outcome | None:
        hand.name = name_for(hand.session.name, self._clock(), prefix=place.prefix)
        try:
            os.rename(hand.session.name, hand.name, src_dir_fd=self._sessions.descriptor, dst_dir_fd=place.descriptor)
        except OSError as error:
            if error.errno in _NOT_THE_SAME:
                return _skipped(hand.session, Reason.CHANGED_SINCE_PLAN)
            if error.errno == errno.EBUSY:
                return _skipped(hand.session, Reason.MOUNT_INSIDE)
            return self._not_renamed(hand, error)
        return None

    def _not_renamed(self, hand: _Hand, error: OSError) -> Outcome:
        return _failed(hand.session, Failure.of("renameat", f"{self._sessions.shown}/{hand.session.name}", error))

    def _settle(self, hand: _Hand, place: TrashDirectory, obstacles: Mapping[Identity, Reason]) -> Outcome | None:
        """The look after the rename: a session that somebody reached before it goes back."""
        try:
            now = self._reached(hand, place, obstacles)
            if now.goes and now.session.usage:
                hand.usage = now.session.usage
                final = gone(hand.name) if self._purge else settled(hand.name)
                os.rename(hand.name, final, src_dir_fd=place.descriptor, dst_dir_fd=place.descriptor)
                hand.name = final
                return None
        except OSError as error:
            return self._put_back(hand, place) or _failed(hand.session, Failure.of("openat", f"{place.shown}/{hand.name}", error))
        return self._put_back(hand, place) or _skipped(now.session, now.reason)

    def _reached(self, hand: _Hand, place: TrashDirectory, obstacles: Mapping[Identity, Reason]) -> Decision:
        if identity_at(hand.name, place.descriptor) != hand.session.identity or not self._sessions.stand():
            return Decision(hand.session, Reason.CHANGED_SINCE_PLAN)
        if any(lies_inside(mount, f"{place.path}/{hand.name}") for mount in mount_points()):
            return Decision(hand.session, Reason.MOUNT_INSIDE)
        if obstacle := obstacles.get(hand.session.identity):
            return Decision(hand.session, obstacle)
        return self._look(hand.session, place.descriptor, hand.name)

    def _put_back(self, hand: _Hand, place: TrashDirectory) -> Outcome | None:
        """Undoes the rename; where the name is taken again by now, the session stays held in the trash, whole."""
        try:
            os.rename(hand.name, hand.session.name, src_dir_fd=place.descriptor, dst_dir_fd=self._sessions.descriptor)
        except OSError as error:
            return _failed(hand.session, Failure.of("renameat", f"{place.shown}/{hand.name}", error))
        return None

    def _take_apart(self, hand: _Hand, place: TrashDirectory, files: ThreadPoolExecutor | None) -> Outcome:
        pool = files if hand.usage.files >= PARALLEL_MIN_FILES else None
        failures = delete_tree(place.descriptor, hand.name, f"{place.shown}/{hand.name}", self._stopping, pool)
        if not failures and not self._stopping():
            return self._gone(hand, Action.DELETED)
        left = measure(place.descriptor, hand.name, f"{place.shown}/{hand.name}")
        freed = freed_bytes(hand.usage, left)
        if failures:
            return Outcome(hand.session, Action.FAILED, Reason.IO_ERROR, freed, tuple(failures))
        return Outcome(hand.session, Action.DELETED, Reason.EXPIRED, freed)

    def _gone(self, hand: _Hand, action: Action) -> Outcome:
        return Outcome(hand.session, action, Reason.EXPIRED, hand.usage.freed_bytes if self._purge else 0)


def _obstacles(hands: Sequence[_Hand], patience_secs: float) -> dict[Identity, Reason]:
    """Which of the sessions have a live process or a mount in them, asked once for all."""
    directories = {hand.session.identity for hand in hands}
    if not directories:
        return {}
    mounted = dict.fromkeys(mounted_in(directories), Reason.MOUNT_INSIDE)
    return mounted | dict.fromkeys(directories_in_use(directories, patience_secs), Reason.IN_USE)


def _skipped(session: ScratchSession, reason: Reason) -> Outcome:
    return Outcome(session, Action.KEPT, reason)


def _in_doubt(session: ScratchSession, error: OSError) -> Outcome:
    """A session of which nobody can tell whether it is in use; the failure is one for all."""
    failure = Failure.of("readlink", error.filename or "/proc", error)
    evidence = replace(session.evidence, shared_failures=(*session.evidence.shared_failures, failure))
    return _skipped(replace(session, evidence=evidence), Reason.ACTIVITY_UNKNOWN)


def _failed(session: ScratchSession, failure: Failure) -> Outcome:
    return Outcome(session, Action.FAILED, Reason.IO_ERROR, failures=(failure,))
