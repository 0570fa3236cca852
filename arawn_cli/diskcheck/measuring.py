"""Measure a root: its workstreams, scratch sessions, trash and filesystem."""

from __future__ import annotations

import errno
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from arawn_cli.arawn.database import WorkstreamRow, workstream_rows
from arawn_cli.arawn.layout import DATABASE_V0, MESSAGES, PRODUCTION, SCRATCH, SESSIONS, TRASH, WORK, Generation
from arawn_cli.arawn.root import Root, workstream_entries
from arawn_cli.cleanup.trash_entry import is_trash, parse_entry
from arawn_cli.config.loader import Config
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.own_files import OwnFiles, measure_own_files
from arawn_cli.errors import Failure
from arawn_cli.events import Filesystem
from arawn_cli.fs.measure import Subtree, Usage, combined, measure_all, threads_for
from arawn_cli.fs.mounts import filesystem_of
from arawn_cli.fs.openat import FileKind, entries, opened_directory
from arawn_cli.names import escape, is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.units import size

log = logging.getLogger(__name__)

_OTHER = "other"
_AREAS = {PRODUCTION: PRODUCTION, WORK: WORK, SESSIONS: WORK}
_MEMORY = "memory.db"  # on main, each workstream has one, with files of SQLite beside it


@dataclass(frozen=True, slots=True)
class WorkstreamTree:
    """The usage of a workstream by area, and of its session directories.

    In 0.0 `work` is `work/` and `sessions/` together; `other` is everything else, for example
    messages. On main `work` is the agent's files and the session directories, and `other` is
    `memory.db`, messages beside them, and the trash; there is no `production`. In 0.0 the trash
    belongs to the area that it lies in.

    `sessions` are the scratch sessions by id, and in 0.0 those left in a promoted workstream.

    `has_row` is whether it has a row in the database, None if there is none or it cannot be read.
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
        trash: removed sessions, which count in their workstream, too.
        filesystem: the filesystem of the root.
        failures: everything that could not be read, in the tree and in the database.
        rows_known: false if the rows of the database could not be read.
    """

    workstreams: tuple[WorkstreamTree, ...]
    foreign: dict[str, Usage]
    own_files: OwnFiles | None
    total: Usage
    trash: Usage
    filesystem: Filesystem
    failures: tuple[Failure, ...]
    rows_known: bool

    @property
    def sessions(self) -> dict[str, Usage]:
        """The scratch sessions by id."""
        return next((tree.sessions for tree in self.workstreams if tree.row.id == SCRATCH), {})


@dataclass(frozen=True, slots=True)
class _Part:
    """A subtree, the area and session that it belongs to, and whether it is a removed session."""

    subtree: Subtree
    area: str
    session: str | None = None
    is_trash: bool = False


def measure_root(root: Root, config: Config, context: RunContext, reused: Mapping[str, Usage]) -> Measurements:
    """Measure a root, and log failures and everything in it that does not count.

    The scratch sessions in `reused` are not measured again. A workstream without a row has its id
    as title, scratch is `Scratch`. A workstream without a directory has no usage.

    Raises:
        OSError: `workstreams/` cannot be listed.
        StoppedError: a signal asked the run to end.
    """
    rows, database_failures = _read_rows(config, root, context)
    ids, foreign = workstream_entries(root)
    parts = [part for workstream in ids for part in _parts(root, (workstream,), _OTHER)]
    parts += [_Part(Subtree((entry.name,)), _OTHER) for entry in foreign]
    threads = threads_for(config.maintenance.threads)
    usages = _measure_parts(root, parts, threads, context, reused)
    own_files = measure_own_files(root, threads, context)

    areas: defaultdict[tuple[str, str], list[Usage]] = defaultdict(list)
    sessions: defaultdict[str, dict[str, Usage]] = defaultdict(dict)
    for part, usage in zip(parts, usages, strict=True):
        areas[part.subtree.names[0], part.area].append(usage)
        if part.session is not None:
            sessions[part.subtree.names[0]][part.session] = usage

    known = {row.id: _titled(row) for row in rows if is_valid_id(row.id)}
    unknown = {name: _titled(WorkstreamRow(name, name)) for name in ids if name not in known}
    is_known = root.database is not None and not database_failures
    total = combined(usages)
    measurements = Measurements(
        workstreams=tuple(
            WorkstreamTree(
                row,
                name in known if is_known else None,
                combined(areas[name, PRODUCTION]),
                combined(areas[name, WORK]),
                combined(areas[name, _OTHER]),
                sessions[name],
            )
            for name, row in sorted({**known, **unknown}.items())
        ),
        foreign={escape(entry.name): combined(areas[entry.name, _OTHER]) for entry in foreign},
        own_files=own_files,
        total=total,
        trash=combined(usage for part, usage in zip(parts, usages, strict=True) if part.is_trash),
        filesystem=filesystem_of(root.path),
        failures=(*database_failures, *total.failures, *(own_files.total.failures if own_files else ())),
        rows_known=not database_failures,
    )
    for failure in measurements.failures:
        log.error("%s", failure)
    for name, usage in measurements.foreign.items():
        log.info("workstreams/%s is not Arawn's: %s", name, size(usage.apparent_bytes))
    for path in total.other_filesystems:
        log.info("workstreams/%s is another filesystem: not counted", path)
    return measurements


