"""Measure a root: its workstreams, scratch sessions, trash and filesystem."""

from __future__ import annotations

import errno
import heapq
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from arawn_cli.arawn.database import WorkstreamRow, workstream_rows
from arawn_cli.arawn.layout import DATABASE_V0, MESSAGES, PRODUCTION, SCRATCH, SESSIONS, TRASH, V0, WORK, WORKSTREAMS
from arawn_cli.arawn.root import Root, mounts_in, without_mounts, workstream_entries
from arawn_cli.cleanup.trash_entry import is_trash, parse_entry
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.own_files import OwnFiles, measure_own_files
from arawn_cli.errors import FAILURES_LISTED, Failure
from arawn_cli.events import Filesystem
from arawn_cli.fs.measure import Subtree, measure_all, threads_for
from arawn_cli.fs.mounts import filesystem_of, is_below, require_answer, with_figures
from arawn_cli.fs.openat import Entry, FileKind, LinkError, entries, opened_directory
from arawn_cli.fs.usage import Usage, combined
from arawn_cli.names import escape, is_valid_id
from arawn_cli.problems import persistent
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.units import size

log = logging.getLogger(__name__)

_FOREIGN_LISTED = 50
_PORTION = 20_000  # parts that are measured together
_OTHER = "other"
_AREAS = {PRODUCTION: PRODUCTION, WORK: WORK, SESSIONS: WORK}
_MEMORY = "memory.db"  # on main, each workstream has one, with files of SQLite beside it


@dataclass(frozen=True, slots=True)
class WorkstreamTree:
    """The usage of a workstream by area, and of its session directories.

    Attributes:
        has_row: whether it has a row in the database; None without a database that can be read.
        production: in 0.0 `production/`; nothing on main.
        work: in 0.0 `work/` and `sessions/`; on main the agent's files and the session directories.
        other: everything else: messages, on main also `memory.db` and the trash, which in 0.0
            belongs to the area that it lies in.
        sessions: the scratch sessions by id, and in 0.0 those left in a promoted workstream.
    """

    row: WorkstreamRow
    has_row: bool | None
    production: Usage
    work: Usage
    other: Usage
    sessions: dict[str, Usage]

    @property
    def total(self) -> Usage:
        """All areas; a file linked from several of them counts once."""
        return combined((self.production, self.work, self.other))


@dataclass(frozen=True, slots=True)
class Measurements:
    """The usage of a root.

    Attributes:
        workstreams: every workstream that has a directory or a row in the database.
        foreign: entries of `workstreams/` that are not Arawn's, by escaped name.
        own_files: Arawn's own files, which are not in the total; None if it is not known where.
        total: everything in `workstreams/`.
        trash_entries: removed sessions by path from `workstreams/`; they count in their workstream,
            too.
        filesystems: that of the root, and those mounted at directories of Arawn's, by the path of
            the directory below the root (empty for the root).
        not_counted: other mounts in the tree, by their path below the root.
        sessions_path: path of the directory of the scratch sessions below the root.
        failures: failures to read the tree and the database, at most 20 of each.
        failure_count: number of all failures, listed or not.
        rows_known: false if the rows of the database could not be read.
    """

    workstreams: tuple[WorkstreamTree, ...]
    foreign: dict[str, Usage]
    own_files: OwnFiles | None
    total: Usage
    trash_entries: dict[tuple[str, ...], Usage]
    filesystems: dict[str, Filesystem]
    not_counted: tuple[str, ...]
    sessions_path: str
    failures: tuple[Failure, ...]
    failure_count: int
    rows_known: bool

    def largest_foreign(self) -> list[tuple[str, Usage]]:
        """Return the largest foreign entries, at most 50, by name."""
        return sorted(heapq.nlargest(_FOREIGN_LISTED, self.foreign.items(), key=lambda entry: entry[1].apparent_bytes), key=itemgetter(0))

    @property
    def trash(self) -> Usage:
        """All removed sessions."""
        return combined(self.trash_entries.values())

    @property
    def sessions(self) -> dict[str, Usage]:
        """The scratch sessions by id."""
        return next((tree.sessions for tree in self.workstreams if tree.row.id == SCRATCH), {})

    @property
    def sessions_mount(self) -> str:
        """The key in `filesystems` of the filesystem that the scratch sessions are on."""
        above = [path for path in self.filesystems if path and is_below(self.sessions_path, path)]
        return max(above, key=len, default="")

    @property
    def filesystem(self) -> Filesystem:
        """The filesystem of the root."""
        return self.filesystems[""]


