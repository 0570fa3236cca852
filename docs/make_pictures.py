"""Makes the README's pictures: both jobs on a terminal, and the report of a tree that grew for two weeks, there and as a page.

What terminals show is the same to the byte on every machine and day; `--check` only tells which of these pictures are stale.
"""

from __future__ import annotations

import io
import logging
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import tomli_w
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from arawn_cli.cleanup.job import clean
from arawn_cli.cli.demo import SampleTree, build, set_age
from arawn_cli.config.loader import Flags, load
from arawn_cli.diskcheck.forecast import days_until
from arawn_cli.diskcheck.job import check, levels_log
from arawn_cli.diskcheck.levels import ScopeUsage
from arawn_cli.events import DiskCheck, Event, Filesystem
from arawn_cli.output.report_data import Report, ScopeReport, gather
from arawn_cli.output.report_html import page
from arawn_cli.output.report_text import renderables
from arawn_cli.output.tables import Tables
from arawn_cli.timestamps import DAY, parse
from tests.support.chromium import started
from tests.support.in_process import NOWHERE, context

PICTURES = Path(__file__).parent / "pictures"
NOW = parse("2026-03-18T09:30:00Z")
DAYS = 14
CHECKS_A_DAY = 4
GB = 1_000_000_000
_COLUMNS = 128
# A picture that asks nobody for anything.
_WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)

# Bytes at the beginning and bytes a day of each file, by workstream, area and name.
_GROWTH = {
    ("thesis", "production", "thesis.pdf"): (0.21, 0.004),
    ("thesis", "work", "survey.csv"): (0.52, 0.061),
    ("blog", "production", "site.tar"): (1.9, 0.0),
    ("blog", "work", "photos.raw"): (1.1, 0.083),
    ("podcast", "work", "takes.wav"): (2.2, 0.22),
    ("podcast", "production", "episodes.mp3"): (0.8, 0.03),
    ("garden", "work", "plan.svg"): (0.08, 0.0),
}
_TITLES = {"thesis": "Thesis", "blog": "My blog", "podcast": "Podcast", "garden": "Garden"}
# Size in GB and days since the last use of scratch sessions.
_SESSIONS = {
    "compare-three-parsers": (0.34, 0.2),
    "plot-rainfall-1961-2020": (0.118, 1.1),
    "transcribe-interview-4": (0.236, 2.4),
    "try-the-new-index": (0.061, 3.7),
    "resize-photos": (0.094, 5.2),
    "keep-tax-2025": (0.012, 61.0),
    "sort-old-mail": (0.073, 9.3),
    "wordcount": (0.0004, 16.5),
}


_FILESYSTEM = Filesystem(
    mountpoint="/srv",
    total_bytes=64 * GB,
    used_bytes=47 * GB,
    free_bytes=17 * GB,
    total_inodes=4_000_000,
    used_inodes=610_000,
    free_inodes=3_390_000,
)


def main(arguments: list[str]) -> None:
    """Draws what terminals show; with `--page`, the page of the report in Chromium too."""
    levels_log.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        report = _report(Path(folder))
        drawn = {"jobs-terminal.svg": _jobs(Path(folder)), "report-terminal.svg": _on_a_terminal(report)}
        stale = [name for name, text in drawn.items() if (PICTURES / name).read_text("utf-8") != text]
        if "--check" in arguments:
            sys.exit("\n".join(f"stale: docs/pictures/{name}; run make docs" for name in stale) or None)
        for name in stale:
            (PICTURES / name).write_text(drawn[name], "utf-8")
        if "--page" in arguments:
            _draw_page(Path(folder), report)


def _on_a_terminal(report: Report) -> str:
    console = _recorder()
    console.print("$ arawn-cli report", style="dim")
    for renderable in renderables(report, _COLUMNS):
        console.print(renderable)
    return _svg(console, "report-terminal", "arawn-cli report")


def _jobs(folder: Path) -> str:
    """The tree of the demo, as a dry run and a check show it."""
    config = build(folder / "demo", NOW)
    environment = {"STATE_DIRECTORY": str(folder / "demo" / "state")}
    settings = load(Flags(config=config, dry_run=True), environment, system_file=NOWHERE)
    console = _recorder()
    for words, job in (("scratch-cleanup --dry-run --verbose", clean), ("disk-check", check)):
        events: list[Event] = []
        job(replace(settings, dry_run=job is clean), context(NOW, events, settings.state_directory))
        console.print(f"$ arawn-cli {words}", style="dim")
        tables = Tables(console, verbose=True)
        for event in events:
            tables.emit(replace(event, filesystem=_FILESYSTEM) if isinstance(event, DiskCheck) else event)
        console.print()
    return _svg(console, "jobs-terminal", "arawn-cli")


