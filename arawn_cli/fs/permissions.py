"""Find the files that accounts may change, and become another account."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

_CAP_FOWNER = 3  # number of the capability, see capabilities(7)
_NONE_UNMAPPED = 2**32 - 1

_PR_SET_DUMPABLE = 4  # prctl(2)
_ATTRIBUTES = slice(8, 16)  # statx(2)
_IMMUTABLE, _APPEND = 0x10, 0x20
_MAX_LINKS = 40  # in a path
_NOBODY = 65534
# Environment variables that this program and the programs that it starts read.
_KEPT_PREFIXES = ("ARAWN_", "COVERAGE_", "LC_", "PYTHON", "SYSTEMD_")
_KEPT = frozenset(
    {
        *("path", "ld_library_path", "lang", "language", "tz", "term", "colorterm", "columns", "lines", "no_color", "force_color"),
        *("journal_stream", "state_directory", "credentials_directory", "ssl_cert_file", "ssl_cert_dir"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)


class Account(NamedTuple):
    """The account of this process, as the kernel checks it.

    Attributes:
        user: the effective user id.
        acts_as_owner: CAP_FOWNER: it may remove files of others from a sticky directory.
        unmapped: except to files of this id, which the kernel shows for each id that the user
            namespace of this process does not map; an id that no file has if it maps all.
    """

    user: int
    acts_as_owner: bool
    unmapped: int

    @classmethod
    def current(cls) -> Account:
        """Return the account of now: a process of root may become another."""
        return _account(os.geteuid())

    def may_act_as_owner(self, status: os.stat_result) -> bool:
        """Whether the account may remove a file from a sticky directory, or all of them."""
        return status.st_uid == self.user or (self.acts_as_owner and self.unmapped not in (status.st_uid, status.st_gid))


@cache
def _account(user: int) -> Account:
    acts_as_owner, unmapped = user == 0, _NONE_UNMAPPED
    with suppress(OSError):  # without /proc
        acts_as_owner = has_capability(_CAP_FOWNER)
        if not is_in_first_user_namespace():
            unmapped = int(Path("/proc/sys/kernel/overflowuid").read_text())
    return Account(user, acts_as_owner, unmapped)


def has_capability(number: int) -> bool:
    """Whether this process has a capability (capabilities(7)) now.

    Raises:
        OSError: /proc cannot be read.
    """
    return bool(_capabilities("CapEff") >> number & 1)


def _capabilities(kind: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[kind], 16)


def is_in_first_user_namespace() -> bool:
    """Whether the user namespace of this process maps all ids, see user_namespaces(7).

    Raises:
        OSError: /proc cannot be read.
    """
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def account_name(user: int) -> str:
    """Return the name of an account, or its number if it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def user_id(name: str) -> int:
    """Return the id of an account that `account_name` named."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name)


def sudo_words(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words with which a person used sudo(8) to start this program; () without sudo."""
    user = str(os.getuid())
    if environment.get("SUDO_UID", user) == user:
        return ()
    if user == "0":
        return ("sudo",)
    # A shell that sudo started has $SUDO_UID, too. Its account may not be allowed to use sudo.
    return ("sudo", "-u", account_name(int(user))) if "arawn-cli" in environment.get("SUDO_COMMAND", "") else ()


def is_sticky(status: os.stat_result, account: Account) -> bool:
    """Whether an account may remove only its own entries from a directory."""
    return bool(status.st_mode & stat.S_ISVTX) and not account.may_act_as_owner(status)


def can_access(directory: int, mode: int) -> bool:
    """Whether this account has access bits on an open directory (access(2)); ACLs count."""
    return os.access(".", mode, dir_fd=directory, effective_ids=True)


def require_writable(directory: int) -> None:
    """Check that this process may create, rename and remove entries of an open directory.

    Raises:
        OSError: EROFS or EACCES, as the kernel would return.
    """
    if not can_access(directory, os.W_OK | os.X_OK):
        code = errno.EROFS if os.fstatvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code))


def is_flagged(directory: int, name: str = "") -> bool:
    """Whether an entry of an open directory, or the directory itself, is immutable or append-only.

    Not even root removes such a file. If the kernel cannot tell, it is not.
    """
    from arawn_cli.fs.system_calls import statx  # ctypes costs a start a millisecond

    try:
        status = statx(directory, name)
    except OSError:
        return False
    return bool(int.from_bytes(status[_ATTRIBUTES], sys.byteorder) & (_IMMUTABLE | _APPEND))


