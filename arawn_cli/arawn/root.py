"""Recognise directories that can be Arawn's root, open one after checks, and find its mounts."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from arawn_cli.arawn.layout import DATABASES, MESSAGES, SCRATCH, SESSIONS, TRASH, V0, WORKSTREAMS, Layout, find_layout
from arawn_cli.errors import ConfigurationError, RefusedError, never_stopping
from arawn_cli.fs.measure import Subtree
from arawn_cli.fs.mounts import is_mount, read_mounts, require_answer, visible_mounts
from arawn_cli.fs.openat import Entry, FileKind, entries, open_directory, opened_directory
from arawn_cli.fs.permissions import Account
from arawn_cli.names import escape, is_valid_id


@dataclass(frozen=True, slots=True)
class Root:
    """An open root that passed the checks.

    Attributes:
        path: its absolute path, with links resolved.
        workstreams: descriptor of `<root>/workstreams`; of the root itself for a new server, which
            has not created that directory yet.
        layout: where the generation of Arawn that wrote it keeps its files.
        database: Arawn's database, with links resolved, or None without one.
    """

    path: Path
    workstreams: int
    layout: Layout
    database: Path | None

    @property
    def shown_database(self) -> str:
        """The path of the database, relative to the root if it is at Arawn's place; else empty."""
        if self.database is None:
            return ""
        is_usual = self.database.parent == self.path and self.database.name in DATABASES
        return self.database.name if is_usual else str(self.database)


# Directories of hier(7) that no service has for itself. Those that may be a mount or the home of
# one account (/srv, /mnt, /opt, /root) are roots if they contain workstreams/.
SYSTEM_DIRECTORIES = frozenset(
    {
        *("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/proc", "/run", "/sbin", "/sys"),
        *("/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/local", "/usr/sbin", "/usr/share"),
        *("/var", "/var/cache", "/var/lib", "/var/log", "/var/spool"),
    }
)
_OF_KERNEL = ("/proc", "/sys")


class UnusableDirectoryError(ConfigurationError):
    """A directory of Arawn's or of the trash is unusable. `fix` is a command or a comment."""

    def __init__(self, text: str, fix: str) -> None:
        """Name the fault and the remedy."""
        super().__init__(f"{text}: {fix.removeprefix('# ')}")
        self.fix = fix

    @classmethod
    def at(cls, path: Path) -> UnusableDirectoryError:
        """Describe something at a path that is not a directory."""
        if not path.is_symlink():
            return cls(f"{path} is not a directory", "# move it away")
        if path.name == TRASH:
            return cls(f"{path} is a link, but removed sessions must stay on the filesystem of the sessions", f"rm {quote(str(path))}")
        if not _leads_somewhere(path):
            return cls(
                f"{path} is a link to {escape(os.readlink(path))}, which does not exist or does not answer",
                "# put the directory back in place of the link",
            )
        return cls(f"{path} is a link, and links are not followed; use a bind mount instead, with Arawn stopped", bind_mount_commands(path))


def bind_mount_commands(path: Path) -> str:
    """Return commands that replace the first link on a path by a bind mount.

    Return a comment if it leads nowhere.
    """
    link = next((above for above in reversed(path.parents) if os.path.islink(above)), path)
    if not _leads_somewhere(link):
        return f"# put the target of {escape(str(link))} back"
    shown, create = quote(str(link)), "mkdir" if link.is_dir() else "touch"
    return f"sudo rm {shown} && sudo {create} {shown} && sudo mount --bind {quote(os.path.realpath(link))} {shown}"


def _leads_somewhere(link: Path) -> bool:
    """Whether the target of a link exists; not if its filesystem does not answer."""
    with suppress(OSError):
        require_answer(str(link), never_stopping)
        return os.path.exists(link)
    return False


