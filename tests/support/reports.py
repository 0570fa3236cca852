"""A report of values that a test chooses, with names as hostile as they come, and both forms of
it."""

from __future__ import annotations

import io
from html.parser import HTMLParser

from rich.console import Console

from arawn_cli.cleanup.history import Removal
from arawn_cli.diskcheck.history import Sample, Transition
from arawn_cli.diskcheck.largest import Largest
from arawn_cli.diskcheck.levels import FILESYSTEM, OWN_FILES, TOTAL, ScopeUsage
from arawn_cli.events import Filesystem, JobName, Level, Reason, Unit
from arawn_cli.output.report_data import (
    DirectoryReport,
    JobReport,
    NextCleanup,
    OpenAlert,
    Orphan,
    OrphanKind,
    Report,
    ScopeReport,
    SessionReport,
    WorkstreamReport,
)
from arawn_cli.output.report_text import renderables
from arawn_cli.runs import Run
from arawn_cli.timestamps import DAY, SECOND, parse

NOW = parse("2026-03-18T09:30:00Z")
HOUR = NOW // (3600 * SECOND)
MB = 1_000_000
HOSTILE = "<script>alert(1)</script>'\"&[red]\x1b[2J\n\udcff\u202e{{ 7 * 7 }}"


def scope_report(scope: str, name: str, usage: int, limit: int, trend: tuple[Sample, ...] = (), days: int | None = None) -> ScopeReport:
    level = Level.OK if not limit else Level.CRITICAL if usage > 2 * limit else Level.WARNING if usage > limit else Level.OK
    return ScopeReport(
        usage=ScopeUsage(scope, name, usage, limit, 2 * limit, complete=True),
        level=level,
        trend=(*trend, (HOUR, usage)),
        growth=float(MB) if trend else None,
        next_limit={Level.OK: limit or None, Level.WARNING: 2 * limit}.get(level),
        forecast_days=days,
    )


def grown(usage: int) -> tuple[Sample, ...]:
    return tuple((HOUR - 24 * days, usage - days * MB) for days in range(14, 0, -1))


def session(name: str, size: int, age_days: float, reason: Reason = Reason.ACTIVE) -> SessionReport:
    activity = NOW - int(age_days * DAY)
    return SessionReport(name, Level.OK, size, activity, reason, activity + 7 * DAY if reason is Reason.ACTIVE else None)


def report(name: str = "My blog", *, history: bool = True) -> Report:
    old, new = session("old", 3 * MB, 12, Reason.EXPIRED), session(name, 5 * MB, 2)
    blog = scope_report("blog", name, 130 * MB, 100 * MB, grown(130 * MB) if history else (), 70 if history else None)
    return Report(
        now=NOW,
        days=14,
        host="studio",
        root=f"/srv/{name}",
        older_than_days=7,
        level=Level.WARNING,
        total=scope_report(TOTAL, "all workstreams", 138 * MB, 200 * MB, grown(138 * MB) if history else (), 62 if history else None),
        workstreams=(
            WorkstreamReport(
                "blog", blog, 30 * MB, 90 * MB, 10 * MB, Largest(((f"work/{name}", 80 * MB),), f"work/{name}/film.mp4", 60 * MB)
            ),
        ),
        filesystems=(scope_report(FILESYSTEM, f"/mnt/{name}", 700 * MB, 850 * MB),),
        not_counted=(),
        filesystem=Filesystem(
            mountpoint=f"/mnt/{name}",
            total_bytes=1000 * MB,
            used_bytes=700 * MB,
            free_bytes=300 * MB,
            total_inodes=0,
            used_inodes=0,
            free_inodes=0,
        ),
        trash=0,
        foreign=0,
        sessions=(old, new),
        orphans=(Orphan(OrphanKind.ARCHIVED, f"workstreams/{name}", name, 4 * MB, complete=True),),
        own_scope=scope_report(OWN_FILES, "Arawn's own files", 7 * MB, 0),
        own_files=DirectoryReport(f"/srv/{name}", (("models/", 6 * MB), ("arawn.db", MB)), 7 * MB, complete=False),
        backups=None,
        cleanup=NextCleanup((old,), 0, None, 3 * MB, (new,), over_removal_limit=False),
        transitions=(Transition(NOW - DAY, "blog", name, Unit.BYTES, 101 * MB, 100 * MB, Level.OK, Level.WARNING),),
        removals=(Removal(name, NOW - DAY, NOW - DAY, "expired", "newest: f", 5 * MB, NOW),),
        alerts=(OpenAlert(blog, NOW - DAY),),
        jobs=(
            JobReport(JobName.SCRATCH_CLEANUP, Run(NOW - DAY, NOW - DAY, 3, 9 * MB), NOW + DAY),
            JobReport(JobName.DISK_CHECK, None, None),
        ),
        problems=(),
    )


def text(shown: Report, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for renderable in renderables(shown):
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