class Way(NamedTuple):
    """A path, and who decides what it names.

    Attributes:
        path: the path without links, as far as it exists.
        accounts: the owners of the file and of each directory and link on the way, without root
            and without accounts that the user namespace of this process does not map.
        is_shared: a directory on the way belongs to root, and others may replace its entries; or
            the file does, and others may write to it.
        has_links: a link on the way belongs to one of `accounts`.
    """

    path: Path
    accounts: frozenset[int]
    is_shared: bool
    has_links: bool

    @property
    def is_of_root(self) -> bool:
        """Whether only root decides what the path names."""
        return not self.accounts and not self.is_shared


def way_to(path: Path) -> Way:
    """Find who decides what a path names. Of a missing file, the directories above it count.

    Once an account is on the way, all behind it is that account's decision. So a change during the
    search cannot hide an account.

    Raises:
        OSError: ELOOP if there are too many links.
    """
    unmapped = Account.current().unmapped
    pending = list(path.absolute().parts[:0:-1])
    done, links = "/", 0
    accounts: set[int] = set()
    is_shared = has_links = False
    while pending:
        name = pending.pop()
        here = os.path.dirname(done) if name == ".." else os.path.join(done, name)
        try:
            status = os.lstat(here)
        except OSError:
            done = here
            break
        if status.st_uid not in (0, unmapped):
            accounts.add(status.st_uid)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            has_links = has_links or bool(accounts)
            target = Path(os.readlink(here))
            pending += target.parts[:0:-1] if target.is_absolute() else target.parts[::-1]
            done = "/" if target.is_absolute() else done
            continue
        done = here
        is_shared = is_shared or (status.st_uid == 0 and _others_may_replace(here, status, is_last=not pending))
    return Way(Path(done, *reversed(pending)), frozenset(accounts), is_shared, has_links)


def _others_may_replace(path: str, status: os.stat_result, *, is_last: bool) -> bool:
    """Whether others than root may replace or change a file or directory of root."""
    if stat.S_ISDIR(status.st_mode):
        if is_last or status.st_mode & stat.S_ISVTX:
            return False
    elif not stat.S_ISREG(status.st_mode):
        return False
    # With an ACL, the bits of the group are the most that a named account or group has (acl(5)).
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and (status.st_gid != 0 or _has_acl(path))))


def _has_acl(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except OSError:
        return False


class Login(NamedTuple):
    """The ids and variables that a process needs to become an account.

    Attributes:
        user: the user id.
        group: its group id.
        groups: all its groups.
        variables: the environment variables of the account.
    """

    user: int
    group: int
    groups: tuple[int, ...]
    variables: Mapping[str, str]

    @classmethod
    def of(cls, user: int) -> Login:
        """Return that of a user id. One without an entry in passwd(5) gets the group of nobody.

        The group of a file proves nothing: in a set-group-id directory, or by a hard link, an
        account has files of groups to which it does not belong.
        """
        try:
            entry = pwd.getpwuid(user)
        except KeyError:
            return cls(user, _NOBODY, (), {})
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(user, entry.pw_gid, groups, {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name})

    def environment(self, current: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables that this program uses, with those of the account.

        The account can read those of the programs that this process starts (proc(5)), so that
        secrets in other variables do not belong there.
        """
        kept = {key: value for key, value in current.items() if key.startswith(_KEPT_PREFIXES) or key.lower() in _KEPT}
        return {**kept, **self.variables}

    def become(self) -> None:
        """Become the account for good, without any power of root.

        The account cannot read the memory of this process, which has secrets of root, nor that of a
        child, unless the child starts a program.

        Raises:
            OSError: the kernel does not allow it, or a capability stays.
        """
        from arawn_cli.fs.system_calls import call  # as in `is_flagged`, but while root can read it

        os.setgroups(self.groups)
        os.setresgid(self.group, self.group, self.group)
        os.setresuid(self.user, self.user, self.user)
        # The kernel does it by itself, unless fs.suid_dumpable (proc(5)) is 1.
        call("prctl", _PR_SET_DUMPABLE, 0)
        if any(_capabilities(kind) for kind in ("CapPrm", "CapEff", "CapAmb")):
            raise PermissionError(errno.EPERM, "capabilities of root stay")

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act as the account inside the context; the process stays root.

        Raises:
            OSError: the kernel does not allow it.
        """
        groups, group, user = os.getgroups(), os.getegid(), os.geteuid()
        try:
            os.setgroups(self.groups)
            os.setegid(self.group)
            os.seteuid(self.user)
            yield
        finally:
            os.seteuid(user)
            os.setegid(group)
            os.setgroups(groups)
