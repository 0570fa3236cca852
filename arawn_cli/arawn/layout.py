"""Arawn's tree on disk: a proven root, and which workstreams and sessions stand in it."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.fs.openat import Entry, FileKind, entries, open_directory
from arawn_cli.names import is_valid_id

WORKSTREAMS = "workstreams"


DATABASE = "workstreams.db"
"""Arawn's database in its root, where no other is configured."""


SCRATCH = "scratch"


SESSIONS = "sessions"


PRODUCTION = "production"


WORK = "work"


MESSAGES = "messages.jsonl"


TRASH = ".trash"


@dataclass(frozen=True, slots=True)
class Root:
    """An open, proven root.

    Attributes:
        path: absolute, with every link resolved.
        workstreams: descriptor of `<root>/workstreams`.
    """

    path: Path
    workstreams: int


@contextmanager
def opened_root(path: Path) -> Iterator[Root]:
    """Proves a root and opens it; every later step starts at the descriptor.

    Raises:
        ConfigurationError: it is missing, is no directory or cannot be read.
        RefusedError: it is `/` or a home directory, has no `workstreams/`, or strangers can write to it.
    """
    resolved = _resolve(path)
    _refuse_unsafe(resolved)
    try:
        descriptor = os.open(resolved, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"cannot open the root {resolved}: {error.strerror}") from error
    try:
        workstreams = _open_workstreams(descriptor, resolved)
    finally:
        os.close(descriptor)
    try:
        yield Root(resolved, workstreams)
    finally:
        os.close(workstreams)


def workstream_entries(root: Root) -> tuple[list[str], list[Entry]]:
    """The ids of the workstream directories, and every other entry of `workstreams/` (foreign)."""
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
    """A descriptor of `workstreams/scratch/sessions`, or None where there is none yet.

    Raises:
        RefusedError: `scratch` or `sessions` is a link or no directory, or strangers can write to it.
        ConfigurationError: it cannot be read.
    """
    below = root.path / WORKSTREAMS / SCRATCH
    scratch = _open_own(SCRATCH, root.workstreams, below)
    if scratch is None:
        yield None
        return
    try:
        sessions = _open_own(SESSIONS, scratch, below / SESSIONS)
    finally:
        os.close(scratch)
    try:
        yield sessions
    finally:
        if sessions is not None:
            os.close(sessions)


def _open_own(name: str, parent: int, shown: Path) -> int | None:
    try:
        descriptor = open_directory(name, parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RefusedError(f"{shown} is a link or no directory: nothing is removed through it") from error
        raise ConfigurationError(f"cannot open {shown}: {error.strerror}") from error
    if strangers_can_write(os.fstat(descriptor)):
        os.close(descriptor)
        raise RefusedError(_open_to_strangers(shown))
    return descriptor


def _resolve(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the root {path} does not exist; name Arawn's folder with --base-path, or correct its path in the configuration"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot use the root {path}: {error.strerror}") from error
    except RuntimeError as error:
        raise ConfigurationError(f"cannot use the root {path}: its links form a loop") from error


def _refuse_unsafe(root: Path) -> None:
    """Refuses roots that nobody means; the root itself may be reached through a link, it is resolved once."""
    if not root.is_dir():
        raise ConfigurationError(f"the root {root} is not a directory")
    if root == Path("/"):
        raise RefusedError("the root is /: refused; name Arawn's own folder with --base-path, or in the configuration")
    status = root.stat()
    if root in _home_directories(status.st_uid):
        raise RefusedError(f"the root {root} is a home directory: refused; Arawn's folder is one below it, such as {root}/.arawn")
    if strangers_can_write(status):
        raise RefusedError(_open_to_strangers(root))
    for parent in root.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise RefusedError(f"{parent}, above the root, is writable by everyone, who could put another root in its place")


def _home_directories(owner: int) -> set[Path]:
    homes = {os.path.expanduser("~")}
    for user in (owner, os.getuid()):
        try:
            homes.add(pwd.getpwuid(user).pw_dir)
        except KeyError:
            continue  # an account without an entry has no home to protect
    return {Path(home).resolve() for home in homes if home not in ("", "/")}


def _open_workstreams(root: int, path: Path) -> int:
    shown = path / WORKSTREAMS
    try:
        descriptor = open_directory(WORKSTREAMS, root)
    except FileNotFoundError as error:
        raise RefusedError(f"{path} has no {WORKSTREAMS}/ folder: refused, it does not look like an Arawn root; {_remedy(path)}") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RefusedError(f"{shown} is a link or no directory: refused; name the folder that really holds it") from error
        raise ConfigurationError(f"cannot open {shown}: {error.strerror}") from error
    if strangers_can_write(os.fstat(descriptor)):
        os.close(descriptor)
        raise RefusedError(_open_to_strangers(shown))
    return descriptor


def _remedy(path: Path) -> str:
    """What to name instead of a folder that is no root; most often it is the one in a root."""
    if path.name == WORKSTREAMS:
        return f"the folder above it does: name {path.parent} instead, with --base-path or in the configuration"
    return f"name the folder that holds {WORKSTREAMS}/ with --base-path, or in the configuration"


def strangers_can_write(status: os.stat_result) -> bool:
    """Whether everyone may write to a file."""
    return bool(status.st_mode & stat.S_IWOTH)


def _open_to_strangers(path: Path) -> str:
    return f"{path} is writable by everyone: refused, others could place what is removed; fix it with: chmod o-w {path}"
