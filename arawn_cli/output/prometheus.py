"""What both jobs tell Prometheus, as values.

Names follow prometheus.io/docs/practices/naming: base units, `_total` for counters, `_timestamp_seconds` for instants.
Every name begins with its job, because node_exporter refuses a metric that stands in two files.
 / Metrics in files for the textfile collector of Prometheus' node_exporter.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arawn_cli import runs, timestamps
from arawn_cli.config.loader import Config
from arawn_cli.diskcheck.levels import Verdict
from arawn_cli.diskcheck.limits import size_in
from arawn_cli.events import Action, JobName, Level, Reason, Unit
from arawn_cli.fs.files import write_atomic
from arawn_cli.runs import Run
from arawn_cli.state import State, StateUnavailableError
from arawn_cli.timestamps import DAY, SECOND

if TYPE_CHECKING:
    from arawn_cli.diskcheck.job import Checked
    from arawn_cli.events import DiskCheck, Filesystem, ScratchCleanup, ScratchSessionEvent

log = logging.getLogger(__name__)

AGES = (("1d", 1), ("7d", 7), ("30d", 30), ("90d", 90))
"""Ages that scratch sessions are counted by: younger than so many days, and not than the ones before."""


_LEVELS = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class Noted:
    """What the state file tells when a run has ended: the runs of the job, and the events in the outbox; None where nobody knows."""

    run: Run | None = None
    waiting: int | None = None


def check_metrics(checked: Checked, config: Config, noted: Noted) -> list[Metric]:
    """What a disk check measured.

    Of scratch sessions only those above their limit have series of their own.
    """
    of = _Families("arawn_disk_check", config.root)
    trees = checked.inspection.inventory.workstreams
    areas = [
        ((tree.row.id, area), size_in(config, usage))
        for tree in trees
        for area, usage in (("production", tree.production), ("work", tree.work), ("other", tree.other))
    ]
    return [
        of.gauges("workstream_usage_bytes", "Bytes that a workstream uses, by area.", ("workstream", "area"), areas),
        *_scopes(of, [verdict for verdict in checked.verdicts if not verdict.is_quiet_session]),
        *_filesystem(of, checked.summary.filesystem),
        of.gauge("trash_bytes", "Bytes of removed sessions that wait in the trash.", checked.summary.trash_bytes),
        of.gauge("complete", "Whether everything could be read.", int(checked.summary.complete)),
        *_run(of, noted, checked.summary, succeeded=checked.summary.complete),
    ]


def cleanup_metrics(summary: ScratchCleanup, sessions: Iterable[ScratchSessionEvent], config: Config, noted: Noted) -> list[Metric]:
    """What a cleanup did, and the sessions that it left by age."""
    of = _Families("arawn_scratch_cleanup", config.root)
    counters: list[Metric] = []
    if (run := noted.run) is not None:
        counters = [
            of.counter("removed_sessions", "Sessions removed since the state file was begun.", run.removed_sessions),
            of.counter("reclaimed_bytes", "Bytes given back to the filesystem since the state file was begun.", run.reclaimed_bytes),
        ]
    return [
        of.gauges("sessions", "Scratch sessions left by the last run, by the age of their last known use.", ("age",), _ages(sessions)),
        *counters,
        of.gauge("last_run_removed_sessions", "Sessions that the last run removed.", summary.sessions_cleaned),
        of.gauge("last_run_reclaimed_bytes", "Bytes that the last run gave back.", summary.bytes_reclaimed),
        of.gauge("last_run_failures", "What failed in the last run.", len(summary.failures)),
        of.gauge("trash_bytes", "Bytes of removed sessions that wait in the trash.", summary.trash_bytes),
        *_run(of, noted, summary, succeeded=not summary.failures and Reason.BRAKE not in summary.sessions_skipped),
    ]


class _Families:
    """Makes metrics whose names begin with a job, and that carry the root as a label."""

    def __init__(self, prefix: str, root: Path) -> None:
        self._prefix = prefix
        self._root = os.fsencode(root.resolve()).decode("utf-8", "replace")

    def gauge(self, name: str, text: str, value: float) -> Metric:
        return self.gauges(name, text, (), [((), value)])

    def gauges(self, name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
        family = GaugeMetricFamily(f"{self._prefix}_{name}", text, labels=("root", *labels))
        for of, value in values:
            family.add_metric((self._root, *of), value)
        return family

    def counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{self._prefix}_{name}", text, labels=("root",))
        family.add_metric((self._root,), value)
        return family


def _scopes(of: _Families, verdicts: Sequence[Verdict]) -> list[Metric]:
    sizes = [verdict.usage for verdict in verdicts if verdict.usage.unit is Unit.BYTES]
    told = (
        ("usage_bytes", "Bytes that a scope uses.", [(usage.scope, usage.usage) for usage in sizes]),
        ("limit_bytes", "Bytes above which a scope is at warning.", [(usage.scope, usage.limit) for usage in sizes]),
        ("critical_bytes", "Bytes above which a scope is critical.", [(usage.scope, usage.critical) for usage in sizes]),
        (
            "level",
            "Level of a scope: 0 ok, 1 warning, 2 critical.",
            [(verdict.usage.scope, _LEVELS.index(verdict.level)) for verdict in verdicts],
        ),
    )
    return [of.gauges(f"scope_{name}", text, ("scope",), [((scope,), value) for scope, value in values]) for name, text, values in told]


def _filesystem(of: _Families, filesystem: Filesystem) -> list[Metric]:
    mount = (filesystem.mountpoint,)
    told = (
        ("size_bytes", "Size of the filesystem that holds the root.", filesystem.total_bytes),
        ("used_bytes", "Bytes used on the filesystem that holds the root.", filesystem.used_bytes),
        ("avail_bytes", "Bytes that an ordinary user can still use on it.", filesystem.free_bytes),
        ("files", "Inodes of the filesystem that holds the root; 0 where it does not count them.", filesystem.total_inodes),
        ("files_free", "Inodes that an ordinary user can still use on it.", filesystem.free_inodes),
    )
    return [of.gauges(f"filesystem_{name}", text, ("mountpoint",), [(mount, value)]) for name, text, value in told]


def _run(of: _Families, noted: Noted, summary: DiskCheck | ScratchCleanup, *, succeeded: bool) -> list[Metric]:
    """When the run was it knows itself; the last success may be an earlier one, and is 0 where there was none."""
    ended = timestamps.parse(summary.timestamp)
    success = ended if succeeded else (noted.run.last_success or 0) if noted.run else None
    metrics = [
        of.gauge("last_run_duration_seconds", "How long the last run took.", summary.duration_ms / 1000),
        of.gauge("last_run_timestamp_seconds", "When the last run was.", ended / SECOND),
    ]
    if success is not None:
        metrics.append(
            of.gauge("last_success_timestamp_seconds", "When the last run without any failure was; 0 for never.", success / SECOND)
        )
    if noted.waiting is not None:
        metrics.append(of.gauge("outbox_events", "Events that wait in the outbox for the relay.", noted.waiting))
    return metrics


def _ages(sessions: Iterable[ScratchSessionEvent]) -> list[tuple[tuple[str, ...], float]]:
    counts = dict.fromkeys((*(name for name, _ in AGES), "older", "unknown"), 0)
    for session in sessions:
        if session.action != Action.DELETED:
            counts[_age(session)] += 1
    return [((age,), count) for age, count in counts.items()]


def _age(session: ScratchSessionEvent) -> str:
    if session.last_activity is None:
        return "unknown"
    age = timestamps.parse(session.timestamp) - timestamps.parse(session.last_activity)
    return next((name for name, days in AGES if age < days * DAY), "older")


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
        run = runs.noted(state, job, config.root.resolve())
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
        write_atomic(path, generate_latest(registry).decode())
    except OSError as error:
        log.warning("cannot write the metrics %s: %s", path, error.strerror)


class _Collected(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
