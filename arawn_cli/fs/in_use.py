"""Find the processes, mounts and devices that use a session.

A path that the kernel shows for a file is relative to the root of a mount namespace. With the mount
tables of all namespaces it becomes a path within the filesystem of the sessions, so that no file
system is read, however a container spells a path. A file for which the kernel gives no such path
(longer than PATH_MAX, or below a mount that was detached) is looked for in the sessions by its
inode number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from arawn_cli.errors import StoppedError, never_stopping
from arawn_cli.events import Reason
from arawn_cli.fs.child import Child
from arawn_cli.fs.mounts import Mount, is_below, joined, layers_of, mount_id, mount_of, read_mounts, unescaped
from arawn_cli.fs.processes import (
    BoundSocket,
    Task,
    cached_identity,
    command_line,
    link_target,
    list_tasks,
    mapped_files,
    own_number,
    parents_number,
    shown,
    socket_paths,
    sockets_of,
    unless_ended,
)
from arawn_cli.fs.unplaced import Unplaced, find_unplaced, without_parents
from arawn_cli.names import escape

_MAX_SHOWN = 200  # characters of a path in a detail
_MAX_LINKS = 40
_ID = re.compile(r"[A-Za-z0-9_-]+")

# Opening a file of these through a link in /proc asks a server (`d_weak_revalidate` in Linux).
_ASKS_SERVER = frozenset({"nfs", "nfs4", "9p"})

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_SOCKET = "a process has a Unix socket at {}"
_LINKS = {"cwd": "works in {}/", "root": "has its root directory in {}/", "exe": "runs {}"}


@dataclass(frozen=True, slots=True)
class Use:
    """Why a session is in use: IN_USE or MOUNT_INSIDE, and what uses it, as text for people."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a session: its name, and the path below it, empty for the session itself."""

    session: str
    inner: str


@dataclass(frozen=True, slots=True)
class _Directory:
    """The directory of the sessions: its device number, its path, and the id of its mount."""

    device: int
    path: str
    mount: int

    @classmethod
    def of(cls, descriptor: int) -> _Directory:
        return cls(os.fstat(descriptor).st_dev, os.readlink(f"/proc/self/fd/{descriptor}"), mount_id(descriptor))


_root_child: Child | None = None


def stay_root_in_child() -> None:
    """Start a child that inspects processes for `find_uses`, before a change of account.

    The child reads only /proc and /sys. It gets device, path and mount of the directory, and the
    names of the sessions. It returns their uses, and the inode numbers to look for in them.
    """
    global _root_child
    _root_child = Child("the process that inspects others as root", _scan_for_parent)


def end_root_child() -> None:
    """End the child that `stay_root_in_child` started, if there is one."""
    global _root_child
    if _root_child is not None:
        _root_child.end()
        _root_child = None


def sees_all_accounts() -> bool:
    """Whether `find_uses` sees the processes of all accounts."""
    return os.geteuid() == 0 or _root_child is not None


def hidden_processes() -> list[int]:
    """Return uninspectable processes of this account; if root inspects, of all accounts.

    Raises:
        OSError: as `find_uses`.
    """
    if _root_child is None:
        return list_tasks(own_number()).hidden
    return [int(process) for process in _root_child.ask(None)]


def _scan_for_parent(request: Any) -> object:  # noqa: ANN401 - JSON
    if request is None:
        return list_tasks(parents_number()).hidden
    search = _Search(_Directory(**request["directory"]), frozenset(request["sessions"]), never_stopping)
    search.scan(parents_number())
    return search.found()


def find_uses(parent: int, sessions: Iterable[str], stopping: Callable[[], bool] = never_stopping) -> dict[str, Use]:
    """Return the uses of the sessions in an open directory, by name; a mount inside comes first.

    Only root, and the child that stays root, see the uses by processes of other accounts.

    Raises:
        OSError: the processes of this account cannot be inspected, or the child does not answer, so
            nothing is known.
        StoppedError: `stopping` returned that a signal asked the run to end.
    """
    directory, names = _Directory.of(parent), frozenset(sessions)
    search = _Search(directory, names, stopping)
    if _root_child is None:
        search.scan(own_number())
    else:
        search.take(_root_child.ask({"directory": asdict(directory), "sessions": sorted(names)}, stopping))
    search.inspect_itself()
    search.look_in_sessions(parent)
    return search.uses