def _titled(row: WorkstreamRow) -> WorkstreamRow:
    """Return a row with the title that Arawn 0.0 gives scratch, if it is scratch without a title of its own."""
    return replace(row, title="Scratch") if row.is_scratch and row.title == row.id else row


def _read_rows(config: Config, root: Root, context: RunContext) -> tuple[list[WorkstreamRow], tuple[Failure, ...]]:
    path = root.database
    if path is None and config.maintenance.pressure.limits:
        missing = "not found, so it is unknown which workstream has a limit by its title"
        return [], (Failure("query", DATABASE_V0, errno.ENOENT, missing),)
    if path is None:
        return [], ()
    try:
        return workstream_rows(path, root.layout.generation, context.stopping), ()
    except DatabaseUnreadableError as error:
        return [], (Failure("query", path.name, errno.EIO, str(error)),)


def _parts(root: Root, names: tuple[str, ...], area: str) -> Iterator[_Part]:
    """Yield a directory without its contents and a part for each entry, also in sessions and trash.

    A directory that cannot be listed is one part. Measuring it reports the failure. On main only
    scratch has sessions and trash: everything else in a workstream is the agent's.
    """
    try:
        with opened_directory(root.workstreams, *names) as directory:
            listed = entries(directory)
    except OSError:
        yield _Part(Subtree(names), area)
        return
    yield _Part(Subtree(names, shallow=True), area)
    is_v0 = root.layout.generation is Generation.V0
    has_sessions = is_v0 or names[0] == SCRATCH
    in_workstream, in_trash = len(names) == 1, names[-1] == TRASH
    in_sessions = has_sessions and names[1:] == root.layout.sessions[1:]
    for entry in listed:
        is_directory = entry.kind is FileKind.DIRECTORY
        entry_area = _area_of(root, names[0], entry.name) if in_workstream else area
        is_inner = (entry.name == TRASH and has_sessions) or (entry.name == SESSIONS and in_workstream and is_v0)
        if is_directory and not in_trash and is_inner:
            yield from _parts(root, (*names, entry.name), entry_area)
            continue
        in_place_of_trash = is_directory and has_sessions and (in_trash or is_trash(entry.name))
        yield _Part(
            Subtree((*names, entry.name)),
            entry_area,
            session=entry.name if in_sessions and is_directory and is_valid_id(entry.name) else None,
            is_trash=in_place_of_trash and parse_entry(names, entry.name) is not None,
        )


def _area_of(root: Root, workstream: str, name: str) -> str:
    """Return the area of an entry of a workstream."""
    if root.layout.generation is Generation.V0:
        return _AREAS.get(name, _OTHER)
    is_other = name == MESSAGES or name.startswith(_MEMORY) or (name == TRASH and workstream == SCRATCH)
    return _OTHER if is_other else WORK


def _measure_parts(root: Root, parts: Sequence[_Part], threads: int, context: RunContext, reused: Mapping[str, Usage]) -> list[Usage]:
    known = [reused.get(part.session) if part.session and part.subtree.names[0] == SCRATCH else None for part in parts]
    subtrees = [part.subtree for part, usage in zip(parts, known, strict=True) if usage is None]
    context.progress.start("measuring", len(subtrees))
    measured = iter(measure_all(root.workstreams, subtrees, threads, context.advance_or_stop))
    return [next(measured) if usage is None else usage for usage in known]
