"""The use case `scratch-cleanup`: evidence, plan, removal, report."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from arawn_cli.activity import Activity
from arawn_cli.config import DATABASE, Config
from arawn_cli.descriptors import entries
from arawn_cli.errors import LockedError
from arawn_cli.events import FailureReport, ScratchCleanup, ScratchSessionEvent, rendered
from arawn_cli.layout import TRASH, Root, opened_root, opened_sessions
from arawn_cli.leftovers import Purged, purge, put_back
from arawn_cli.model import Action, Decision, Entry, Failure, Outcome, Reason, ScratchSession, Usage, identity_of
from arawn_cli.names import escape, is_valid_id
from arawn_cli.occupancy import try_lock, unlock
from arawn_cli.plan import Policy, decide, has_changed, undecided
from arawn_cli.remove import Remover
from arawn_cli.surroundings import Surroundings
from arawn_cli.trash import Sessions, TrashEntry, is_ours, waiting
from arawn_cli.usage import Subtree, combined, measure, measure_all, threads_for

log = logging.getLogger(__name__)

# Reasons that tell of something wrong, and not of a session that merely stays.
_TROUBLE = frozenset({Reason.ACTIVITY_UNKNOWN, Reason.FUTURE_TIMESTAMP, Reason.IO_ERROR})


@dataclass(slots=True)
class _Report:
    """What has happened in a run so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    purged: list[Purged] = field(default_factory=list)
    failures: list[FailureReport] = field(default_factory=list)


def clean(config: Config, surroundings: Surroundings) -> ScratchCleanup:
    """Removes the inactive scratch sessions of a root, or in a dry run says which it would.

    Emits a `scratch_session` event for each and returns the last event, which is emitted too.

    Raises:
        ConfigurationError, RefusedError: the root is wrong or unsafe; nothing was touched.
        LockedError: another run is at work.
    """
    started = surroundings.monotonic()
    report = _Report()
    with opened_root(config.root) as root, opened_sessions(root) as descriptor:
        with _locked(descriptor, root, hold=not config.dry_run):
            _Cleanup(config, surroundings, root, report).run(descriptor)
        trash = _trash_bytes(root)
    duration = (surroundings.monotonic() - started) // 1_000_000
    summary = _summary(report, surroundings, dry_run=config.dry_run, trash_bytes=trash, duration_ms=duration)
    surroundings.emit(summary)
    return summary