class _Search:
    """One search for the uses of sessions."""

    def __init__(self, directory: _Directory, sessions: frozenset[str], stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self.uses: dict[str, Use] = {}
        self.wanted = Unplaced()
        self._sessions = sessions
        self._device_number = directory.device
        self._own_namespace = os.readlink("/proc/self/ns/mnt")
        self._own_network = os.readlink("/proc/self/ns/net")
        self._mounts = {mount.id: mount for mount in read_mounts()}
        mount = self._mounts.get(directory.mount)
        # The directory within its filesystem; None if this run is in a chroot that hides its mount.
        self._directory = None if mount is None else mount.within(directory.path)
        self._device = f"{os.major(self._device_number)}:{os.minor(self._device_number)}" if mount is None else mount.device
        self._prefixes: tuple[str, ...] = (f"{directory.path.rstrip('/')}/",)  # paths of the directory in any mount namespace
        self._devices = {self._device}  # of the mounts with these prefixes
        self._network_points: dict[str, list[str]] = {}  # mount points, by namespace
        self._elsewhere: set[int] = set()  # detached and internal mounts of other filesystems
        self._sockets: dict[str, int] = {}  # inode of the file by the text of the descriptor
        self._own_descriptors = -1  # /proc/self/fdinfo, open while processes are inspected

    def scan(self, own: int) -> None:
        """Fill `uses` and `wanted` from all processes but `own`, this run.

        Raises:
            OSError: as `find_uses`.
        """
        tasks = list_tasks(own)
        self._read_mounts(tasks.inspectable)
        self._read_devices()
        self._read_sockets(tasks.inspectable)
        prefixes = [os.fsencode(prefix.replace("\n", r"\012")) for prefix in self._prefixes]
        self._own_descriptors = os.open("/proc/self/fdinfo", _DIRECTORY)
        try:
            for task in tasks.inspectable:
                if self._stopping():
                    raise StoppedError
                try:
                    with unless_ended:
                        self._inspect(task, prefixes)
                except PermissionError:  # it has become another program since it was listed
                    tasks.hidden.append(task.process)
        finally:
            os.close(self._own_descriptors)
        for process in tasks.hidden:
            self._consider_hidden(process)

    def found(self) -> object:
        """Return `uses` and `wanted` for `take`, as JSON."""
        uses = {name: (use.reason.value, use.detail) for name, use in self.uses.items()}
        numbers = [*self.wanted.inodes.items()], [*self.wanted.sockets.items()]
        return [uses, *numbers, self.wanted.socket_paths, [*self.wanted.layers.items()]]

    def take(self, found: Any) -> None:  # noqa: ANN401 - JSON
        """Fill `uses` and `wanted` from the result of the child."""
        uses, inodes, sockets, paths, layers = found
        self.uses = {name: Use(Reason(reason), detail) for name, (reason, detail) in uses.items()}
        self.wanted = Unplaced(dict(inodes), dict(sockets), paths, {tuple(names): text for names, text in layers})

    def _add(self, place: Place | None, text: str, reason: Reason = Reason.IN_USE) -> None:
        """Record a use; `{}` in its text is replaced by the path in the session."""
        if place is None or (place.session in self.uses and reason is Reason.IN_USE):
            return
        inner = place.inner if len(place.inner) <= _MAX_SHOWN else f"{place.inner[:_MAX_SHOWN]}…"
        self.uses[place.session] = Use(reason, text.replace("{}", escape(inner or ".")))

    # ---- Places

    def _place(self, path: str) -> Place | None:
        """Return the place of a path of any mount namespace, None outside of the sessions."""
        if not path.startswith(self._prefixes):
            return None
        found = (self._named(path[len(prefix) :]) for prefix in self._prefixes if path.startswith(prefix))
        return next((place for place in found if place), None)

    def _place_within(self, path: str | None) -> Place | None:
        """Return the place of a path within the filesystem."""
        if path is None or self._directory is None or path == self._directory or not is_below(path, self._directory):
            return None
        return self._named(path[len(self._directory.rstrip("/")) + 1 :])

    def _named(self, path: str) -> Place | None:
        name, _, inner = path.partition("/")
        return Place(name, inner) if name in self._sessions else None

    # ---- Mounts and devices

    def _read_mounts(self, tasks: Iterable[Task]) -> None:
        """Learn the paths of the sessions in each mount namespace, and mounts of and in them."""
        own = list(self._mounts.values())
        for mount in own:
            self._add(self._place(mount.point), "mount point {}", Reason.MOUNT_INSIDE)
        self._add_mounts(own, None)
        seen: set[tuple[str, str]] = set()
        for task in tasks:
            if task.mounts == self._own_namespace or task.root is None or (task.mounts, task.root) in seen:
                continue
            seen.add((task.mounts, task.root))
            mounts: list[Mount] = []
            with unless_ended:
                mounts = read_mounts(task.path, task.root)
            self._mounts |= {mount.id: mount for mount in mounts}
            self._add_mounts(mounts, task)

    def _add_mounts(self, mounts: list[Mount], task: Task | None) -> None:
        """Find mounts of and in the sessions among those that a task sees, or this run."""
        namespace = task.mounts if task else self._own_namespace
        self._network_points.setdefault(namespace, []).extend(mount.point for mount in mounts if mount.kind in _ASKS_SERVER)
        if self._directory is None:
            return
        whose = f" by {shown(task.process)}, in another mount namespace" if task else ""
        table = {mount.id: mount for mount in mounts}
        for mount in mounts:
            above = table.get(mount.parent)
            if above and above is not mount and above.device == self._device and is_below(mount.point, above.point):
                self._add(self._place_within(above.within(mount.point)), f"mount point {{}}{whose}", Reason.MOUNT_INSIDE)
            if mount.device == self._device:
                self._add_view(mount, mount.root, f"{{}} is mounted at {escape(mount.point)}{whose}")
            layers, text = layers_of(mount), f"{{}} is a layer of the overlay at {escape(mount.point)}{whose}"
            for layer in layers:
                # Who mounted the overlay may have had another root directory than the process.
                for path in {self._resolved(layer, task, mounts), layer} if layer.startswith("/") else ():
                    below = mount_of(path, mounts)
                    if below and below.device == self._device:
                        self._add_view(mount, below.within(path), text)
            if relative := tuple(os.path.normpath(layer) for layer in layers if not layer.startswith("/")):
                self.wanted.layers[relative] = text

    def _add_view(self, mount: Mount, directory: str, text: str) -> None:
        """Record that a mount shows a directory of the sessions' filesystem."""
        if self._directory is None:
            return
        if is_below(self._directory, directory):
            shown_as = joined(mount.point, self._directory[len(directory.rstrip("/")) :])
            self._prefixes = tuple({*self._prefixes, f"{shown_as.rstrip('/')}/"})
            self._devices.add(mount.device)
        self._add(self._place_within(directory), text)

    def _resolved(self, path: str, task: Task | None, mounts: list[Mount]) -> str:
        """Resolve links in a path below the root directory of a task, or of this run.

        Links on other filesystems than those of the sessions and of that directory stay. `mounts`
        begin with the path of that directory, as the result does.
        """
        root, chroot = (f"/proc/{task.path}/root", task.root or "") if task else ("", "")
        pending = path.split("/")[::-1]
        done, links = "", 0
        while pending:
            name = pending.pop()
            if name in ("", ".", ".."):
                done = os.path.dirname(done).rstrip("/") if name == ".." else done
                continue
            done = f"{done}/{name}"
            mount = mount_of(joined(chroot, done), mounts)
            if mount is None or (mount.device != self._device and mount.point != joined(chroot, "")):
                continue  # reading it could hang
            try:
                target = os.readlink(f"{root}{done}")
            except OSError:
                continue  # no link
            links += 1
            if links > _MAX_LINKS:
                return joined(chroot, path)
            done = "" if target.startswith("/") else os.path.dirname(done).rstrip("/")
            pending += target.split("/")[::-1]
        return joined(chroot, done)

    def _read_devices(self) -> None:
        """Find images of loop devices, and swap files."""
        for name in os.listdir("/sys/block") if os.path.isdir("/sys/block") else ():
            # Other devices, and one without an image, have no such file.
            with suppress(OSError), open(f"/sys/block/{name}/loop/backing_file", "rb") as file:
                image = os.fsdecode(file.read().removesuffix(b"\n"))
                self._add(self._place(image), f"{{}} is the image of the loop device /dev/{name}")
        # Without a swap, or with a /proc of processes alone. The kernel does not let a swap file be
        # deleted.
        with suppress(FileNotFoundError), open("/proc/swaps", "rb") as table:
            for line in os.fsdecode(table.read()).split("\n")[1:]:
                self._add(self._place(unescaped(line.partition(" ")[0])), "{} is a swap file")

    # ---- Unix sockets

    def _read_sockets(self, tasks: Iterable[Task]) -> None:
        """Find sockets bound in the sessions' filesystem, in each network namespace."""
        namespaces: dict[str, Task | None] = {self._own_network: None}
        for task in tasks:
            namespaces.setdefault(task.network, task)
        for member in namespaces.values():
            try:
                self._add_sockets(sockets_of(member))
            except OSError:
                self._add_socket_paths(member)

    def _add_sockets(self, sockets: Iterable[BoundSocket]) -> None:
        major, minor = map(int, self._device.split(":"))
        for bound in sockets:
            if bound.device == os.makedev(major, minor):
                self.wanted.sockets[bound.inode] = _SOCKET
                self._sockets[f"socket:[{bound.number}]"] = bound.inode

    def _add_socket_paths(self, task: Task | None) -> None:
        """Find sockets by their paths only, because the kernel does not tell their files."""
        with unless_ended:
            for path in socket_paths(task):
                if path.startswith("/"):
                    self._add(self._place(os.path.normpath(path)), _SOCKET)
                else:
                    self.wanted.socket_paths[without_parents(os.path.normpath(path))] = _SOCKET

    # ---- Processes

    def inspect_itself(self) -> None:
        """Find the working directory of this run, which holds sessions open for removal."""
        self._add(self._place(os.readlink("/proc/self/cwd")), "this run works in {}/")

    def _inspect(self, task: Task, prefixes: Collection[bytes]) -> None:
        """Find the sessions that a task uses.

        Raises:
            OSError: it has ended, or cannot be read.
        """
        opened: list[int] = []
        try:
            for path in (f"/proc/{task.path}", f"/proc/{task.path}/fd", f"/proc/{task.path}/fdinfo"):
                opened.append(os.open(path, _DIRECTORY))
            base, descriptors, information = opened
            for name, text in _LINKS.items():
                self._inspect_file(task, base, name, None, text)
            self._inspect_maps(task, prefixes)
            for name in os.listdir(descriptors):
                self._inspect_file(task, descriptors, name, information, "has {} open")
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _inspect_file(self, task: Task, directory: int, name: str, information: int | None, text: str) -> None:
        """Find the place of a file that a task uses; search later if the kernel gives no path.

        `name` is a link in an open directory of /proc, `information` the open fdinfo of a
        descriptor.
        """
        with unless_ended:
            path = link_target(name, directory) or ""
            if path and not path.startswith("/"):  # a pipe, a socket or another object without a path
                if (inode := self._sockets.get(path)) is not None:
                    self.wanted.sockets[inode] = f"{shown(task.process)} has a Unix socket at {{}}"
                return
            if place := self._place(path):
                self._add(place, f"{shown(task.process)} {text}")
                return
            if information is not None:
                is_done = self._is_known(mount_id(name, information), path)
            else:
                is_done = any(is_below(path, point) for point in self._network_points.get(task.mounts, ()))
            if not is_done:
                self._want(task, os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=directory), path, text)

    def _is_known(self, mount: int, path: str) -> bool:
        """Whether mount and path show that a file is in no session; a too long path is empty."""
        known = self._mounts.get(mount)
        return mount in self._elsewhere or (known is not None and (path != "" or known.device not in self._devices))

    def _want(self, task: Task, opened: int, path: str, text: str) -> None:
        """Search the sessions later for an open file that can be in one of them; close it."""
        try:
            mount = mount_id(opened, self._own_descriptors)
            if self._is_known(mount, path):
                return
            device, inode = cached_identity(opened)
            if device == self._device_number:
                self.wanted.inodes[inode] = f"{shown(task.process)} {text}"
            elif mount not in self._mounts:
                self._elsewhere.add(mount)
        finally:
            os.close(opened)

    def _inspect_maps(self, task: Task, prefixes: Collection[bytes]) -> None:
        """Find mapped files; `prefixes` are those of the sessions, as such a table spells them."""
        with open(f"/proc/{task.path}/maps", "rb", buffering=0) as maps:
            text = maps.readall()
        # Without the place of the sessions in their filesystem, only the inode tells.
        is_unplaced = self._directory is None and task.mounts != self._own_namespace
        if not is_unplaced and not any(prefix in text for prefix in prefixes):
            return
        for inode, path in mapped_files(text, self._devices):
            if place := self._place(path):
                self._add(place, f"{shown(task.process)} maps {{}}")
            elif is_unplaced:
                self.wanted.inodes[inode] = f"{shown(task.process)} maps {{}}"

    def _consider_hidden(self, process: int) -> None:
        """Keep the sessions that the command line of a process names that cannot be inspected.

        A process above it that works in a session, and can be inspected, is a use itself.
        """
        for name in self._sessions.intersection(_ID.findall(command_line(process))):
            self._add(Place(name, ""), f"{shown(process)} cannot be inspected, and its command line names the session")

    def look_in_sessions(self, parent: int) -> None:
        """Look for the files whose place is unknown in the sessions that have no use yet.

        Raises:
            OSError: a directory cannot be read.
            StoppedError: a signal asked the run to end.
        """
        names = self._sessions - self.uses.keys()
        for name, inner, text in find_unplaced(self.wanted, parent, names, self._device_number, self._directory, self._stopping):
            self._add(Place(name, inner), text)
