"""A root as it is now: its tree, trash and filesystem measured once, each scope beside its limits."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass

from rich.filesize import decimal

from arawn_cli.config import Config
from arawn_cli.database import DatabaseUnreadableError, workstream_rows
from arawn_cli.events import Filesystem
from arawn_cli.filesystem import filesystem_of
from arawn_cli.inventory import Inventory, take
from arawn_cli.layout import Root, database_of
from arawn_cli.leftovers import trash_usage
from arawn_cli.model import SCRATCH, Failure, Usage, WorkstreamRow
from arawn_cli.pressure import ScopeUsage, unmatched_limits
from arawn_cli.scopes import scopes_of
from arawn_cli.surroundings import Surroundings
from arawn_cli.usage import threads_for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found; `failures` are all that could not be read, of tree and database."""

    inventory: Inventory
    trash: Usage
    filesystem: Filesystem
    scopes: tuple[ScopeUsage, ...]
    failures: tuple[Failure, ...]

    @property
    def sessions(self) -> dict[str, Usage]:
        """The scratch sessions, measured, by id."""
        return next((tree.sessions for tree in self.inventory.workstreams if tree.row.id == SCRATCH), {})


def inspect(root: Root, config: Config, surroundings: Surroundings) -> Inspection:
    """Measures a root, and logs what is odd about it.

    Raises:
        OSError: `workstreams/` cannot be listed.
        StoppedError: a signal asked the run to end.
    """
    rows, database_failures = _rows(config, root)
    inventory = take(root, rows, threads_for(config.maintenance.threads), surroundings)
    filesystem = filesystem_of(root.path)
    failures = (*database_failures, *inventory.total.failures)
    _log_findings(inventory, failures, config)
    return Inspection(inventory, trash_usage(root), filesystem, tuple(scopes_of(config, inventory, filesystem)), failures)


def _rows(config: Config, root: Root) -> tuple[list[WorkstreamRow], tuple[Failure, ...]]:
    path = database_of(config, root)
    if path is None:
        return [], ()
    try:
        return workstream_rows(path), ()
    except DatabaseUnreadableError as error:
        return [], (Failure("sqlite3", path.name, errno.EIO, str(error)),)


def _log_findings(inventory: Inventory, failures: tuple[Failure, ...], config: Config) -> None:
    for failure in failures:
        log.error("%s", failure)
    for name, usage in inventory.foreign.items():
        log.info("workstreams/%s is not Arawn's: %s", name, decimal(usage.apparent_bytes))
    for path in inventory.total.other_filesystems:
        log.info("workstreams/%s is another filesystem: not counted", path)
    for key in unmatched_limits((tree.row for tree in inventory.workstreams), config.maintenance.pressure.limits):
        log.warning("[maintenance.pressure.limits] %r is neither the id nor the title of a workstream", key)