class _Part(NamedTuple):
    """A subtree, with its area and session; `link` is one in place of a file of Arawn's."""

    subtree: Subtree
    area: str
    session: str | None = None
    trash_entry: tuple[str, ...] | None = None
    link: Failure | None = None

    def part(self, subtree: Subtree) -> _Part:
        """Return a subtree of this one, or all of it, with the same area and session."""
        return self if subtree is self.subtree else self._replace(subtree=subtree)

    def with_link(self, usage: Usage) -> Usage:
        """Return the usage of the subtree with the failure of its link."""
        return usage._replace(failures=(*usage.failures, self.link)) if self.link else usage


def measure_root(root: Root, config: Config, context: RunContext, reused: Mapping[str, Usage]) -> Measurements:
    """Measure a root, and log failures and everything in it that does not count.

    The scratch sessions in `reused` are not measured again. A workstream without a row has its id
    as title, scratch is `Scratch`. A workstream without a directory has no usage.

    Raises:
        OSError: `workstreams/` cannot be listed.
        StoppedError: a signal asked the run to end.
    """
    rows, database_failures = _read_rows(config, root, context)
    ids, foreign = _entries(root)
    mounts, hanging = _mounts_that_answer(root, context.stopping)
    inner = {names for names, is_own in mounts.items() if not is_own}
    unsplit = (*_parts_of(root, ids, inner), *(_Part(Subtree((entry.name,)), _OTHER) for entry in foreign))
    parts = (whole.part(subtree) for whole in unsplit for subtree in without_mounts(root.workstreams, whole.subtree, mounts))
    threads = threads_for(config.maintenance.threads)
    measured = list(_measured(root, parts, threads, context, reused))
    own_files = measure_own_files(root, threads, context)
    filesystems, silent = _filesystems(root, (names for names, is_own in mounts.items() if is_own), context.stopping)

    by_entry: defaultdict[str, list[tuple[_Part, Usage]]] = defaultdict(list)
    in_trash: defaultdict[tuple[str, ...], list[Usage]] = defaultdict(list)
    for part, usage in measured:
        by_entry[part.subtree.names[0]].append((part, usage))
        if part.trash_entry is not None:
            in_trash[part.trash_entry].append(usage)
    known = {row.id: _titled(row) for row in rows if is_valid_id(row.id)}
    unknown = {name: _titled(WorkstreamRow(name, name)) for name in ids if name not in known}
    is_known = root.database is not None and not database_failures
    total = combined(usage for _, usage in measured)
    own = own_files.total if own_files else Usage()
    measurements = Measurements(
        workstreams=tuple(
            _tree_of(row, name in known if is_known else None, by_entry[name]) for name, row in sorted({**known, **unknown}.items())
        ),
        foreign={escape(entry.name): combined(usage for _, usage in by_entry[entry.name]) for entry in foreign},
        own_files=own_files,
        total=total,
        trash_entries={entry: combined(found) for entry, found in in_trash.items()},
        filesystems=filesystems,
        not_counted=tuple(sorted({*map(_shown, inner), *(f"{WORKSTREAMS}/{path}" for path in total.other_filesystems)})),
        sessions_path=_shown(root.layout.sessions),
        failures=(*database_failures, *hanging, *silent, *total.failures, *own.failures)[:FAILURES_LISTED],
        failure_count=len(database_failures) + len(hanging) + len(silent) + total.failure_count + own.failure_count,
        rows_known=not database_failures,
    )
    _log(measurements)
    return measurements


def _mounts_that_answer(root: Root, stopping: Callable[[], bool]) -> tuple[dict[tuple[str, ...], bool], tuple[Failure, ...]]:
    """Return the mounts as `mounts_in`, and the failures of those that do not answer.

    One of the tree that does not answer counts as foreign.

    Raises:
        OSError: the mount table cannot be read.
    """
    mounts, failures = mounts_in(root), []
    for names in [names for names, is_own in mounts.items() if is_own and names]:
        try:
            require_answer(str(root.path.joinpath(WORKSTREAMS, *names)), stopping)
        except OSError as error:
            mounts[names] = False
            failures.append(Failure.of("open", _shown(names), error))
    return mounts, tuple(failures)


