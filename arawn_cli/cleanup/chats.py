"""Remove a session but keep its chat: exchange its directory for a small one.

The chat needs `work/` on Arawn 0.0, which may be empty, and `messages.jsonl` on its main branch. A
new directory with a hard link to that file, or with an empty `work/`, is built in the trash and
exchanged with the session's directory, which thereby becomes an entry of the trash. No step leaves
the session without the entry that its chat needs.

Arawn replaces `messages.jsonl` by a rename when history is edited, and moves it away when the
session is promoted. If it does that between the link and the exchange, the session has the old file
for a moment. No system call exchanges two directories on the condition that a file is still the
same, so the link is made right before the exchange, and both files are compared right after it. If
they differ, the exchange is undone, and lines that were appended to the old file meanwhile are
appended to the new one. One case remains: a program replaces the file between link and exchange,
reads the old one before the exchange is undone, and writes the old content back after the last look
for missing lines.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from arawn_cli.arawn.layout import V0, Layout
from arawn_cli.arawn.root import Root
from arawn_cli.cleanup.sessions import ScratchSession
from arawn_cli.cleanup.trash_entry import Exchanged, deleting_name, exchanged_name, parse_entry
from arawn_cli.cleanup_events import ChatResult
from arawn_cli.config.loader import Config
from arawn_cli.fs.exchange import copy_attributes, exchange, move_all, refuse_conflicts, rename_new, some_names, why_no_exchange, writable
from arawn_cli.fs.mounts import filesystem_of
from arawn_cli.fs.openat import identity_at, opened_directory, opened_file
from arawn_cli.fs.system_calls import birth_time
from arawn_cli.fs.usage import Usage
from arawn_cli.timestamps import SECOND

_TRIES = 10  # how often `messages.jsonl` may be replaced at the moment of an exchange
_LOOKS, _LOOK_AGAIN_SECS = 50, 0.02
_BUILDING_MAX = 60 * SECOND  # from the removal in the name of an entry to the directory that `prepare` makes


@dataclass(frozen=True, slots=True)
class ChatNeeds:
    """The entry that a chat needs: `messages.jsonl` on main, the directory `work/` in 0.0."""

    name: str
    is_file: bool

    @classmethod
    def of(cls, layout: Layout) -> ChatNeeds:
        """Return the entry that a chat needs in this layout."""
        return cls(layout.kept, layout is not V0)

    @classmethod
    def to_keep(cls, config: Config, layout: Layout) -> ChatNeeds | None:
        """Return the entry that a removal leaves, or None if chats are not kept."""
        configured = config.maintenance.cleanup.keep_chats
        keeps = layout is not V0 if configured is None else configured
        return cls.of(layout) if keeps else None


def chat_result(config: Config, layout: Layout) -> ChatResult:
    """Return the effect of a removal on chats."""
    if ChatNeeds.to_keep(config, layout):
        return ChatResult.KEPT
    return ChatResult.WITHOUT_FILES if layout is V0 else ChatResult.DELETED


# ---- The part that a removal takes away


def removable(
    sessions: Sequence[ScratchSession], measured: Mapping[str, Usage], directory: int, needs: ChatNeeds | None
) -> tuple[list[ScratchSession], dict[str, Usage]]:
    """Return the sessions and their usages without the entries that their chats need.

    A session that consists only of such an entry has nothing to remove; it is left out. `directory`
    is that of the sessions.
    """
    if needs is None:
        return list(sessions), dict(measured)
    small = {name for name, usage in measured.items() if usage.files <= 1 and usage.directories <= 2}
    empty = {name for name in small if _has_nothing_else(directory, name, needs)}
    usages = {name: without_needs(usage, directory, name, needs) for name, usage in measured.items()}
    return [session for session in sessions if session.name not in empty], usages


def without_needs(usage: Usage, directory: int, name: str, needs: ChatNeeds | None) -> Usage:
    """Return the usage of the session `name` without the file that its chat needs."""
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
            if some_names(session, 2) != [needs.name]:
                return False
            if needs.is_file:
                return stat.S_ISREG(os.stat(needs.name, dir_fd=session, follow_symlinks=False).st_mode)
            with opened_directory(session, needs.name) as work:
                return not some_names(work, 1)
    except OSError:
        return False


def why_chats_cannot_be_kept(config: Config, root: Root, sessions: int, needs: ChatNeeds) -> OSError | None:
    """Return why the filesystem of the sessions cannot exchange directories, or None if it can.

    The trial is made outside of Arawn's directories, if there is such a place on the same
    filesystem.
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


