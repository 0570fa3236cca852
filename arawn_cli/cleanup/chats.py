"""Remove the files of a session and leave what its chat needs: exchange its directory for a small one.

The chat needs `work/` on Arawn 0.0, which may be empty, and `messages.jsonl` on its main branch. A new
directory with a hard link to that file, or with an empty `work/`, is built in the trash and exchanged
with the session's directory, which thereby becomes an entry of the trash. No step leaves the session
without what its chat needs.

Arawn replaces `messages.jsonl` by a rename when history is edited, and moves it away when the session
is promoted. If it does that between the link and the exchange, the session has the old file for a
moment. So the two are compared after the exchange. If they differ, the exchange is undone, and lines
that were appended to the old file meanwhile are appended to the new one.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from arawn_cli.arawn.layout import SCRATCH, Generation, Layout
from arawn_cli.arawn.root import Root, workstream_entries
from arawn_cli.cleanup.sessions import ScratchSession
from arawn_cli.cleanup.trash_entry import Exchanged, deleting_name, exchanged_name
from arawn_cli.config.loader import Config
from arawn_cli.events import ChatResult
from arawn_cli.fs.exchange import copy_attributes, exchange, rename_new, why_no_exchange
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import Identity, identity_at, identity_of, open_directory, opened_directory
from arawn_cli.names import escape

_TRIES = 100  # how often `messages.jsonl` may be replaced at the moment of an exchange
_LOOK_AGAIN_SECS = 0.02
_DEPTH_MAX = 200  # levels of directories that exist on both sides
_LISTED_MAX = 1000
_NONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class ChatNeeds:
    """The entry of a session's directory that its chat needs: a file on main, a directory in 0.0."""

    name: str
    is_file: bool

    @classmethod
    def of(cls, layout: Layout) -> ChatNeeds:
        """Return what a chat needs in this layout."""
        return cls(layout.kept, layout.generation is not Generation.V0)

    @classmethod
    def to_keep(cls, config: Config, layout: Layout) -> ChatNeeds | None:
        """Return what a removal leaves, or None if chats are not kept."""
        configured = config.maintenance.cleanup.keep_chats
        keeps = layout.generation is not Generation.V0 if configured is None else configured
        return cls.of(layout) if keeps else None


def chat_result(config: Config, layout: Layout) -> ChatResult:
    """Return what a removal means for chats."""
    if ChatNeeds.to_keep(config, layout):
        return ChatResult.KEPT
    return ChatResult.WITHOUT_FILES if layout.generation is Generation.V0 else ChatResult.DELETED


# ---- What a removal would take away


def removable(sessions: Sequence[ScratchSession], measured: Mapping[str, Usage], directory: int, needs: ChatNeeds | None) -> _Removable:
    """Return the sessions and their usages without what their chats need.

    A session that consists only of that has nothing to remove; it is left out. `directory` is that of
    the sessions.
    """
    if needs is None:
        return list(sessions), dict(measured)
    usages: dict[str, Usage] = {}
    empty: set[str] = set()
    for name, usage in measured.items():
        if usage.files <= 1 and usage.directories <= 2 and _has_nothing_else(directory, name, needs):
            empty.add(name)
        usages[name] = without_needs(usage, directory, name, needs)
    return [session for session in sessions if session.name not in empty], usages


_Removable = tuple[list[ScratchSession], dict[str, Usage]]


