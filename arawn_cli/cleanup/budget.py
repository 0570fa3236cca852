"""Compute how much exceeds a budget, and which sessions must go if age frees too little.

A budget (`max_total`, `min_free_percent`) purges the trash and then selects sessions. The limits of
`[maintenance.pressure]` only purge the trash earlier. Both stop below 95 % of the bound.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from arawn_cli.arawn.layout import WORKSTREAMS
from arawn_cli.arawn.root import Root, mounts_in, without_mounts
from arawn_cli.cleanup.sessions import Outcome
from arawn_cli.cleanup_events import Action
from arawn_cli.config.loader import Config
from arawn_cli.errors import StoppedError
from arawn_cli.events import Reason
from arawn_cli.fs.measure import Subtree, measure_all
from arawn_cli.fs.mounts import filesystem_of
from arawn_cli.fs.openat import Identity, entries
from arawn_cli.fs.usage import HardLinks, Usage, combined
from arawn_cli.units import size

log = logging.getLogger(__name__)

_STOP_BELOW = 95  # percent of a bound

_Item = TypeVar("_Item")


class Measure(StrEnum):
    """The quantity that a bound counts."""

    ALLOCATED = "allocated"
    APPARENT = "apparent"
    INODES = "inodes"


@dataclass(frozen=True, slots=True)
class Bound:
    """A budget or limit, and the usage that it bounds, both in the unit of its measure.

    Attributes:
        name: its key and value, for people.
        is_budget: whether sessions are removed to meet it; else only the trash is purged.
    """

    name: str
    measure: Measure
    usage: int
    limit: int
    is_budget: bool

    @property
    def is_exceeded(self) -> bool:
        """Whether the usage is above it."""
        return self.usage > self.limit

    def missing(self, freed: Freed) -> int:
        """Return how much is missing below 95 % of it once so much is freed; 0 if none is."""
        return max(self.usage - freed.amounts[self.measure] - (self.limit * _STOP_BELOW - 1) // 100, 0)


class Freed:
    """The bytes that removing trees frees; a file with several names counts with its last one."""

    def __init__(self) -> None:
        self.amounts: Counter[Measure] = Counter()
        self._found: Counter[Identity] = Counter()

    def copy(self) -> Freed:
        """Return an independent sum that begins with this one."""
        other = Freed()
        other.amounts, other._found = self.amounts.copy(), self._found.copy()
        return other

    def add(self, usage: Usage) -> None:
        """Add a tree that is removed as a whole."""
        self.amounts.update(_unlinked(usage))
        for identity, file in usage.linked.items():
            before = self._found[identity]
            self._found[identity] += file.found
            if before < file.names <= self._found[identity]:
                self.amounts.update(_amounts(file))

    def contributes(self, usage: Usage, measure: Measure) -> bool:
        """Whether a tree that was added has a part in the amount of a measure."""
        return _unlinked(usage)[measure] > 0 or any(
            self._found[identity] >= file.names and _amounts(file)[measure] for identity, file in usage.linked.items()
        )


def _amounts(file: HardLinks) -> dict[Measure, int]:
    return {Measure.ALLOCATED: file.allocated, Measure.APPARENT: file.apparent, Measure.INODES: 1}


def _unlinked(usage: Usage) -> dict[Measure, int]:
    linked = usage.linked.values()
    return {
        Measure.ALLOCATED: usage.allocated_bytes - sum(file.allocated for file in linked),
        Measure.APPARENT: usage.apparent_bytes - sum(file.apparent for file in linked),
        Measure.INODES: usage.files + usage.directories - len(linked),
    }


def needed(bounds: Iterable[Bound], trees: Sequence[Usage], freed: Freed) -> list[int]:
    """Return the positions of the trees to remove, in order, until every bound is met.

    These are all if that is not enough. One whose removal frees nothing is left out.
    """
    missing = [bound for bound in bounds if bound.missing(freed)]
    after, chosen = freed.copy(), []
    for position, tree in enumerate(trees):
        if not any(bound.missing(after) for bound in missing):
            break
        after.add(tree)
        chosen.append(position)
    return [position for position in chosen if any(after.contributes(trees[position], bound.measure) for bound in missing)]


def split(items: Sequence[_Item], positions: Collection[int]) -> tuple[list[_Item], list[_Item]]:
    """Return the items at these positions, and the others."""
    chosen = set(positions)
    return [items[position] for position in positions], [item for position, item in enumerate(items) if position not in chosen]


# ---- The bounds of a root


class Space:
    """The exceeded bounds of a run, and the space that it has freed so far."""

    def __init__(self, config: Config, root: Root, sessions: int | None, threads: int, advance: Callable[[int], None]) -> None:
        """Measure the budgets.

        Args:
            config: has the budgets and limits.
            root: the open root.
            sessions: the open directory of the sessions, None if it is missing.
            threads: number of threads that measure.
            advance: as in `measure_all`.

        Raises:
            OSError: the root cannot be measured.
            StoppedError: `advance` raised it.
        """
        self._config = config
        self._root = root
        self._filesystem = root.workstreams if sessions is None else sessions
        self._threads = threads
        self._advance = advance
        self._with_limits = False
        self._total: Usage | None = None
        self._bounds = [bound for bound in self._measured() if bound.is_exceeded]
        self.freed = Freed()

    @property
    def is_exceeded(self) -> bool:
        """Whether a bound was exceeded when the run began."""
        return bool(self._bounds)

    @property
    def exceeds_budget(self) -> bool:
        """Whether a budget was exceeded when the run began."""
        return any(bound.is_budget for bound in self._bounds)

    @property
    def reason(self) -> str:
        """The exceeded bounds, as a clause for people."""
        names = [bound.name for bound in self._bounds if bound.missing(self.freed)]
        return f"{' and '.join(names)} {'are' if names[1:] else 'is'} exceeded"

    def add_limits(self) -> None:
        """Measure the limits as well, because there is or will be a trash.

        Raises:
            OSError, StoppedError: as the constructor.
        """
        self._with_limits = True
        self._bounds = [bound for bound in self._measured() if bound.is_exceeded]

    def needed(self, trees: Sequence[Usage], *, budgets_only: bool = False, after: Iterable[Usage] = ()) -> list[int]:
        """Return the positions as `needed`, once everything in `after` is removed."""
        bounds = [bound for bound in self._bounds if bound.is_budget or not budgets_only]
        if not bounds:
            return []
        freed = self.freed.copy()
        for tree in after:
            freed.add(tree)
        return needed(bounds, trees, freed)

    def measure_again(self, *, only_less: bool = False) -> None:
        """Measure the usage now. With `only_less`, believe it only if it is less than expected.

        Some filesystems free space with a delay, and others write at the same time: neither may
        cost more sessions than planned.
        """
        self._total = None
        try:
            now = {bound.name: bound.usage for bound in self._measured()}
        except (OSError, StoppedError) as error:
            log.info("the space in use is not known: %s", error)
            return
        bounds: list[Bound] = []
        for bound in self._bounds:
            usage = now[bound.name] + self.freed.amounts[bound.measure]  # as before anything was freed
            bounds.append(replace(bound, usage=min(usage, bound.usage) if only_less else usage))
        self._bounds = bounds

    def unmet(self) -> list[Bound]:
        """Return the budgets that are still exceeded, with their usage by the last measurement."""
        left = [replace(bound, usage=bound.usage - self.freed.amounts[bound.measure]) for bound in self._bounds if bound.is_budget]
        return [bound for bound in left if bound.is_exceeded]

    def _measured(self) -> list[Bound]:
        """Return the budgets, and the limits if there is a trash, with their usage now."""
        cleanup, pressure = self._config.maintenance.cleanup, self._config.maintenance.pressure
        bounds: list[Bound] = []
        limit = self._config.total_limit_bytes if self._with_limits else 0
        if cleanup.max_total or limit:
            total = self._total = self._total or workstreams_usage(self._root, self._threads, self._advance)
            apparent = pressure.measure == "apparent"
            if cleanup.max_total:
                name = f"max_total = {size(cleanup.max_total)}"
                bounds.append(Bound(name, Measure.ALLOCATED, total.allocated_bytes, cleanup.max_total, is_budget=True))
            if limit:
                measure, usage = (Measure.APPARENT, total.apparent_bytes) if apparent else (Measure.ALLOCATED, total.allocated_bytes)
                bounds.append(Bound(f"the limit of the total, {size(limit)},", measure, usage, limit, is_budget=False))
        percentages: list[tuple[str, Measure, int, bool]] = []
        if cleanup.min_free_percent:
            percentages.append((f"min_free_percent = {cleanup.min_free_percent}", Measure.ALLOCATED, 100 - cleanup.min_free_percent, True))
        if self._with_limits:
            percentages.append(("filesystem_critical_percent", Measure.ALLOCATED, pressure.filesystem_critical_percent, False))
            percentages.append(("inode_critical_percent", Measure.INODES, pressure.inode_critical_percent, False))
        if not percentages:
            return bounds
        found = filesystem_of(self._filesystem)
        for name, measure, percent, is_budget in percentages:
            is_inodes = measure is Measure.INODES
            used, free = (found.used_inodes, found.free_inodes) if is_inodes else (found.used_bytes, found.free_bytes)
            bounds.append(Bound(name, measure, used, percent * (used + free) // 100, is_budget))
        return bounds


def workstreams_usage(root: Root, threads: int, advance: Callable[[int], None]) -> Usage:
    """Measure `workstreams/` with the trash, without the mounts of others in it, which may hang.

    Raises:
        OSError: `workstreams/` cannot be listed, or the mount table cannot be read.
        StoppedError: `advance` raised it.
    """
    mounts = mounts_in(root)
    parts = [part for entry in entries(root.workstreams) for part in without_mounts(root.workstreams, Subtree((entry.name,)), mounts)]
    total = combined(measure_all(root.workstreams, parts, threads, advance))
    if total.failures:
        text = "not everything in %s/%s could be read, so it uses at least %s: %s"
        log.info(text, root.path, WORKSTREAMS, size(total.allocated_bytes), total.failures[0])
    return total


# ---- Text for people


def unmet_text(bound: Bound, outcomes: Iterable[Outcome]) -> str:
    """Say by how much a budget is exceeded after a run, and what keeps the rest."""
    numbers: Counter[Reason] = Counter()
    sizes: Counter[Reason] = Counter()
    for outcome in outcomes:
        if outcome.action in (Action.KEPT, Action.FAILED):
            numbers[outcome.reason] += 1
            sizes[outcome.reason] += outcome.session.usage.allocated_bytes if outcome.session.usage else 0
    kept = [f"{number:,} {reason}" + (f" ({size(sizes[reason])})" if sizes[reason] else "") for reason, number in sorted(numbers.items())]
    other = bound.usage - sum(sizes.values())
    return (
        f"{bound.name} is not met: {size(bound.usage)} are used, {size(bound.usage - bound.limit)} too much; "
        f"kept sessions: {', '.join(kept) or 'none'}; other files: {size(max(other, 0))}"
    )