def _tree_of(row: WorkstreamRow, has_row: bool | None, measured: Iterable[tuple[_Part, Usage]]) -> WorkstreamTree:
    """Return the usage of a workstream from its parts."""
    areas: defaultdict[str, list[Usage]] = defaultdict(list)
    sessions: defaultdict[str, list[Usage]] = defaultdict(list)
    for part, usage in measured:
        areas[part.area].append(usage)
        if part.session is not None:
            sessions[part.session].append(usage)
    production, work, other = (combined(areas[area]) for area in (PRODUCTION, WORK, _OTHER))
    return WorkstreamTree(row, has_row, production, work, other, {session: combined(usages) for session, usages in sessions.items()})


def _log(measurements: Measurements) -> None:
    for failure in measurements.failures:
        log.error("%s", failure, extra=persistent(f"failure {failure}"))
    if measurements.failure_count > len(measurements.failures):
        text = "and %s more failures"
        log.error(text, f"{measurements.failure_count - len(measurements.failures):,}", extra=persistent("more failures"))
    for name, usage in measurements.largest_foreign():
        log.info("workstreams/%s is not Arawn's: %s", name, size(usage.apparent_bytes))
    for path in measurements.not_counted:
        log.info("%s is another filesystem: not counted", path)


def _titled(row: WorkstreamRow) -> WorkstreamRow:
    """Return a row with Arawn 0.0's title of scratch, if it is scratch without a title."""
    return row._replace(title="Scratch") if row.is_scratch and row.title == row.id else row


def _read_rows(config: Config, root: Root, context: RunContext) -> tuple[list[WorkstreamRow], tuple[Failure, ...]]:
    path = root.database
    if path is None and config.maintenance.pressure.limits:
        missing = "not found, so it is unknown which workstream has a limit by its title"
        return [], (Failure("query", DATABASE_V0, errno.ENOENT, missing),)
    if path is None:
        return [], ()
    try:
        return workstream_rows(path, root.layout, context.stopping), ()
    except DatabaseUnreadableError as error:
        return [], (Failure("query", root.shown_database, errno.EIO, str(error).removeprefix(f"{path}: ")),)


def links(root: Root) -> list[Failure]:
    """Return links in place of Arawn's directories and files; their targets do not count.

    Raises:
        OSError: `workstreams/` cannot be listed, or the mount table cannot be read.
    """
    foreign = {names for names, is_own in mounts_in(root).items() if not is_own}
    return [part.link for part in _parts_of(root, _entries(root)[0], foreign) if part.link]


def _filesystems(
    root: Root, mounts: Iterable[tuple[str, ...]], stopping: Callable[[], bool]
) -> tuple[dict[str, Filesystem], tuple[Failure, ...]]:
    """Return the filesystem of the root, and those mounted at Arawn's directories, with failures.

    The keys are as in `Measurements`. A bind mount of a directory of the same filesystem is left
    out. One that fails has unknown figures.
    """
    found: dict[str, Filesystem] = {}
    devices, failures = set(), []
    places = [("", root.path), *sorted((_shown(names), root.path.joinpath(WORKSTREAMS, *names)) for names in mounts)]
    for path, place in places:
        try:
            filesystem = filesystem_of(place, stopping)
            device = os.stat(place).st_dev
        except OSError as error:
            failures.append(Failure.of("measure", path or ".", error))
            found[path] = with_figures(str(place))
            continue
        if device not in devices:
            devices.add(device)
            found[path] = filesystem
    return found, tuple(failures)


def _shown(names: tuple[str, ...]) -> str:
    return escape("/".join((WORKSTREAMS, *names)))


def _entries(root: Root) -> tuple[list[str], list[Entry]]:
    """Return the ids of the workstreams, also of those that are links, and the foreign entries."""
    ids, foreign = workstream_entries(root)
    linked = [entry for entry in foreign if entry.kind is FileKind.LINK and is_valid_id(entry.name)]
    return [*ids, *(entry.name for entry in linked)], [entry for entry in foreign if entry not in linked]


def _parts_of(root: Root, workstreams: Iterable[str], mounts: Collection[tuple[str, ...]]) -> Iterator[_Part]:
    """Yield the parts of the workstreams that are no foreign mounts, since these may hang."""
    for workstream in workstreams:
        if (workstream,) not in mounts:
            yield from _parts(root, (workstream,), _OTHER, mounts)


