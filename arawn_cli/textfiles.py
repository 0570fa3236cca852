"""Metrics in files for the textfile collector of Prometheus' node_exporter."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from arawn_cli import last_run
from arawn_cli.config import Config
from arawn_cli.metrics import Noted, check_metrics, cleanup_metrics
from arawn_cli.state import State
from arawn_cli.state_file import StateUnavailableError
from arawn_cli.vocabulary import JobName
from arawn_cli.whole_file import replace_whole

if TYPE_CHECKING:
    from arawn_cli.cleanup_events import ScratchCleanup, ScratchSessionEvent
    from arawn_cli.disk_check import Checked

log = logging.getLogger(__name__)

_CHECK = "arawn_disk_check"
_CLEANUP = "arawn_scratch_cleanup"


def write_check(directory: Path, config: Config, state: State, checked: Checked) -> None:
    """The file of a disk check, in place of the one before; a failure is only a warning."""
    noted = _noted(state, JobName.DISK_CHECK, config)
    _write(directory / _file(_CHECK, config), check_metrics(checked, config, noted))


def write_cleanup(directory: Path, config: Config, state: State, summary: ScratchCleanup, sessions: Sequence[ScratchSessionEvent]) -> None:
    """The file of a cleanup, as for a check; `sessions` are the events of all that it looked at."""
    noted = _noted(state, JobName.SCRATCH_CLEANUP, config)
    _write(directory / _file(_CLEANUP, config), cleanup_metrics(summary, sessions, config, noted))


def _file(job: str, config: Config) -> str:
    """The file of a job on a root; series of several roots differ in the label that names the root's path."""
    return f"{job}.prom" if config.root_name is None else f"{job}.{config.root_name}.prom"


def _noted(state: State, job: JobName, config: Config) -> Noted:
    """What the state file tells; one that cannot be read leaves its metrics out."""
    try:
        run = last_run.noted(state, job, config.root.resolve())
        ((waiting,),) = state.select("SELECT count(*) FROM outbox", ()) or [(0,)]
        return Noted(run, waiting if isinstance(waiting, int) else None)
    except StateUnavailableError as error:
        log.warning("%s: the metrics lack what it holds", error)
        return Noted()


def _write(path: Path, metrics: Sequence[Metric]) -> None:
    """Puts metrics into a file, whole and readable by everyone."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    try:
        replace_whole(path, generate_latest(registry).decode())
    except OSError as error:
        log.warning("cannot write the metrics %s: %s", path, error.strerror)


class _Collected(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
