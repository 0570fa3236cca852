"""Find what this account may change: its powers over files of others, and flags of files."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CAP_FOWNER = 3  # number of the capability, see capabilities(7)
_NONE_UNMAPPED = 2**32 - 1
_EVERY_ID = ["0", "0", str(_NONE_UNMAPPED)]  # uid_map of the first user namespace

# statx(2)
_AT_SYMLINK_NOFOLLOW, _AT_NO_AUTOMOUNT, _AT_EMPTY_PATH = 0x100, 0x800, 0x1000
_STATX_BYTES = 256
_ATTRIBUTES = slice(8, 16)
_IMMUTABLE, _APPEND = 0x10, 0x20


@dataclass(frozen=True, slots=True)
class Account:
    """The account of this process, as the kernel checks it.

    Attributes:
        user: the effective user id.
        acts_as_owner: CAP_FOWNER: it may remove files of others from a sticky directory.
        unmapped: except to files of this id, which stands for all that the user namespace of this
            process does not map; an id that no file has if it maps all.
    """

    user: int
    acts_as_owner: bool
    unmapped: int

    @classmethod
    def current(cls) -> Account:
        """Return the account of now: a process of root may become another."""
        return _account(os.geteuid())

    def may_act_as_owner(self, status: os.stat_result) -> bool:
        """Whether it may remove a file from a sticky directory, or everything from that, as its owner may."""
        return status.st_uid == self.user or (self.acts_as_owner and self.unmapped not in (status.st_uid, status.st_gid))


@cache
def _account(user: int) -> Account:
    acts_as_owner, unmapped = user == 0, _NONE_UNMAPPED
    with suppress(OSError):  # without /proc
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        acts_as_owner = bool(int(fields["CapEff"], 16) >> _CAP_FOWNER & 1)
        if Path("/proc/self/uid_map").read_text().split() != _EVERY_ID:
            unmapped = int(Path("/proc/sys/kernel/overflowuid").read_text())
    return Account(user, acts_as_owner, unmapped)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def account_name(user: int) -> str:
    """Return the name of an account, or its number if it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def is_sticky(status: os.stat_result, account: Account) -> bool:
    """Whether an account may remove only its own entries from a directory."""
    return bool(status.st_mode & stat.S_ISVTX) and not account.may_act_as_owner(status)


def can_access(directory: int, mode: int) -> bool:
    """Whether this account may enter an open directory and do more in it, in bits of access(2); ACLs count."""
    return os.access(".", mode, dir_fd=directory, effective_ids=True)


def is_flagged(directory: int, name: str = "") -> bool:
    """Whether an entry of an open directory, or the directory itself, is immutable or append-only.

    Not even root removes such a file. If the kernel cannot tell, it is not.
    """
    status = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if name else _AT_EMPTY_PATH)
    try:
        failed = _library().statx(directory, os.fsencode(name), flags, 0, status)
    except AttributeError:  # a C library without it
        return False
    if failed:
        return False
    return bool(int.from_bytes(status.raw[_ATTRIBUTES], sys.byteorder) & (_IMMUTABLE | _APPEND))