def chats_that_fit(sessions: int, needs: ChatNeeds, *, reserved: int) -> int | None:
    """Return for how many chats there are inodes, if `reserved` of them are needed elsewhere.

    Return None if it does not limit them. `sessions` is an open directory.

    Raises:
        OSError: the filesystem cannot be read.
    """
    found = filesystem_of(sessions)
    return max(found.free_inodes - reserved, 0) // (1 if needs.is_file else 2) if found.total_inodes else None


def no_space() -> OSError:
    """Return the error of `prepare` on a full filesystem."""
    return _explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


# ---- Exchange


def check_preparable(session: int, needs: ChatNeeds) -> bool:
    """Check that the chat directory of an open session can be built; false if it needs none.

    Raises:
        OSError: the entry that the chat needs is of the wrong type, or this account cannot make a
            directory with the same owner.
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


def prepare(session: int, needs: ChatNeeds, trash: int, pending: str) -> tuple[str, Exchanged]:
    """Build the directory for the chat of an open session in the trash.

    Return its name there, and the record in that name. Until then its name is that of an entry that
    is being deleted. `pending` is the name for the session in the trash. `Places.exchange` links
    `messages.jsonl`, as late as possible.

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
                messages = os.stat(needs.name, dir_fd=session, follow_symlinks=False)
                if not stat.S_ISREG(messages.st_mode):
                    raise OSError(errno.EINVAL, f"{needs.name} is not a regular file")
            else:
                with opened_directory(session, needs.name) as old:
                    _make_directory(needs.name, target, old)
                    with opened_directory(target, needs.name) as new:
                        copy_attributes(old, new)
            copy_attributes(session, target)
            record = _exchanged(os.fstat(target).st_ino, messages)
        name = exchanged_name(pending, record)
        os.rename(building, name, src_dir_fd=trash, dst_dir_fd=trash)
    except OSError as error:
        discard(trash, building, needs)
        raise _explained(error) from error
    return name, record


