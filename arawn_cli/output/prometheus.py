"""Write the figures of a job to a file for the textfile collector of Prometheus' node_exporter.

The file has the text format of https://prometheus.io/docs/instrumenting/exposition_formats/. Names
follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters,
`_timestamp_seconds` for instants. Every name begins with its job, because node_exporter refuses a
metric that is in two files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arawn_cli import runs, timestamps
from arawn_cli.cleanup.job import CleanupResult
from arawn_cli.config.loader import Config
from arawn_cli.delivery.outbox import COUNT_FOR_RELAYS
from arawn_cli.diskcheck.job import CheckResult
from arawn_cli.diskcheck.levels import size_in
from arawn_cli.errors import StateUnavailableError
from arawn_cli.events import JobName, Level, Unit
from arawn_cli.fs.files import read_small_file, remove_atomic, write_atomic
from arawn_cli.fs.permissions import account_name
from arawn_cli.output.format import age_class
from arawn_cli.problems import STATE, persistent
from arawn_cli.runs import Run
from arawn_cli.state import State
from arawn_cli.timestamps import SECOND

if TYPE_CHECKING:
    from arawn_cli.check_events import DiskCheck
    from arawn_cli.cleanup_events import ScratchCleanup, ScratchSessionEvent

log = logging.getLogger(__name__)

_AGES = ("1d", "7d", "30d", "90d", "older", "unknown")
"""The labels of the classes of ages: the end of each, in days, and that of an unknown age."""

_OLD_NAME = re.compile(r"arawn_(disk_check|scratch_cleanup)(\.[A-Za-z0-9_-]+)?\.prom")
_LARGEST_BYTES = 16 * 1024**2
_LEVELS = (Level.OK, Level.WARNING, Level.CRITICAL)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: `samples` has the labels and the value of each of its series."""

    name: str
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]
    kind: Literal["gauge", "counter"] = "gauge"


@dataclass(frozen=True, slots=True)
class StateFigures:
    """The figures that the state file has when a run has ended, None for missing ones."""

    run: Run | None = None
    queued_events: int | None = None


def write(directory: Path, config: Config, state: State, result: object) -> bool:
    """Replace the metrics file of a cleanup or a disk check; other results have no metrics.

    The file is that of this account and root. Return False and log a warning if that fails.
    """
    account, root = account_name(os.geteuid()), config.root.resolve()
    match result:
        case CleanupResult():
            job = JobName.SCRATCH_CLEANUP
            metrics = cleanup_metrics(result.summary, result.sessions, _state_figures(state, job, root), succeeded=result.succeeded)
        case CheckResult():
            job = JobName.DISK_CHECK
            metrics = check_metrics(result, config, _state_figures(state, job, root))
        case _:
            return True
    path = directory / file_name(job, account, root)
    try:
        write_atomic(path, exposition(_prefix(job), {"account": account, "root": str(root)}, metrics))
    except OSError as error:
        log.warning("cannot write the metrics %s: %s", path, error.strerror, extra=persistent("metrics"))
        return False
    for old in _old_files_of(directory, root):
        log.info("removing %s: %s replaces it", old, path.name)
        with suppress(OSError):
            remove_atomic(old)
    return True


def _state_figures(state: State, job: JobName, root: Path) -> StateFigures:
    try:
        ((queued,),) = state.select(COUNT_FOR_RELAYS, ()) or [(0,)]
        return StateFigures(runs.read(state, job, root), queued if isinstance(queued, int) else None)
    except StateUnavailableError as error:
        log.warning("%s: the metrics lack the figures of the state file", error, extra=STATE)
        return StateFigures()


def file_name(job: JobName, account: str, root: Path) -> str:
    """Return the fixed name of a job's metrics file, by account and root."""
    plain = re.sub("[^A-Za-z0-9_-]", "_", account)
    return f"{_prefix(job)}.{plain}.{hashlib.sha256(os.fsencode(f'{account}:{root}')).hexdigest()[:8]}.prom"


def remove(directory: Path, root: Path) -> Iterator[Path]:
    """Remove this account's metrics files for a root, and yield those removed."""
    account = account_name(os.geteuid())
    for path in (*(directory / file_name(job, account, root) for job in JobName), *_old_files_of(directory, root)):
        with suppress(OSError):
            if remove_atomic(path):
                yield path


def old_files(directory: Path) -> list[Path]:
    """Return the files with the names that earlier versions gave them, without the account."""
    try:
        return [directory / name for name in sorted(os.listdir(directory)) if _OLD_NAME.fullmatch(name)]
    except OSError:
        return []


def _old_files_of(directory: Path, root: Path) -> list[Path]:
    """Return the old files that this account wrote for a root."""
    label, found = f'root="{_label_value(str(root))}"'.encode(), []
    for path in old_files(directory):
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and label in read_small_file(path, _LARGEST_BYTES):
                found.append(path)
    return found


def _prefix(job: JobName) -> str:
    return f"arawn_{job.replace('-', '_')}"


