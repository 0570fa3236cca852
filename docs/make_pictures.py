"""Draw the pictures of the docs: both jobs and the report on a terminal, and the report as a page.

Terminal pictures are identical on every machine and day. With --check, only report which are stale.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import tomli_w
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from arawn_cli.cleanup.job import clean
from arawn_cli.cli.demo import SampleTree, build
from arawn_cli.config.loader import Flags, load
from arawn_cli.diskcheck import job, levels, measuring
from arawn_cli.diskcheck.levels import ScopeUsage
from arawn_cli.events import Event, Filesystem, Level
from arawn_cli.output.report_data import DirectoryReport, NextCleanup, OpenAlert, Report, ScopeReport, gather
from arawn_cli.output.report_html import page
from arawn_cli.output.report_text import check_renderables, renderables
from arawn_cli.output.tables import Tables
from arawn_cli.timestamps import DAY, parse
from tests.support.chromium import started
from tests.support.in_process import NOWHERE, context

PICTURES = Path(__file__).parent / "pictures"
NOW = parse("2026-03-18T09:30:00Z")
DAYS = 14
CHECKS_A_DAY = 4
GB = 1_000_000_000
COLUMNS = 128
# Without it a viewer of the picture would load fonts from another host.
SVG_FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)

# Size of a file today and its growth in a day, in GB.
FILES = {
    ("thesis", "production/thesis.pdf"): (0.27, 0.004),
    ("thesis", "work/survey.csv"): (1.37, 0.061),
    ("blog", "production/site.tar"): (1.9, 0.0),
    ("blog", "work/photos.raw"): (2.26, 0.083),
    ("podcast", "work/takes.wav"): (5.28, 0.22),
    ("podcast", "production/episodes.mp3"): (1.22, 0.03),
    ("garden", "work/plan.svg"): (0.08, 0.0),
}
TITLES = {"thesis": "Thesis", "blog": "My blog", "podcast": "Podcast", "garden": "Garden"}
# Size of a scratch session in GB, and days since its last use.
SESSIONS = {
    "compare-three-parsers": (0.34, 0.2),
    "plot-rainfall-1961-2020": (0.118, 1.1),
    "transcribe-interview-4": (0.236, 2.4),
    "try-the-new-index": (0.061, 3.7),
    "resize-photos": (0.094, 5.2),
    "keep-tax-2025": (0.012, 61.0),
    "sort-old-mail": (0.073, 9.3),
    "wordcount": (0.0004, 16.5),
}
# Each state in a window of 1280 columns and in one of 390, scaled.
OVERVIEW = """<!doctype html><meta charset="utf-8"><style>
body { margin: 8px; font: 14px sans-serif; display: grid; grid-template-columns: 1fr 1fr; gap: 12px; background: #fff; }
figure { margin: 0; display: grid; grid-template-columns: 400px 130px; gap: 6px; } figcaption { grid-column: 1 / -1; font-weight: bold; }
div { height: 400px; overflow: hidden; border: 1px solid #999; } iframe { border: 0; transform-origin: 0 0; }
.wide iframe { width: 1280px; height: 1290px; transform: scale(.3125); } .narrow iframe { width: 390px; height: 1210px;
transform: scale(.333); }
</style>"""
OWN_FILES = (("workstreams.db", 310_000_000), ("logs/", 42_000_000))


def main(arguments: list[str]) -> None:
    """Draw what terminals show. With `--page`, also draw the page of the report in Chromium."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    job.levels_log.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = _report(folder)
        drawn = {"jobs-terminal.svg": _jobs(folder / "demo"), "report-terminal.svg": _report_on_a_terminal(report)}
        stale = [name for name, text in drawn.items() if (PICTURES / name).read_text("utf-8") != text]
        if "--check" in arguments:
            sys.exit("\n".join(f"stale: docs/pictures/{name}; run make docs" for name in stale) or None)
        for name in stale:
            (PICTURES / name).write_text(drawn[name], "utf-8")
        if "--page" in arguments:
            (folder / "report.html").write_text(page(report), "utf-8")
            with started(folder / "profile") as tab:
                tab.emulate(1080, "light")
                tab.open((folder / "report.html").as_uri())
                (PICTURES / "report.png").write_bytes(tab.picture(height=1010))
                tab.emulate(1120, "light", height=1780)
                tab.open(_overview(folder, report).as_uri())
                (PICTURES / "report-states.png").write_bytes(tab.picture(height=1780))


def _overview(folder: Path, report: Report) -> Path:
    """Write a page with the report in eight states, each in a light and a dark window."""
    cells = []
    for name, shown in _states(report).items():
        html = page(shown)
        (folder / f"{name}-wide.html").write_text(html, "utf-8")
        (folder / f"{name}-narrow.html").write_text(html.replace("@media (prefers-color-scheme: dark)", "@media all"), "utf-8")
        frames = "".join(f'<div class="{window}"><iframe src="{name}-{window}.html"></iframe></div>' for window in ("wide", "narrow"))
        cells.append(f"<figure><figcaption>{name}</figcaption>{frames}</figure>")
    path = folder / "overview.html"
    path.write_text(OVERVIEW + "".join(cells), "utf-8")
    return path


def _states(report: Report) -> dict[str, Report]:
    """Return reports of the states in which a page looks different."""
    calm = _scaled(report.total, 0.5)
    calm_workstreams = tuple(replace(each, scope=_scaled(each.scope, 0.3)) for each in report.workstreams)
    above = replace(_scaled(report.total, 2.2), level=Level.CRITICAL, next_limit=None)
    unread = ("workstreams/thesis/work/private: cannot be listed: Permission denied",)
    new = replace(_scaled(report.total, 0), trend=calm.trend[-1:], growth=None, forecast_days=None)
    no_cleanup = NextCleanup((), 0, None, 0, (), over_removal_limit=False)
    empty = replace(report, level=Level.OK, total=new, own_files=None, own_scope=None, alerts=(), workstreams=(), sessions=())
    titled = tuple(
        replace(each, scope=replace(each.scope, usage=replace(each.scope.usage, name="تقرير الأقراص <b>&amp;")))
        for each in report.workstreams
    )
    jobs = tuple(replace(job, last=None, next_run=None) for job in report.jobs)
    return {
        "warning": report,
        "ok": replace(report, level=Level.OK, alerts=(), total=calm, workstreams=calm_workstreams),
        "critical": replace(report, level=Level.CRITICAL, total=above, alerts=(OpenAlert(above, NOW - 2 * DAY), *report.alerts)),
        "incomplete": replace(report, problems=unread, cleanup=None),
        "new-server": replace(empty, transitions=(), removals=(), orphans=(), jobs=jobs, cleanup=no_cleanup),
        "200-workstreams": replace(report, workstreams=(*report.workstreams, *[calm_workstreams[-1]] * 196)),
        "hostile-titles": replace(report, workstreams=titled),
        "no-schedule": replace(report, jobs=jobs),
    }


def _jobs(folder: Path) -> str:
    """Draw a dry run and a check of the tree of the demo."""
    settings = load(Flags(config=build(folder, NOW), dry_run=True), {"STATE_DIRECTORY": str(folder / "state")}, system_file=NOWHERE)
    console = _recorder()
    for words in ("scratch-cleanup --dry-run --verbose", "disk-check"):
        console.print(f"$ arawn-cli {words}", style="dim")
        events: list[Event] = []
        run = context(NOW, events, settings.state_directory)
        with patch.object(measuring, "filesystem_of", lambda *_: _filesystem(0)):
            if words == "disk-check":
                for renderable in check_renderables(job.check(replace(settings, dry_run=False), run), verbose=False):
                    console.print(renderable)
            else:
                clean(settings, run)
        tables = Tables(console, verbose=True)
        for event in events:
            tables.emit(event)
        console.print()
    return console.export_svg(title="arawn-cli", theme=MONOKAI, code_format=SVG_FORMAT, unique_id="jobs-terminal")


def _report_on_a_terminal(report: Report) -> str:
    console = _recorder()
    console.print("$ arawn-cli report", style="dim")
    for renderable in renderables(report):
        console.print(renderable)
    return console.export_svg(title="arawn-cli report", theme=MONOKAI, code_format=SVG_FORMAT, unique_id="report-terminal")


def _recorder() -> Console:
    return Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)


def _report(folder: Path) -> Report:
    """Check a tree four times a day while it grows for two weeks, and report on it."""
    tree = SampleTree(folder / "arawn", NOW)
    for workstream, title in TITLES.items():
        tree.workstream(workstream, title, {})
    for session, (size, age) in SESSIONS.items():
        _allocate(tree.session(session, files={"data.bin": 0}, age_days=age) / "work" / "data.bin", size)
        os.utime(tree.sessions / session / "work" / "data.bin", ns=(tree.ago(age), tree.ago(age)))
        tree.turn(session, tree.ago(age))
    pressure = {"limits": {"Thesis": "2GB", "My blog": "4GB", "Podcast": "5GB"}}
    config = folder / "config.toml"
    maintenance = {"cleanup": {"protect": ["keep-*"]}, "pressure": pressure}
    config.write_text(tomli_w.dumps({"paths": {"base_path": str(tree.root)}, "maintenance": maintenance}))
    settings = load(Flags(config=config), {"STATE_DIRECTORY": str(folder / "state")}, system_file=NOWHERE)
    for days_ago in (number / CHECKS_A_DAY for number in range(DAYS * CHECKS_A_DAY, -1, -1)):
        for (workstream, name), (size, growth) in FILES.items():
            _allocate(tree.workstreams / workstream / name, size - growth * days_ago)
        now = NOW - int(days_ago * DAY)
        with patch.object(measuring, "filesystem_of", lambda *_, days_ago=days_ago: _filesystem(days_ago)):
            job.check(settings, context(now, [], settings.state_directory))
    with patch.object(measuring, "filesystem_of", lambda *_: _filesystem(0)):
        report = gather(settings, context(NOW, [], settings.state_directory), DAYS, search=True)
    own_files = DirectoryReport("/srv/arawn", OWN_FILES, sum(size for _, size in OWN_FILES), complete=True)
    own_usage = ScopeUsage(levels.OWN_FILES, "Arawn's own files", own_files.size, 0, 0, complete=True)
    own_scope = ScopeReport(own_usage, Level.OK, (), None, None, None)
    return replace(report, host="studio", root="/srv/arawn", own_scope=own_scope, own_files=own_files, backups=None)


def _scaled(scope: ScopeReport, factor: float) -> ScopeReport:
    """Return a scope with its usage and trend multiplied, and the level `ok`."""
    trend = tuple((hour, int(usage * factor)) for hour, usage in scope.trend)
    usage = replace(scope.usage, usage=int(scope.usage.usage * factor))
    return replace(scope, usage=usage, trend=trend, level=Level.OK, next_limit=usage.limit or None)


def _filesystem(days_ago: float) -> Filesystem:
    """Return a filesystem that is the same on every machine."""
    used, inodes = int((47 - 0.25 * days_ago) * GB), 610_000 - int(3_000 * days_ago)
    return Filesystem(
        mountpoint="/srv",
        total_bytes=64 * GB,
        used_bytes=used,
        free_bytes=64 * GB - used,
        total_inodes=4_000_000,
        used_inodes=inodes,
        free_inodes=4_000_000 - inodes,
    )


def _allocate(path: Path, size: float) -> None:
    """Make a file of so many GB that takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, int(size * GB))


if __name__ == "__main__":
    main(sys.argv[1:])