@contextmanager
def opened_root(path: Path, databases: Sequence[Path], stopping: Callable[[], bool] = never_stopping) -> Iterator[Root]:
    """Check a root and open it.

    All later steps start from its descriptor, so that no path is followed twice. `databases` are
    the places where Arawn's database can be, first match first.

    Raises:
        ConfigurationError: it is missing, not a directory, cannot be read, or has an unknown
            layout; its `workstreams` is a link.
        RefusedError: it is `/` or a system directory, has no `workstreams/`, or everyone can write
            to it.
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    resolved = _resolve(path)
    _refuse_unsafe(resolved)
    existing = list(dict.fromkeys(Path(os.path.realpath(place)) for place in databases if os.path.lexists(place)))
    with ExitStack() as stack:
        try:
            directory = os.open(resolved, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"cannot open the root {resolved}: {error.strerror}") from error
        stack.callback(os.close, directory)
        workstreams = stack.enter_context(_opened_own(WORKSTREAMS, directory, resolved / WORKSTREAMS))
        if workstreams is None:
            if not existing or entries(directory):
                raise RefusedError(_not_a_root(resolved))
            workstreams = directory
        if os.geteuid() == 0 and os.fstat(workstreams).st_uid not in (0, Account.current().unmapped):
            raise RefusedError(f"{resolved} got another owner during this run: run it again")
        yield Root(resolved, workstreams, *find_layout(workstreams, resolved / WORKSTREAMS, existing, stopping))


def reason_for_no_sessions(root: Root) -> str:
    """Return why a root has no directory of scratch sessions.

    Raises:
        OSError: the workstreams cannot be listed.
    """
    if entries(root.workstreams):
        return f"This {root.layout.name} has created no directories for scratch sessions"
    return f"This {root.layout.name} is new, and has no workstreams yet"


def workstream_entries(root: Root) -> tuple[list[str], list[Entry]]:
    """Return the ids of the workstream directories, and all other (foreign) entries."""
    ids: list[str] = []
    foreign: list[Entry] = []
    for entry in entries(root.workstreams):
        if entry.kind is FileKind.DIRECTORY and is_valid_id(entry.name):
            ids.append(entry.name)
        else:
            foreign.append(entry)
    return ids, foreign


@contextmanager
def opened_sessions(root: Root) -> Iterator[int | None]:
    """Yield a descriptor of the directory of the scratch sessions, or None if it does not exist.

    Raises:
        ConfigurationError: a directory on the way, or the trash, is a link or not a directory, or
            the trash is a mount, or one of them cannot be read.
        RefusedError: everyone can write to one of them.
    """
    shown = root.path / WORKSTREAMS
    directory = root.workstreams
    with ExitStack() as stack:
        for name in root.layout.sessions:
            shown /= name
            inner = stack.enter_context(_opened_own(name, directory, shown))
            if inner is None:
                yield None
                return
            _refuse_unusable_trash(inner, shown / TRASH)
            directory = inner
        yield directory


def _refuse_unusable_trash(parent: int, shown: Path) -> None:
    """Check that sessions can be moved to the trash in an open directory, if it has one."""
    with _opened_own(TRASH, parent, shown) as trash:
        try:
            is_mounted = trash is not None and is_mount(trash, parent)
        except OSError as error:
            raise ConfigurationError(f"cannot determine whether {shown} is a mount: {error.strerror}") from error
    if is_mounted:
        raise UnusableDirectoryError(f"{shown} is a mount, so sessions cannot be moved to it", f"sudo umount {quote(str(shown))}")


@contextmanager
def _opened_own(name: str, parent: int, shown: Path) -> Iterator[int | None]:
    """Open a directory of Arawn's, or yield None if it does not exist. `shown` is its full path.

    Raises:
        ConfigurationError: it is a link, not a directory or cannot be read.
        RefusedError: everyone can write to it.
    """
    try:
        descriptor: int | None = open_directory(name, parent)
    except FileNotFoundError:
        descriptor = None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UnusableDirectoryError.at(shown) from error
        raise ConfigurationError(f"cannot open {shown}: {error.strerror}") from error
    try:
        if descriptor is not None:
            _refuse_writable_by_everyone(os.fstat(descriptor), shown)
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _refuse_writable_by_everyone(status: os.stat_result, shown: Path) -> None:
    if status.st_mode & stat.S_IWOTH:
        raise RefusedError(
            f"{shown} is writable by everyone: refused, others could decide what to remove; fix it with: chmod o-w {quote(str(shown))}"
        )


def _resolve(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path, strict=True))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the root {path} does not exist; name Arawn's folder with --base-path, or correct its path in the configuration"
        ) from error
    except OSError as error:
        remedy = "; run this with sudo, or as the account that owns it" if isinstance(error, PermissionError) else ""
        raise ConfigurationError(f"cannot use the root {path}: {error.strerror}{remedy}") from error


def _refuse_unsafe(root: Path) -> None:
    """Refuse a root that cannot be intended, or that others could replace.

    Links to it are resolved before.
    """
    if not root.is_dir():
        raise ConfigurationError(f"the root {root} is not a directory")
    if root == Path("/"):
        raise RefusedError("the root is /: refused; name Arawn's own folder with --base-path, or in the configuration")
    status = root.stat()
    if str(root) in SYSTEM_DIRECTORIES or any(root.is_relative_to(place) for place in _OF_KERNEL):
        raise RefusedError(f"the root {root} is a system directory: refused; name Arawn's own folder")
    if root in home_directories(status.st_uid) and not os.path.lexists(root / WORKSTREAMS):
        raise RefusedError(
            f"the root {root} is a home directory without {WORKSTREAMS}/: refused; name Arawn's folder, such as {root}/.arawn"
        )
    _refuse_writable_by_everyone(status, root)
    for parent in root.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise RefusedError(f"{parent}, above the root, is writable by everyone, who could put another root in its place")


def home_directories(owner: int) -> set[Path]:
    """Return the home directories of an account, of the current one and of `$HOME`."""
    homes = {os.path.expanduser("~")}
    for user in (owner, os.getuid()):
        try:
            homes.add(pwd.getpwuid(user).pw_dir)
        except KeyError:
            continue  # an account without an entry has no home to protect
    return {Path(os.path.realpath(home)) for home in homes if home not in ("", "/")}


def _not_a_root(path: Path) -> str:
    problem = f"{path} has no {WORKSTREAMS}/ folder: refused, it does not look like an Arawn root"
    if path.name == WORKSTREAMS:
        return f"{problem}; the folder above it does: name {path.parent} instead, with --base-path or in the configuration"
    return f"{problem}; name the folder that holds {WORKSTREAMS}/ with --base-path, or in the configuration"


def writable_by_group(root: Root) -> Path | None:
    """Return a directory of the root that other accounts of its group can write to, or None.

    They could decide which sessions are removed. The group of the owner's own name is
    the owner's alone on most distributions.
    """
    for path in (root.path, *(root.path.joinpath(WORKSTREAMS, *root.layout.sessions[:depth]) for depth in range(3))):
        with suppress(OSError):
            status = path.lstat()
            if status.st_mode & stat.S_IWGRP and _is_shared_group(status):
                return path
    return None


def _is_shared_group(status: os.stat_result) -> bool:
    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return True
    return group.gr_name != owner or bool({*group.gr_mem} - {owner})


# ---- Mounts


def mounts_in(root: Root) -> dict[tuple[str, ...], bool]:
    """Return mounts by their path below `workstreams/`, and whether each belongs to the tree.

    Mounts of `workstreams/` and `scratch/`, of directories of sessions and of messages do. Others
    are foreign: no cleanup enters them, and they do not count.

    Raises:
        OSError: the mount table cannot be read.
    """
    in_workstreams = (SESSIONS, MESSAGES) if root.layout is V0 else ()

    def is_own(names: tuple[str, ...]) -> bool:
        return names in ((), (SCRATCH,)) or (len(names) == 2 and names[1] in in_workstreams)

    return {names: is_own(names) for names in mounts_below(root.path / WORKSTREAMS)}


def mounts_below(directory: Path) -> list[tuple[str, ...]]:
    """Return the mounts at and below a directory without links in its path, by their path from it.

    Raises:
        OSError: the mount table cannot be read.
    """
    above = str(directory)
    return [tuple(mount.point.removeprefix(above).split("/")[1:]) for mount in visible_mounts(read_mounts(), above)]


def without_mounts(start: int, whole: Subtree, mounts: Mapping[tuple[str, ...], bool]) -> Iterator[Subtree]:
    """Yield a subtree of an open directory, or its parts around the mounts in it (`mounts_in`).

    A foreign mount is left out, since it may hang. One that belongs to the tree is a part.
    """
    names = whole.names
    if any(names[: len(mount)] == mount for mount, is_own in mounts.items() if not is_own):
        return
    if whole.shallow or not any(len(mount) > len(names) and mount[: len(names)] == names for mount in mounts):
        yield whole
        return
    try:
        with opened_directory(start, *names) as directory:
            listed = entries(directory)
    except OSError:
        yield whole  # measuring it reports the failure
        return
    yield Subtree(names, shallow=True)
    for entry in listed:
        yield from without_mounts(start, Subtree((*names, entry.name)), mounts)


# ---- Candidates


def is_candidate(path: Path, databases: Sequence[Path]) -> bool:
    """Return whether a directory can be a root.

    It contains `workstreams/`, or is empty and has one of these databases (a new server). A
    directory that this account may not see counts, so that opening it fails.
    """
    if may_exist(path / WORKSTREAMS):
        return True
    try:
        with os.scandir(path) as listing:
            is_empty = next(listing, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return is_empty and any(may_exist(database) for database in databases)


def may_exist(path: Path) -> bool:
    """Return whether a path exists. One that this account may not see counts."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