def without_needs(usage: Usage, directory: int, name: str, needs: ChatNeeds | None) -> Usage:
    """Return the usage of a session, which is the entry `name`, without the file that its chat needs."""
    if needs is None or not needs.is_file:
        return usage
    with suppress(OSError), opened_directory(directory, name) as session:
        status = os.stat(needs.name, dir_fd=session, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return usage.without_file(status)
    return usage


def _has_nothing_else(directory: int, name: str, needs: ChatNeeds) -> bool:
    try:
        with opened_directory(directory, name) as session:
            if _some_names(session, 2) != [needs.name]:
                return False
            if needs.is_file:
                return stat.S_ISREG(os.stat(needs.name, dir_fd=session, follow_symlinks=False).st_mode)
            with opened_directory(session, needs.name) as work:
                return not _some_names(work, 1)
    except OSError:
        return False


def why_chats_cannot_be_kept(config: Config, root: Root, sessions: int, needs: ChatNeeds) -> OSError | None:
    """Return why the filesystem of the sessions cannot exchange directories, or None if it can.

    The trial is made outside of Arawn's directories, if there is such a place on the same filesystem.
    """
    state = config.state_directory
    places = [state, Path("/tmp"), Path("/var/tmp"), *state.parents, *root.path.parents, root.path]  # noqa: S108
    return why_no_exchange(sessions, places, hard_links=needs.is_file)


def cannot_exchange_text(error: OSError) -> str:
    """Say why the chats of sessions cannot be kept, and what to do."""
    reason = error.strerror or os.strerror(error.errno or errno.EIO)
    return (
        f"the filesystem cannot exchange two directories ({reason}), so no session can be removed and its chat kept; "
        "to remove sessions with their chats, set [maintenance.cleanup] keep_chats = false"
    )


# ---- Exchange


def check_preparable(session: int, needs: ChatNeeds) -> bool:
    """Check that the directory for the chat of an open session can be built; false if it needs none.

    Raises:
        OSError: what the chat needs is of the wrong type, or this account cannot make a directory
            with the same owner.
    """
    try:
        status = os.stat(needs.name, dir_fd=session, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if needs.is_file and not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{needs.name} is not a regular file, so the chat cannot be kept")
    if not needs.is_file and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.ENOTDIR, f"{needs.name} is not a directory, so the chat cannot be kept")
    # protected_hardlinks of proc_sys_fs(5)
    if needs.is_file and os.geteuid() not in (0, status.st_uid) and not os.access(needs.name, os.R_OK | os.W_OK, dir_fd=session):
        raise PermissionError(errno.EPERM, f"{needs.name} belongs to user {status.st_uid}: this account cannot link it")
    groups = {os.getegid(), *os.getgroups()}
    for owned in (os.fstat(session), *(() if needs.is_file else (status,))):
        if os.geteuid() != 0 and (owned.st_uid != os.geteuid() or owned.st_gid not in groups):
            raise PermissionError(errno.EPERM, f"only root can make another directory of user {owned.st_uid} and group {owned.st_gid}")
    return True


def prepare(session: int, needs: ChatNeeds, trash: int, pending: str) -> str:
    """Build the directory for the chat of an open session in the trash; return its name there.

    Until it is complete its name is that of an entry that is being deleted. `pending` is the name for
    the session in the trash.

    Raises:
        OSError: that failed; nothing is left.
    """
    building = deleting_name(pending)
    try:
        _make_directory(building, trash, session)
    except OSError as error:
        raise _explained(error) from error
    try:
        with opened_directory(trash, building) as target:
            messages = None
            if needs.is_file:
                os.link(needs.name, needs.name, src_dir_fd=session, dst_dir_fd=target, follow_symlinks=False)
                messages = os.stat(needs.name, dir_fd=target, follow_symlinks=False)
                if not stat.S_ISREG(messages.st_mode):
                    raise OSError(errno.EINVAL, f"{needs.name} is not a regular file")
            else:
                with opened_directory(session, needs.name) as old:
                    _make_directory(needs.name, target, old)
                    with opened_directory(target, needs.name) as new:
                        copy_attributes(old, new)
            copy_attributes(session, target)
            name = exchanged_name(pending, _exchanged(os.fstat(target).st_ino, messages))
        os.rename(building, name, src_dir_fd=trash, dst_dir_fd=trash)
    except OSError as error:
        discard(trash, building, needs)
        raise _explained(error) from error
    return name


def _explained(error: OSError) -> OSError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    reason = (
        f"no space for the directory that its chat needs ({error.strerror}): free some, or set [maintenance.cleanup] keep_chats = false"
    )
    return OSError(error.errno, reason)


def _make_directory(name: str, parent: int, like: int) -> None:
    """Make a directory with the permissions of another, and write access for its owner.

    It inherits S_ISGID; with `RestrictSUIDSGID=` of systemd no later chmod could set that.
    """
    umask = os.umask(0)
    try:
        os.mkdir(name, os.fstat(like).st_mode & 0o777 | stat.S_IRWXU, dir_fd=parent)
    finally:
        os.umask(umask)


def discard(trash: int, name: str, needs: ChatNeeds) -> None:
    """Remove a directory that `prepare` has built and that is not in use; nothing else is in it."""
    with suppress(OSError), opened_directory(trash, name) as prepared:
        os.fchmod(prepared, 0o700)
        (os.unlink if needs.is_file else os.rmdir)(needs.name, dir_fd=prepared)
    os.rmdir(name, dir_fd=trash)


@dataclass(frozen=True, slots=True)
class Places:
    """A session's two directories: the entry `session` of `sessions`, and the entry `entry` of `trash`."""

    sessions: int
    session: str
    trash: int
    entry: str
    needs: ChatNeeds
    record: Exchanged

    def exchange(self) -> bool:
        """Exchange the two; undo that if messages were replaced since they were linked. Return whether it is done.

        Raises:
            OSError: the filesystem cannot exchange, or one of the two is missing.
        """
        exchange(self.session, self.sessions, self.entry, self.trash)
        in_trash = self._in_trash()
        if not self.needs.is_file or (in_trash[1] if in_trash else 0) == self.record.messages or self.has_same_messages():
            return True
        self._undo()
        return False

    def has_same_messages(self) -> bool:
        """Whether both directories have the same `messages.jsonl`, or both none."""
        return not self.needs.is_file or self._in_place() == self._in_trash()

    def bring_back(self, root: Root, *, pending: bool) -> None:
        """Put the session's own directory in place, with everything that was written to the other one.

        The `messages.jsonl` in place stays the valid one. `pending` means that the run that exchanged
        the two may have been killed before it compared them. A killed call is completed by another.

        Raises:
            FileExistsError: a file of the same name is in both directories; the error names it.
            OSError: an operation failed. The entry stays in the trash.
        """
        places = self
        for _ in range(_TRIES):
            moved = _moved_messages(root, self.session) if self.needs.is_file else frozenset()
            places._drop_moved_messages(moved)
            if pending and places._is_stale_in_place():
                places._undo()
            if identity_at(places.entry, places.trash)[1] == places.record.directory:
                break
            places._refuse_conflicts()
            places._share_messages(pending=pending)
            places = places._recorded()
            pending = True
            if places.exchange():
                break
        else:
            raise OSError(errno.EBUSY, f"{self.needs.name} is replaced all the time")
        places.complete()

    def _undo(self) -> None:
        """Exchange the two; the old messages, which were in place, may have got new lines since they were linked."""
        self._adopt_lines(stale=(self.sessions, self.session), valid=(self.trash, self.entry))
        exchange(self.session, self.sessions, self.entry, self.trash)
        self._adopt_lines_in_place()

    def _adopt_lines_in_place(self) -> None:
        """Append to the messages in place the lines of those in the trash that they lack.

        A program that replaces them by what it had read before would drop these lines, so look again
        until they stay.
        """
        for _ in range(_TRIES):
            if not self._adopt_lines(stale=(self.trash, self.entry), valid=(self.sessions, self.session)):
                return
            time.sleep(_LOOK_AGAIN_SECS)

    def _adopt_lines(self, stale: tuple[int, str], valid: tuple[int, str]) -> bool:
        """Append to the valid messages the lines of the stale ones that they lack; return whether there were any.

        Of the linked file these are at most the lines that were added since; if the stale file was
        replaced, too, nothing shows which lines are new.
        """
        with _opened_kept(*stale, self.needs, os.O_RDONLY) as old, _opened_kept(*valid, self.needs, os.O_RDWR | os.O_APPEND) as new:
            if old is None or new is None or _identity(old) == _identity(new):
                return False
            with open(old, "rb", closefd=False) as lines:
                lines.seek(self.record.size if os.fstat(old).st_ino == self.record.messages else 0)
                added = lines.readlines()
            if not added:
                return False
            with open(new, "rb", closefd=False) as lines:
                missing = dict.fromkeys(added)
                last = b"\n"
                for last in lines:
                    missing.pop(last, None)
            if missing:
                os.write(new, (b"" if last.endswith(b"\n") else b"\n") + b"".join(missing))
            return bool(missing)

    def _is_stale_in_place(self) -> bool:
        """Whether the messages in place are the linked ones, and those in the trash had replaced them."""
        in_place, in_trash = self._in_place(), self._in_trash()
        return in_place is not None and in_trash is not None and in_trash != in_place and in_place[1] == self.record.messages

    def _drop_moved_messages(self, moved: frozenset[Identity]) -> None:
        """Unlink messages that Arawn has moved to a workstream, and their older versions."""
        if not moved:
            return
        if self._in_place() in moved:
            with opened_directory(self.sessions, self.session) as session:
                os.unlink(self.needs.name, dir_fd=session)
        in_trash = self._in_trash()
        if in_trash in moved or (in_trash is not None and self._in_place() is None and in_trash[1] == self.record.messages):
            with opened_directory(self.trash, self.entry) as entry:
                os.unlink(self.needs.name, dir_fd=entry)

    def _share_messages(self, *, pending: bool) -> None:
        """Give the directory in the trash the messages in place."""
        if not self.needs.is_file or self._in_place() in (None, self._in_trash()):
            return
        if pending:
            self._adopt_replaced()
        with opened_directory(self.sessions, self.session) as session, opened_directory(self.trash, self.entry) as entry:
            with suppress(FileNotFoundError):
                os.unlink(self.needs.name, dir_fd=entry)
            with suppress(FileNotFoundError):
                os.link(self.needs.name, self.needs.name, src_dir_fd=session, dst_dir_fd=entry, follow_symlinks=False)

    def _recorded(self) -> Places:
        """Rename the entry: it is pending, and its name records the messages of now and the directory in place."""
        with opened_directory(self.sessions, self.session) as session:
            messages = None
            with suppress(FileNotFoundError):
                messages = os.stat(self.needs.name, dir_fd=session, follow_symlinks=False) if self.needs.is_file else None
            record = _exchanged(os.fstat(session).st_ino, messages)
        name = exchanged_name(self.entry, record)
        os.rename(self.entry, name, src_dir_fd=self.trash, dst_dir_fd=self.trash)
        return replace(self, entry=name, record=record)

    def _refuse_conflicts(self) -> None:
        skip = self.needs.name if self.needs.is_file else None
        with opened_directory(self.sessions, self.session) as written, opened_directory(self.trash, self.entry) as restored:
            _refuse_conflicts(written, restored, skip, "")

    def complete(self) -> None:
        """Move what is in the directory in the trash to the one in place, and remove it."""
        skip = self.needs.name if self.needs.is_file else None
        with opened_directory(self.trash, self.entry) as source, opened_directory(self.sessions, self.session) as target:
            status = os.fstat(source)
            if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.fchmod(source, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
            if skip is not None:
                self._complete_messages(source, target)
            _move_all(source, target, skip, "")
        os.rmdir(self.entry, dir_fd=self.trash)

    def _complete_messages(self, source: int, target: int) -> None:
        in_place, in_trash = self._in_place(), self._in_trash()
        if in_trash is None:
            return
        if in_place is None and os.stat(self.needs.name, dir_fd=source, follow_symlinks=False).st_nlink == 1:
            rename_new(self.needs.name, source, self.needs.name, target)
            return
        self._adopt_replaced()
        os.unlink(self.needs.name, dir_fd=source)

    def _adopt_replaced(self) -> None:
        """Append the lines of the messages in the trash to those in place, if they had been replaced, too."""
        in_trash = self._in_trash()
        if in_trash is not None and in_trash[1] != self.record.messages:
            self._adopt_lines_in_place()

    def _in_place(self) -> Identity | None:
        return _kept_identity(self.sessions, self.session, self.needs)

    def _in_trash(self) -> Identity | None:
        return _kept_identity(self.trash, self.entry, self.needs)


def _exchanged(directory: int, messages: os.stat_result | None) -> Exchanged:
    return Exchanged(directory, messages.st_ino if messages else 0, messages.st_size if messages else 0)


def _identity(descriptor: int) -> Identity:
    return identity_of(os.fstat(descriptor))


def _kept_identity(directory: int, name: str, needs: ChatNeeds) -> Identity | None:
    """Return the identity of what the chat needs in the entry `name`, or None if it is not there."""
    try:
        with opened_directory(directory, name) as session:
            return identity_at(needs.name, session)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise


@contextmanager
def _opened_kept(directory: int, name: str, needs: ChatNeeds, mode: int) -> Iterator[int | None]:
    """Open the regular file that the chat needs, or yield None if there is none."""
    descriptor = None
    try:
        with opened_directory(directory, name) as session:
            descriptor = os.open(needs.name, mode | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=session)
    except OSError as error:
        if error.errno not in _NONE:
            raise
    try:
        yield descriptor if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _moved_messages(root: Root, session: str) -> frozenset[Identity]:
    """Return the messages of a session in workstreams other than scratch."""
    found: set[Identity] = set()
    for workstream in workstream_entries(root)[0]:
        if workstream == SCRATCH:
            continue
        with suppress(FileNotFoundError, NotADirectoryError), opened_directory(root.workstreams, workstream, session) as directory:
            found.add(identity_at(root.layout.kept, directory))
    return frozenset(found)


# ---- Merging two directories


def _some_names(directory: int, most: int) -> list[str]:
    with os.scandir(directory) as listing:
        return [entry.name for entry in islice(listing, most)]


def _refuse_conflicts(written: int, restored: int, skip: str | None, shown: str, depth: int = 0) -> None:
    """Check that no name but those of directories is in both directories, nor in directories below."""
    with os.scandir(written) as listing:
        for entry in listing:
            if entry.name == skip:
                continue
            try:
                identity_at(entry.name, restored)
            except FileNotFoundError:
                continue
            with _opened_both(entry.name, written, restored, shown, depth) as (inner_written, inner_restored):
                _refuse_conflicts(inner_written, inner_restored, None, f"{shown}{entry.name}/", depth + 1)


def _move_all(source: int, target: int, skip: str | None, shown: str, depth: int = 0) -> None:
    """Move everything in `source` to `target`, and merge directories that are in both."""
    while names := [name for name in _some_names(source, _LISTED_MAX) if name != skip]:
        for name in names:
            try:
                rename_new(name, source, name, target)
            except FileExistsError:
                with _opened_both(name, source, target, shown, depth) as (inner_source, inner_target):
                    _move_all(inner_source, inner_target, None, f"{shown}{name}/", depth + 1)
                os.rmdir(name, dir_fd=source)


@contextmanager
def _opened_both(name: str, first: int, second: int, shown: str, depth: int) -> Iterator[tuple[int, int]]:
    """Open two directories of this name; if one is no directory, the name exists twice."""
    if depth >= _DEPTH_MAX:
        raise _twice(f"{shown}{name}")
    descriptors: list[int] = []
    try:
        try:
            descriptors += [open_directory(name, first)]
            descriptors += [open_directory(name, second)]
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise _twice(f"{shown}{name}") from error
            raise
        yield descriptors[0], descriptors[1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _twice(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, f"{escape(path)} is in the session and in the trash: rename or remove the one in the session")