def _explained(error: OSError) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = (
            f"no space for the directory that its chat needs ({error.strerror}): free some, or set [maintenance.cleanup] keep_chats = false"
        )
    elif error.errno == errno.EPERM:  # the units that `schedule install` writes allow no fchown(2)
        reason = (
            f"cannot give the directory that its chat needs the group and mode of the session ({error.strerror}): "
            "in a systemd service, set Group= to the group of the sessions"
        )
    else:
        return error
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
    """The two directories of a session: `session` in `sessions`, and `entry` in `trash`."""

    sessions: int
    session: str
    trash: int
    entry: str
    needs: ChatNeeds
    record: Exchanged

    def exchange(self) -> bool:
        """Exchange both; undo it and return false if messages were replaced since they were linked.

        Raises:
            OSError: the filesystem cannot exchange, or one of the two is missing.
        """
        with self._opened() as (session, entry):
            if self.record.messages:
                with writable(self.entry, self.trash):
                    if not self._link_messages(session, entry):
                        return False
            exchange(self.session, self.sessions, self.entry, self.trash)
            if not self.needs.is_file or self._inode(session) == self.record.messages:
                return True
        self._undo()
        return False

    def _link_messages(self, session: int, entry: int) -> bool:
        """Link the recorded messages into the trash directory; false if they are not in place."""
        if self._inode(entry) == self.record.messages:
            return True
        try:
            os.link(self.needs.name, self.needs.name, src_dir_fd=session, dst_dir_fd=entry, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._inode(entry) == self.record.messages

    def _undo(self) -> None:
        """Exchange both back, and take over lines that the messages in place have gained."""
        with self._opened() as (stale, valid):
            self._drop_unfinished(valid)
            wanted = self._content(valid)
            exchange(self.session, self.sessions, self.entry, self.trash)
            self._take_over(stale, valid, wanted)

    def _take_over(self, stale: int, valid: int, wanted: bytes) -> None:
        """Append to the valid messages the wanted lines and new stale lines that they lack.

        A program that is replacing the messages may have read them before. Look again until no line
        is missing.
        """
        for pause in (0, *[_LOOK_AGAIN_SECS] * _LOOKS):
            time.sleep(pause)
            if not self._append_missing(valid, wanted + added_lines(self._content(stale), wanted, self.record.size)) and pause:
                break

    def _append_missing(self, directory: int, wanted: bytes) -> bool:
        """Append the lines that the messages in a directory lack; return whether there were any."""
        present = self._content(directory)
        missing = missing_lines(wanted, present) if self._inode(directory) else b""
        if missing:
            with suppress(FileNotFoundError), opened_file(self.needs.name, directory, os.O_WRONLY | os.O_APPEND) as messages:
                os.write(messages, missing if present.endswith(b"\n") else b"\n" + missing)
        return bool(missing)

    def is_unchanged(self) -> bool:
        """Whether both directories still have the messages that were linked."""
        with self._opened() as (session, entry):
            return self._inode(session) == self._inode(entry) == self.record.messages

    def refuse_conflicts(self) -> None:
        """Check that `bring_back` meets no file of the same name in both directories.

        Raises:
            FileExistsError: it does; the error names it.
        """
        if self._is_back():
            return
        with self._opened() as (written, restored):
            refuse_conflicts(written, restored, () if self._is_new_chat(written, restored) else self._skipped)

    def _is_new_chat(self, written: int, restored: int) -> bool:
        """Whether the directory in place was made later, and only the trash has the old history.

        Arawn creates a directory again that is gone, with an empty history.
        """
        old, made, entry = self._messages(restored), birth_time(written), parse_entry((), self.entry)
        if old is None or old.st_nlink > 1 or made is None or entry is None or made <= entry.removed_at + _BUILDING_MAX:
            return False
        return bool(missing_lines(self._content(restored), self._content(written)))

    def _is_back(self) -> bool:
        """Whether the session's own directory is in place, before the exchange or after another."""
        return identity_at(self.entry, self.trash)[1] == self.record.directory

    def bring_back(self) -> None:
        """Put the session's own directory back, with everything written to the other one.

        The `messages.jsonl` in place stays the valid one. A killed call is completed by another.

        Raises:
            FileExistsError: a file of the same name is in both directories; the error names it.
            OSError: an operation failed. The entry stays in the trash.
        """
        with writable(self.session, self.sessions), writable(self.entry, self.trash):
            places = self
            places._finish_comparison()
            for _ in range(_TRIES):
                if places._is_back():
                    break
                places.refuse_conflicts()
                places = places._made_ready()
                if places.exchange():
                    break
            else:
                raise OSError(errno.EBUSY, f"{self.needs.name} is replaced all the time")
            places.complete()

    def _finish_comparison(self) -> None:
        """Undo an exchange of a killed run if the messages in the trash replaced those in place."""
        with self._opened() as (session, entry):
            stale = self._inode(session) == self.record.messages != 0 and self._inode(entry) not in (0, self.record.messages)
        if stale:
            self._undo()

    def _made_ready(self) -> Places:
        """Prepare the trash directory for an exchange; record the messages in place in its name.

        Its own messages are unlinked unless nothing else has them. `exchange` links those in place.
        """
        with self._opened() as (session, entry):
            self._drop_unfinished(entry)
            messages, old = self._messages(session), self._messages(entry)
            if old and (messages.st_ino != old.st_ino if messages else old.st_nlink > 1):
                self._unlink_messages(entry, session)
            record = _exchanged(os.fstat(session).st_ino, messages)
        name = exchanged_name(self.entry, record)
        os.rename(self.entry, name, src_dir_fd=self.trash, dst_dir_fd=self.trash)
        return replace(self, entry=name, record=record)

    def complete(self) -> None:
        """Move the entries of the directory in the trash to the one in place, and remove it."""
        with self._opened() as (target, source):
            status = os.fstat(source)
            if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.fchmod(source, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
            self._drop_unfinished(source)
            move_all(source, target, self._skipped)
            self._complete_messages(source, target)
        os.rmdir(self.entry, dir_fd=self.trash)

    def _drop_unfinished(self, entry: int) -> None:
        """Unlink the temporary file of a replacement that lost its directory.

        If it came back, the next replacement could rename it in place of the new one, which it had
        opened in the other directory.
        """
        if self.needs.is_file:
            with suppress(FileNotFoundError):
                os.unlink(self._unfinished, dir_fd=entry)

    def _complete_messages(self, source: int, target: int) -> None:
        messages = self._messages(source)
        if messages and messages.st_nlink == 1 and not self._messages(target):
            rename_new(self.needs.name, source, self.needs.name, target)
        elif messages:
            self._unlink_messages(source, target)

    def _unlink_messages(self, entry: int, session: int) -> None:
        """Unlink the messages in the trash; add their lines if they arrived too late."""
        if self._inode(entry) not in (self.record.messages, self._inode(session)):
            self._take_over(entry, session, b"")
        os.unlink(self.needs.name, dir_fd=entry)

    @property
    def _unfinished(self) -> str:
        return f"{self.needs.name}.tmp"

    @property
    def _skipped(self) -> Collection[str]:
        return (self.needs.name, self._unfinished) if self.needs.is_file else ()

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        """Open the directory in place and the one in the trash."""
        with opened_directory(self.sessions, self.session) as session, opened_directory(self.trash, self.entry) as entry:
            yield session, entry

    def _messages(self, directory: int) -> os.stat_result | None:
        try:
            return os.stat(self.needs.name, dir_fd=directory, follow_symlinks=False) if self.needs.is_file else None
        except FileNotFoundError:
            return None

    def _content(self, directory: int) -> bytes:
        """Read the messages in an open directory; empty without a regular file."""
        try:
            with opened_file(self.needs.name, directory) as messages, open(messages, "rb", closefd=False) as file:
                return file.read()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EINVAL):
                return b""
            raise

    def _inode(self, directory: int) -> int:
        messages = self._messages(directory)
        return messages.st_ino if messages else 0


def added_lines(stale: bytes, valid: bytes, linked: int) -> bytes:
    """Return the lines that were appended to `stale` since `valid` replaced it.

    `valid` begins with the lines that its writer kept of `stale`, whose first `linked` bytes are
    older than the exchange.
    """
    kept = 0
    for old, new in zip(stale.splitlines(keepends=True), valid.splitlines(keepends=True), strict=False):
        if old != new:
            break
        kept += len(old)
    return stale[max(kept, linked) :]


def missing_lines(wanted: bytes, present: bytes) -> bytes:
    """Return the lines of `wanted` that `present` does not have as often."""
    left = Counter(present.splitlines())
    missing = b""
    for line in wanted.splitlines(keepends=True):
        text = line.rstrip(b"\n")
        if not left[text]:
            missing += line
        left[text] -= left[text] > 0
    return missing


def _exchanged(directory: int, messages: os.stat_result | None) -> Exchanged:
    return Exchanged(directory, messages.st_ino if messages else 0, messages.st_size if messages else 0)