def _parts(root: Root, names: tuple[str, ...], area: str, mounts: Collection[tuple[str, ...]]) -> Iterator[_Part]:
    """Yield a directory without its contents and a part for each entry, also in sessions and trash.

    A directory that cannot be listed is one part. Measuring it reports the failure. Foreign mounts
    (`mounts`) are not listed, since they may hang. On main only scratch has sessions and trash:
    everything else in a workstream is the agent's.
    """
    try:
        with opened_directory(root.workstreams, *names) as directory:
            listed = entries(directory)
    except LinkError:
        yield _Part(Subtree(names), area, link=_link(names))
        return
    except OSError:
        yield _Part(Subtree(names), area)
        return
    yield _Part(Subtree(names, shallow=True), area)
    is_v0 = root.layout is V0
    in_workstream, in_trash = len(names) == 1, names[-1] == TRASH
    has_sessions = is_v0 or names[0] == SCRATCH
    in_sessions = has_sessions and names[1:] == root.layout.sessions[1:]
    divided = {TRASH} if has_sessions else set()  # directories whose entries are parts
    own_names = divided  # those of Arawn's, which a link must not have
    if is_v0 and in_workstream:
        divided, own_names = {TRASH, SESSIONS}, {TRASH, *_AREAS, MESSAGES}
    for entry in listed:
        path = (*names, entry.name)
        entry_area = _area_of(root, names[0], entry.name) if in_workstream else area
        is_directory = entry.kind is FileKind.DIRECTORY
        if is_directory and entry.name in divided and not in_trash and path not in mounts:
            yield from _parts(root, path, entry_area, mounts)
            continue
        is_session = in_sessions and is_valid_id(entry.name)
        is_removed = is_directory and has_sessions and (in_trash or is_trash(entry.name)) and parse_entry(names, entry.name) is not None
        is_link = entry.kind is FileKind.LINK and (is_session or entry.name in own_names)
        yield _Part(
            Subtree(path),
            entry_area,
            session=entry.name if is_session and is_directory else None,
            trash_entry=path if is_removed else None,
            link=_link(path) if is_link else None,
        )


def _link(names: tuple[str, ...]) -> Failure:
    return Failure.of("open", "/".join((WORKSTREAMS, *names)), LinkError(names[-1]))


def _area_of(root: Root, workstream: str, name: str) -> str:
    """Return the area of an entry of a workstream."""
    if root.layout is V0:
        return _AREAS.get(name, _OTHER)
    is_other = name == MESSAGES or name.startswith(_MEMORY) or (name == TRASH and workstream == SCRATCH)
    return _OTHER if is_other else WORK


def _measured(
    root: Root, parts: Iterator[_Part], threads: int, context: RunContext, reused: Mapping[str, Usage]
) -> Iterator[tuple[_Part, Usage]]:
    """Yield sessions and entries of the trash with their usages, and other parts by their area.

    On main, all files of an agent may lie in the directory of its workstream, each as a part of its
    own. Only one portion of parts and usages is in memory at a time.
    """
    while portion := list(islice(parts, _PORTION)):
        areas: defaultdict[tuple[str, str], list[Usage]] = defaultdict(list)
        for part, usage in zip(portion, _measure_parts(root, portion, threads, context, reused), strict=True):
            if part.session is None and part.trash_entry is None:
                areas[part.subtree.names[0], part.area].append(usage)
            else:
                yield part, usage
        for (name, area), usages in areas.items():
            yield _Part(Subtree((name,)), area), combined(usages)


def _measure_parts(root: Root, parts: Sequence[_Part], threads: int, context: RunContext, reused: Mapping[str, Usage]) -> list[Usage]:
    known = {(*root.layout.sessions, session): usage for session, usage in reused.items()}
    found = [None if part.subtree.shallow else known.get(part.subtree.names) for part in parts]
    subtrees = [part.subtree for part, usage in zip(parts, found, strict=True) if usage is None]
    context.progress.start("measuring", len(subtrees))
    measured = iter(measure_all(root.workstreams, subtrees, threads, context.advance_or_stop))
    return [part.with_link(next(measured) if usage is None else usage) for part, usage in zip(parts, found, strict=True)]
