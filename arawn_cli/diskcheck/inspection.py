"""A root as it is now: its tree, trash and filesystem measured once, each scope beside its limits."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.filesize import decimal

from arawn_cli.arawn.database import WorkstreamRow, workstream_rows
from arawn_cli.arawn.layout import DATABASE, SCRATCH, SESSIONS, Root
from arawn_cli.config.loader import Config, database_of
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.levels import SESSION, ScopeUsage, unmatched_limits
from arawn_cli.diskcheck.limits import FIXED, scopes_of
from arawn_cli.diskcheck.measuring import TreeUsage, take
from arawn_cli.errors import Failure
from arawn_cli.events import Filesystem
from arawn_cli.fs.measure import Usage, threads_for
from arawn_cli.fs.mounts import filesystem_of
from arawn_cli.names import is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was found; `failures` are all that could not be read, of tree and database."""

    inventory: TreeUsage
    filesystem: Filesystem
    scopes: tuple[ScopeUsage, ...]
    failures: tuple[Failure, ...]

    @property
    def sessions(self) -> dict[str, Usage]:
        """The scratch sessions, measured, by id."""
        return next((tree.sessions for tree in self.inventory.workstreams if tree.row.id == SCRATCH), {})


def inspect(root: Root, config: Config, context: RunContext, reused: Mapping[str, Usage]) -> Measurements:
    """Measures a root, but for the scratch sessions in `reused`, and logs what is odd about it.

    Raises:
        OSError: `workstreams/` cannot be listed.
        StoppedError: a signal asked the run to end.
    """
    rows, database_failures = _rows(config, root)
    inventory = take(root, rows, threads_for(config.maintenance.threads), context, reused)
    filesystem = filesystem_of(root.path)
    failures = (*database_failures, *inventory.total.failures)
    _log_findings(inventory, failures, config)
    scopes = tuple(scopes_of(config, inventory, filesystem, rows_known=not database_failures))
    return Measurements(inventory, filesystem, scopes, failures)


def _rows(config: Config, root: Root) -> tuple[list[WorkstreamRow], tuple[Failure, ...]]:
    path = database_of(config, root)
    if path is None and config.maintenance.pressure.limits:
        missing = "not there: nobody knows which workstream has a limit by its title"
        return [], (Failure("sqlite3", DATABASE, errno.ENOENT, missing),)
    if path is None:
        return [], ()
    try:
        return workstream_rows(path), ()
    except DatabaseUnreadableError as error:
        return [], (Failure("sqlite3", path.name, errno.EIO, str(error)),)


def _log_findings(inventory: TreeUsage, failures: tuple[Failure, ...], config: Config) -> None:
    for failure in failures:
        log.error("%s", failure)
    for name, usage in inventory.foreign.items():
        log.info("workstreams/%s is not Arawn's: %s", name, decimal(usage.apparent_bytes))
    for path in inventory.total.other_filesystems:
        log.info("workstreams/%s is another filesystem: not counted", path)
    if any(failure.operation == "sqlite3" for failure in failures):
        return
    for key in unmatched_limits((tree.row for tree in inventory.workstreams), config.maintenance.pressure.limits):
        log.warning("[maintenance.pressure.limits] %r is neither the id nor the title of a workstream", key)


def gone(root: Root, scopes: Iterable[str], inspection: Measurements) -> set[str]:
    """Which of the scopes were not found and are certainly not there any more: their directory does not exist."""
    found = {scope.scope for scope in inspection.scopes}
    return {scope for scope in scopes if scope not in found and _is_gone(root, scope)}


def _is_gone(root: Root, scope: str) -> bool:
    if scope in FIXED:
        return True
    session = scope.removeprefix(SESSION) if scope.startswith(SESSION) else None
    name = session or scope.removeprefix("workstream:")
    if not is_valid_id(name):
        return True  # no such directory can have been measured
    path = f"{SCRATCH}/{SESSIONS}/{name}" if session else name
    try:
        os.stat(path, dir_fd=root.workstreams, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
