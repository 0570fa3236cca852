"""Measure a root: every workstream, the trash and the filesystem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from arawn_cli.arawn.database import WorkstreamRow
from arawn_cli.arawn.layout import PRODUCTION, SCRATCH, SESSIONS, TRASH, WORK, Root, workstream_entries
from arawn_cli.cleanup.trash import is_ours, parse
from arawn_cli.context import RunContext
from arawn_cli.fs.measure import Subtree, Usage, combined, measure_all
from arawn_cli.fs.openat import FileKind, entries, opened_directory
from arawn_cli.names import escape, is_valid_id

_AREAS = {PRODUCTION: PRODUCTION, WORK: WORK, SESSIONS: WORK}


_OTHER = "other"


@dataclass(frozen=True, slots=True)
class WorkstreamTree:
    """One workstream as it was measured: usage by area, and of each session directory by id.

    `work` is `work/` and `sessions/` together; `other` is the rest, messages and trash among it.
    """

    row: WorkstreamRow
    production: Usage
    work: Usage
    other: Usage
    sessions: dict[str, Usage]

    @property
    def total(self) -> Usage:
        """All areas together, a file linked from several of them counted once."""
        return combined((self.production, self.work, self.other))


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """Everything under `workstreams/`: the workstreams, what is not Arawn's by escaped name, and all together.

    `trash` is what waits in the trash, which counts in its workstream too.
    """

    workstreams: tuple[WorkstreamTree, ...]
    foreign: dict[str, Usage]
    total: Usage
    trash: Usage


@dataclass(frozen=True, slots=True)
class _Part:
    """A subtree to measure, and the area and session that its usage belongs to; `is_trash` is of a session that was removed."""

    subtree: Subtree
    area: str
    session: str | None = None
    is_directory: bool = False
    is_trash: bool = False


@dataclass(slots=True)
class _Measured:
    areas: defaultdict[str, list[Usage]] = field(default_factory=lambda: defaultdict(list))
    sessions: dict[str, Usage] = field(default_factory=dict)


def take(root: Root, rows: Sequence[WorkstreamRow], threads: int, context: RunContext, reused: Mapping[str, Usage]) -> TreeUsage:
    """Measures everything below a root; `rows` are the workstreams of the database.

    A workstream without a row goes by its id, one without a directory uses nothing. The usage of scratch sessions
    in `reused` is taken as it is.

    Raises:
        OSError: `workstreams/` cannot be listed.
        StoppedError: a signal asked the run to end.
    """
    ids, foreign = workstream_entries(root)
    parts = [part for workstream in ids for part in _parts(root, workstream)]
    parts += [_Part(Subtree((entry.name,)), _OTHER) for entry in foreign]
    usages = _usages(root, parts, threads, context, reused)
    measured: defaultdict[str, _Measured] = defaultdict(_Measured)
    for part, usage in zip(parts, usages, strict=True):
        place = measured[part.subtree.names[0]]
        place.areas[part.area].append(usage)
        if part.session is not None:
            place.sessions[part.session] = usage
    known = {row.id: row for row in rows if is_valid_id(row.id)}
    unknown = {name: WorkstreamRow(name, name) for name in ids if name not in known}
    trees = tuple(_tree(row, measured[row.id]) for _, row in sorted({**known, **unknown}.items()))
    others = {escape(entry.name): combined(measured[entry.name].areas[_OTHER]) for entry in foreign}
    trash = combined(usage for part, usage in zip(parts, usages, strict=True) if part.is_trash)
    return TreeUsage(trees, others, combined(usages), trash)


def _usages(root: Root, parts: Sequence[_Part], threads: int, context: RunContext, reused: Mapping[str, Usage]) -> list[Usage]:
    """The usage of each part, measured unless it is that of a scratch session and reused."""
    here = [reused.get(part.session) if part.session and part.subtree.names[0] == SCRATCH else None for part in parts]
    rest = [part.subtree for part, usage in zip(parts, here, strict=True) if usage is None]
    context.progress.start("measuring", len(rest))
    measured = iter(measure_all(root.workstreams, rest, threads, context.advance_or_stop))
    return [next(measured) if usage is None else usage for usage in here]


def _tree(row: WorkstreamRow, measured: _Measured) -> WorkstreamTree:
    production, work, other = (combined(measured.areas[area]) for area in (PRODUCTION, WORK, _OTHER))
    return WorkstreamTree(row, production, work, other, measured.sessions)


def _parts(root: Root, workstream: str) -> Iterator[_Part]:
    """A part for each area of a workstream, and for each entry of its `sessions` and of its trash."""
    for part in _opened_up(root, (workstream,), _OTHER):
        name = part.subtree.names[-1]
        if part.is_directory and name == SESSIONS:
            yield from _session_parts(root, workstream)
        elif part.is_directory and name == TRASH:
            yield from _opened_up(root, part.subtree.names, _OTHER)
        else:
            yield replace(part, area=_AREAS.get(name, _OTHER)) if len(part.subtree.names) > 1 else part


def _session_parts(root: Root, workstream: str) -> Iterator[_Part]:
    for part in _opened_up(root, (workstream, SESSIONS), WORK):
        name = part.subtree.names[-1]
        if part.is_directory and name == TRASH:
            yield from _opened_up(root, part.subtree.names, WORK)
        else:
            is_session = part.is_directory and len(part.subtree.names) == 3 and is_valid_id(name)
            yield replace(part, session=name) if is_session else part


def _opened_up(root: Root, names: tuple[str, ...], area: str) -> Iterator[_Part]:
    """The directory without what is in it, and a part for each entry; one that cannot be listed is one part, and tells why."""
    try:
        with opened_directory(root.workstreams, *names) as directory:
            listed = entries(directory)
    except OSError:
        yield _Part(Subtree(names), area)
        return
    yield _Part(Subtree(names, shallow=True), area)
    for entry in listed:
        is_directory = entry.kind is FileKind.DIRECTORY
        is_trash = is_directory and (names[-1] == TRASH or is_ours(entry.name)) and parse(names, entry.name) is not None
        yield _Part(Subtree((*names, entry.name)), area, is_directory=is_directory, is_trash=is_trash)