def check_metrics(checked: CheckResult, config: Config, figures: StateFigures) -> Iterator[Metric]:
    """Return the metrics of a disk check. Scratch sessions within their limit have no series."""
    yield Metric(
        "workstream_usage_bytes",
        "Bytes that a workstream uses, by area.",
        [
            ({"workstream": tree.row.id, "area": area}, size_in(config, usage))
            for tree in checked.measurements.workstreams
            for area, usage in (("production", tree.production), ("work", tree.work), ("other", tree.other))
        ],
    )
    verdicts = [verdict for verdict in checked.verdicts if not verdict.is_ok_session]
    sizes = [verdict.usage for verdict in verdicts if verdict.usage.unit is Unit.BYTES]
    yield Metric("scope_usage_bytes", "Bytes that a scope uses.", [({"scope": usage.scope}, usage.usage) for usage in sizes])
    limited = [usage for usage in sizes if usage.limit]
    yield Metric(
        "scope_limit_bytes", "Bytes above which a scope is at warning.", [({"scope": usage.scope}, usage.limit) for usage in limited]
    )
    yield Metric(
        "scope_critical_bytes", "Bytes above which a scope is critical.", [({"scope": usage.scope}, usage.critical) for usage in limited]
    )
    levels = [({"scope": verdict.usage.scope}, _LEVELS.index(verdict.level)) for verdict in verdicts]
    yield Metric("scope_level", "Level of a scope: 0 ok, 1 warning, 2 critical.", levels)
    summary = checked.summary
    filesystems = (summary.filesystem, *summary.mounted)
    for name, text, value in (
        ("size_bytes", "Size of a filesystem that holds the root or a directory of Arawn's.", attrgetter("total_bytes")),
        ("used_bytes", "Bytes used on it.", attrgetter("used_bytes")),
        ("avail_bytes", "Bytes that an ordinary user can still use on it.", attrgetter("free_bytes")),
        ("files", "Inodes of the filesystem, if it has a limit of them.", attrgetter("total_inodes")),
        ("files_free", "Inodes that an ordinary user can still use on it.", attrgetter("free_inodes")),
    ):
        known = [each for each in filesystems if (each.total_inodes if name.startswith("files") else each.total_bytes)]
        yield Metric(f"filesystem_{name}", text, [({"mountpoint": each.mountpoint}, value(each)) for each in known])
    yield _single("trash_bytes", "Bytes of removed sessions in the trash.", summary.trash_bytes)
    yield _single("complete", "Whether everything could be read.", int(summary.complete))
    yield from _run_metrics(figures, summary, succeeded=summary.complete)


def cleanup_metrics(
    summary: ScratchCleanup, sessions: Iterable[ScratchSessionEvent], figures: StateFigures, *, succeeded: bool
) -> Iterator[Metric]:
    """Return the metrics of a cleanup. Scratch sessions that it left are counted by age."""
    counts = dict.fromkeys(_AGES, 0)
    for session in sessions:
        if not session.action.is_removal:
            counts[_age_bucket(session)] += 1
    yield Metric(
        "sessions",
        "Scratch sessions left by the last run, by the age of their last known use.",
        [({"age": age}, count) for age, count in counts.items()],
    )
    if figures.run is not None:
        for name, text, value in (
            ("removed_sessions_total", "Sessions removed since the state file was created.", figures.run.removed_sessions),
            ("freed_bytes_total", "Bytes freed on the filesystem since the state file was created.", figures.run.freed_bytes),
        ):
            yield Metric(name, text, [({}, value)], "counter")
    yield _single("last_run_removed_sessions", "Sessions that the last run removed.", summary.sessions_cleaned)
    yield _single("last_run_freed_bytes", "Bytes that the last run gave back.", summary.bytes_freed)
    yield _single("last_run_trashed_bytes", "Bytes of sessions that the last run moved to the trash.", summary.bytes_trashed)
    yield _single("last_run_failures", "Number of failures in the last run.", summary.failure_count)
    if summary.trash_bytes is not None:
        yield _single("trash_bytes", "Bytes of removed sessions in the trash.", summary.trash_bytes)
    yield from _run_metrics(figures, summary, succeeded=succeeded)


def _age_bucket(session: ScratchSessionEvent) -> str:
    if session.last_activity is None:
        return _AGES[-1]
    return _AGES[age_class(timestamps.parse(session.last_activity), timestamps.parse(session.timestamp))]


def _run_metrics(figures: StateFigures, summary: DiskCheck | ScratchCleanup, *, succeeded: bool) -> Iterator[Metric]:
    """Return the times of the last run and of the last success, which may be an earlier run."""
    ended = timestamps.parse(summary.timestamp)
    yield _single("last_run_duration_seconds", "How long the last run took.", summary.duration_ms / 1000)
    yield _single("last_run_timestamp_seconds", "When the last run was.", ended / SECOND)
    success = ended if succeeded else (figures.run.last_success or 0) if figures.run else None
    if success is not None:
        text = "When the last run without any failure was; 0 for never."
        yield _single("last_success_timestamp_seconds", text, success / SECOND)
    if figures.queued_events is not None:
        yield _single("outbox_events", "Events in the outbox for the relay.", figures.queued_events)


def _single(name: str, text: str, value: float) -> Metric:
    return Metric(name, text, [({}, value)])


def exposition(prefix: str, labels: Mapping[str, str], metrics: Iterable[Metric]) -> str:
    """Render metrics in Prometheus' text format (version 0.0.4).

    Every name gets the prefix, every series the labels.
    """
    lines = []
    for metric in metrics:
        name = f"{prefix}_{metric.name}"
        lines += [f"# HELP {name} {_escape(metric.help)}", f"# TYPE {name} {metric.kind}"]
        for own, value in metric.samples:
            pairs = ",".join(f'{label}="{_label_value(text)}"' for label, text in sorted({**labels, **own}.items()))
            lines.append(f"{name}{{{pairs}}} {float(value)}")
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _label_value(text: str) -> str:
    """Escape a label value. The format is UTF-8: other bytes of a path become U+FFFD."""
    return _escape(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")).replace('"', '\\"')
