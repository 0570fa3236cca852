"""Find files in sessions of which the kernel tells only an inode or a path's end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from arawn_cli.errors import StoppedError
from arawn_cli.fs.openat import Descent


@dataclass(slots=True)
class Unplaced:
    """Files whose place is unknown, with the text of their use; `{}` is replaced by the path.

    Attributes:
        inodes: files, by inode number.
        sockets: files of Unix sockets, by the lowest 32 bits of the inode number.
        socket_paths: paths of Unix sockets, relative to an unknown directory.
        layers: the texts of overlays by their layers, which are relative to an unknown directory,
            the same for each overlay.
    """

    inodes: dict[int, str] = field(default_factory=dict)
    sockets: dict[int, str] = field(default_factory=dict)
    socket_paths: dict[str, str] = field(default_factory=dict)
    layers: dict[tuple[str, ...], str] = field(default_factory=dict)


def find_unplaced(
    wanted: Unplaced, parent: int, sessions: Iterable[str], device: int, directory: str | None, stopping: Callable[[], bool]
) -> Iterator[tuple[str, str, str]]:
    """Yield session, path below it and text of the first wanted file in each session.

    `parent` is the open directory of the sessions, on the filesystem `device`, and `directory` its
    path within that filesystem, None if that is unknown.

    Raises:
        OSError: a directory cannot be read.
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    if wanted == Unplaced():
        return
    search = _Search(wanted, parent, directory)
    files = bool(wanted.inodes or wanted.sockets or wanted.socket_paths)
    for name in sessions:
        for path, status in _tree(name, parent, files=files):
            if stopping():
                raise StoppedError
            if status.st_dev == device and (text := search.text_for(path, status)):
                yield name, path[len(name) + 1 :], text
                break


class _Search:
    """A search in the open directory `parent` of the sessions."""

    def __init__(self, wanted: Unplaced, parent: int, directory: str | None) -> None:
        self._wanted = wanted
        self._parent = parent
        self._directory = directory
        self._endings = tuple({f"/{without_parents(layer)}" for layers in wanted.layers for layer in layers})

    def text_for(self, path: str, status: os.stat_result) -> str | None:
        """Return the text of the use of a file of a session, None if it is not looked for."""
        if text := self._wanted.inodes.get(status.st_ino):
            return text
        if stat.S_ISSOCK(status.st_mode):
            by_path = (text for ending, text in self._wanted.socket_paths.items() if path.endswith(f"/{ending}"))
            return self._wanted.sockets.get(status.st_ino & 0xFFFFFFFF) or next(by_path, None)
        if stat.S_ISDIR(status.st_mode):
            whole = f"{self._directory}/{path}"
            if whole.endswith(self._endings):
                return next((text for layers, text in self._wanted.layers.items() if self._is_layer(whole, layers)), None)
        return None

    def _is_layer(self, whole: str, layers: Collection[str]) -> bool:
        """Whether a directory may be a layer of an overlay; all are relative to one directory."""
        for layer in layers:
            if whole.endswith(f"/{without_parents(layer)}"):
                start = os.path.relpath(whole[: -len(without_parents(layer))], self._directory)
                others = [] if layer.startswith("..") else [other for other in layers if other != layer]
                if all(_is_directory(self._parent, f"{start}/{other}") for other in others):
                    return True
        return False


def _is_directory(parent: int, path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=parent).st_mode)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)


def without_parents(path: str) -> str:
    """Return a relative path without the `..` that it begins with."""
    while path.startswith("../"):
        path = path.removeprefix("../")
    return path


def _tree(name: str, parent: int, *, files: bool) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of a directory and of everything, or all directories, below it.

    Raises:
        OSError: a directory cannot be read for another reason than that it is gone.
    """
    with Descent(parent, name) as walk:
        yield from _entered(walk, name, files=files)
        while walk.depth:
            if walk.here.pending:
                yield from _entered(walk, walk.here.pending.pop(), files=files)
            else:
                walk.leave()


def _entered(walk: Descent, name: str, *, files: bool) -> Iterator[tuple[str, os.stat_result]]:
    try:
        status = walk.enter(name)
    except FileNotFoundError:
        return
    yield walk.path(), status
    with walk.scan() as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                walk.here.pending.append(entry.name)
            elif files:
                with suppress(FileNotFoundError):
                    yield walk.path(entry.name), entry.stat(follow_symlinks=False)