def _draw_page(folder: Path, report: Report) -> None:
    html = folder / "report.html"
    html.write_text(page(report), "utf-8")
    with started(folder / "profile") as tab:
        tab.emulate(1080, "light")
        tab.open(html.as_uri())
        (PICTURES / "report.png").write_bytes(tab.picture(height=1010))


def _recorder() -> Console:
    return Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)


def _svg(console: Console, name: str, title: str) -> str:
    return console.export_svg(title=title, theme=MONOKAI, code_format=_WITHOUT_FONTS, unique_id=name)


def _report(folder: Path) -> Report:
    tree = SampleTree(folder / "arawn", NOW)
    config = folder / "config.toml"
    limits = {"Thesis": "2GB", "My blog": "4GB", "Podcast": "5GB"}
    tables = {"paths": {"base_path": str(tree.root)}, "maintenance": {"cleanup": {"protect": ["keep-*"]}, "pressure": {"limits": limits}}}
    config.write_text(tomli_w.dumps(tables))
    settings = load(Flags(config=config), {"STATE_DIRECTORY": str(folder / "state")}, system_file=NOWHERE)
    for workstream, title in _TITLES.items():
        tree.workstream(workstream, title, {})
    chance = random.Random(7)  # noqa: S311 - it draws a picture
    for number in range(DAYS * CHECKS_A_DAY + 1):
        days = number / CHECKS_A_DAY
        _grow(tree, days, chance)
        check(settings, context(NOW - int((DAYS - days) * DAY), [], settings.state_directory))
    return _anonymous(gather(settings, context(NOW, [], settings.state_directory), DAYS))


def _grow(tree: SampleTree, days: float, chance: random.Random) -> None:
    """The tree as it was after some days: sessions begin when they are used, and go after eight days as a cleanup would have it."""
    for path, (begin, growth) in _GROWTH.items():
        slack = 0.15 * growth * chance.random()
        _allocate(tree.workstreams.joinpath(*path), int((begin + growth * (int(days) + min(days % 1 * 2, 1)) + slack) * GB))
    for session, (size, age) in _SESSIONS.items():
        if DAYS - days <= age + 1.5:
            directory = tree.sessions / session
            _allocate(directory / "work" / "data.bin", int(size * GB * min((days - DAYS + age + 1.5) / 1.5, 1)))
            set_age(directory, min(NOW - int(age * DAY), NOW))
            if DAYS - days <= age:
                tree.turn(session, NOW - int(age * DAY))
    past = tree.sessions / "render-drafts"
    _allocate(past / "work" / "frames.bin", int(0.4 * GB * min(days / 3, 1) if days < 8 else 0))


def _allocate(path: Path, size: int) -> None:
    """A file that counts as so many bytes and takes none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)


def _anonymous(report: Report) -> Report:
    """The report without the machine that it was made on."""
    space = _shown(report.space, 47 * GB, 64 * GB)
    return replace(
        report, host="studio", root="/srv/arawn", filesystem=_FILESYSTEM, space=space, inodes=_shown(report.inodes, 610_000, 4_000_000)
    )


def _shown(report: ScopeReport | None, usage: int, whole: int) -> ScopeReport | None:
    if report is None:
        return None
    last, steps = report.trend[-1][0], DAYS * CHECKS_A_DAY
    # Not at the hours of the samples: there are more of them where this machine's own disk was in use meanwhile.
    hours = range(last - DAYS * 24, last + 1, 24 // CHECKS_A_DAY)
    trend = tuple((hour, int(usage * (0.93 + 0.07 * number / steps))) for number, hour in enumerate(hours))
    limits = ScopeUsage(report.usage.scope, "/srv", usage, whole * 85 // 100, whole * 95 // 100, complete=True, unit=report.usage.unit)
    growth = usage * 0.005
    return replace(
        report,
        usage=limits,
        trend=trend,
        growth=growth,
        next_limit=limits.limit,
        forecast_days=days_until(limits.limit, usage, growth),
    )


if __name__ == "__main__":
    began = time.monotonic()
    main(sys.argv[1:])
    print(f"{', '.join(sorted(path.name for path in PICTURES.iterdir()))} in {time.monotonic() - began:.1f} s")  # noqa: T201 - a script says what it wrote
