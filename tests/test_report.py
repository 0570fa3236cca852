"""`report`: what it gathers, how it words and draws it, and the page in a real browser."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from arawn_cli import report_charts, report_words
from arawn_cli.alerts import Transition
from arawn_cli.disk_events import DiskPressure, Filesystem, WorkstreamUsage
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import Level
from arawn_cli.forecast import Sample
from arawn_cli.instants import DAY, SECOND, parse
from arawn_cli.pressure import FILESYSTEM, TOTAL, ScopeUsage
from arawn_cli.report_html import page
from arawn_cli.report_text import renderables
from arawn_cli.report_values import NextCleanup, Report, Session, Standing, WorkstreamStanding
from arawn_cli.sample_tree import SampleTree, write
from arawn_cli.scratch_session import Reason
from arawn_cli.trend import equal_steps, trend_of, usage_at
from arawn_cli.vocabulary import Unit
from arawn_cli.whole_file import WholeFile
from tests.chromium import COMMAND, Page, started
from tests.conftest import WITHOUT_FILE_POWERS, Run, needs, needs_setpriv, snapshot
from tests.in_process import checked
from tests.test_terminal import on_a_terminal

RunCommand = Callable[..., Run]
NOW = parse("2026-03-18T09:30:00Z")
HOUR = NOW // (3600 * SECOND)
MB = 1_000_000
HOSTILE = "<script>alert(1)</script>'\"&[red]\x1b[2J\n\udcff\u202e{{ 7 * 7 }}"

needs_chromium = needs(shutil.which(COMMAND) is not None, COMMAND)


def standing(scope: str, name: str, usage: int, limit: int, trend: tuple[Sample, ...] = (), days: int | None = None) -> Standing:
    level = Level.CRITICAL if usage > 2 * limit else Level.WARNING if usage > limit else Level.OK
    return Standing(
        usage=ScopeUsage(scope, name, usage, limit, 2 * limit, complete=True),
        level=level,
        trend=(*trend, (HOUR, usage)),
        growth=float(MB) if trend else None,
        next_limit={Level.OK: limit, Level.WARNING: 2 * limit}.get(level),
        forecast_days=days,
    )


def grown(usage: int) -> tuple[Sample, ...]:
    return tuple((HOUR - 24 * days, usage - days * MB) for days in range(14, 0, -1))


def session(name: str, size: int, age_days: float, reason: Reason = Reason.ACTIVE) -> Session:
    activity = NOW - int(age_days * DAY)
    return Session(name, Level.OK, size, activity, reason, activity + 7 * DAY if reason is Reason.ACTIVE else None)


def report(name: str = "My blog", *, history: bool = True) -> Report:
    old, new = session("old", 3 * MB, 12, Reason.EXPIRED), session(name, 5 * MB, 2)
    blog = standing("blog", name, 130 * MB, 100 * MB, grown(130 * MB) if history else (), 70 if history else None)
    return Report(
        now=NOW,
        days=14,
        host="studio",
        root=f"/srv/{name}",
        older_than_days=7,
        level=Level.WARNING,
        total=standing(TOTAL, "all workstreams", 138 * MB, 200 * MB, grown(138 * MB) if history else (), 62 if history else None),
        workstreams=(WorkstreamStanding("blog", blog, 30 * MB, 90 * MB, 10 * MB),),
        space=standing(FILESYSTEM, f"/mnt/{name}", 700 * MB, 850 * MB),
        inodes=None,
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
        cleanup=NextCleanup((old,), 3 * MB, (new,), braked=False),
        transitions=(Transition(NOW - DAY, "blog", name, Unit.BYTES, 101 * MB, 100 * MB, Level.OK, Level.WARNING),),
        problems=(),
    )


def text(shown: Report, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for renderable in renderables(shown, width):
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


# What both forms say


@pytest.mark.parametrize("form", [text, lambda shown: Elements(page(shown)).text])
def test_both_forms_say_the_same(form: Callable[[Report], str]) -> None:
    said = " ".join(form(report()).split())
    for piece in (
        "138.0 MB of 200.0 MB in 1 workstream, 69% of the limit.",
        "My blog",
        "130.0 MB",
        "critical in 70 d, 2026-05-27",
        "limit in 62 d, 2026-05-19",
        "+14.0 MB",
        "A cleanup now would remove 1 session and free 3.0 MB.",
        "2026-03-23",
        "12 d ago",
        "2026-03-17 09:30",
        "101.0 MB of 100.0 MB",
    ):
        assert piece in said, piece


@pytest.mark.parametrize("form", [text, page])
def test_without_history_both_forms_say_so_and_draw_no_trend(form: Callable[[Report], str]) -> None:
    said = form(report(history=False))
    assert report_words.NO_HISTORY in said
    assert "<polyline" not in said
    assert "▁" not in said


@pytest.mark.parametrize("form", [text, page])
def test_what_could_not_be_read_is_told(form: Callable[[Report], str]) -> None:
    said = form(replace(report(), problems=("openat workstreams/blog/x: Permission denied",), cleanup=None, level=Level.OK))
    for piece in ("1 part could not be read", "openat workstreams/blog/x: Permission denied", report_words.UNKNOWN_CLEANUP, "incomplete"):
        assert piece in said


def test_a_forecast_says_why_it_names_no_day() -> None:
    calm = standing("blog", "blog", 50, 100, grown(50))
    assert report_words.forecast(calm) == "not within a year"
    assert report_words.forecast(replace(calm, growth=0.0)) == "not growing"
    assert report_words.forecast(replace(calm, growth=None)) == "not known yet"
    assert report_words.forecast(replace(calm, next_limit=None)) == "above both limits"
    assert report_words.forecast(replace(calm, forecast_days=0)) == "limit today"
    assert report_words.reached(replace(calm, forecast_days=3), NOW) == "2026-03-21"


def test_a_terminal_without_block_characters_gets_others() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=120)
    with console.capture() as capture:
        for renderable in renderables(report(), 120):
            console.print(renderable)
    assert re.search(r"_+\.+-+=+\++\*+#+", capture.get())
    assert capture.get().isascii()


# Hostile names


def test_a_name_stays_text_in_the_page() -> None:
    html = page(report(HOSTILE))
    html.encode()
    elements = Elements(html)
    assert not [tag for tag, _ in elements.tags if tag in ("script", "red", "img", "iframe")]
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on") or name == "src"]
    assert "<script>alert(1)</script>'\"&[red]\\x1b[2J\\x0a\\xff\\xe2\\x80\\xae{{ 7 * 7 }}" in elements.text
    assert {tag for tag, _ in elements.tags} == {tag for tag, _ in Elements(page(report())).tags}


def test_a_name_stays_text_on_the_terminal() -> None:
    said = text(report(HOSTILE), 400)
    assert "[red]\\x1b[2J\\x0a\\xff\\xe2\\x80\\xae" in said
    assert "\x1b" not in said
    assert text(report(HOSTILE), 30)


def test_the_page_names_nothing_outside_itself() -> None:
    html = page(report())
    addresses = [
        value for _, attributes in Elements(html).tags for name, value in attributes.items() if name in ("href", "src", "xlink:href")
    ]
    assert addresses == ["data:,"]
    assert "url(" not in html
    assert "@import" not in html


def test_every_drawing_has_a_title() -> None:
    html = page(report())
    drawings = html.count("<svg")
    assert drawings >= 4
    assert len(re.findall(r'<svg [^>]*role="img"><title>[^<]+</title>', html)) == drawings


# Trends and charts


def test_a_trend_begins_with_what_was_used_when_the_period_began() -> None:
    samples = [(10, 5), (20, 7), (30, 9)]
    assert trend_of(samples, (40, 1), 25) == ((15, 5), (20, 7), (30, 9), (40, 1))
    assert trend_of(samples, (30, 8), 100) == ((10, 5), (20, 7), (30, 8))
    assert trend_of([], (30, 8), 100) == ((30, 8),)
    assert usage_at(((15, 5), (20, 7)), equal_steps(10, 30, 5)) == [None, 5, 7, 7, 7]


@pytest.mark.parametrize(("usage", "expected"), [(0, 0), (50, 25), (100, 50), (500, 100)])
def test_a_bar_ends_at_twice_the_limit(usage: int, expected: float) -> None:
    assert report_charts.bar(standing("x", "x", usage, 100)) == report_charts.Bar(expected, 50)


def test_the_chart_holds_the_limit_and_everything_used() -> None:
    for factor in (0, 1, 50, 10**6):
        total = standing(TOTAL, "", 138 * MB * factor, 200 * MB, ((HOUR - 300, 0), (HOUR - 5, 400 * MB)))
        chart = report_charts.chart(replace(report(), total=total))
        assert chart is not None
        places = [tuple(map(float, point.split(","))) for line in (chart.line.area, chart.ahead) for point in line.split()]
        assert all(0 <= x <= 1000 and 0 <= y <= 240 for x, y in places)
        assert any(mark.value == 200 * MB for mark in chart.limits)
        assert len(chart.amounts) <= 6


# The command on real trees


def with_history(tree: SampleTree, config: Path) -> None:
    """A workstream that grew by ten kilobytes a day for ten days, as checks saw it."""
    tree.workstream("blog", "My blog", {"work/f": 0})
    for quarter in range(40, 0, -1):
        write(tree.workstreams / "blog" / "work" / "f", 400_000 - quarter * 2_500)
        checked(tree, config, now=tree.now - quarter * DAY // 4)
    write(tree.workstreams / "blog" / "work" / "f", 400_000)
    tree.session("old", files={"f": 3_000}, age_days=20)
    tree.session("young", files={"f": 9_000}, age_days=2)
    (tree.sessions / "young" / "work" / "f").touch()
    os.utime(tree.sessions / "young" / "work" / "f", ns=(tree.ago(2), tree.ago(2)))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "report.toml"
    path.write_text(f'[maintenance]\nstate_dir = "{tmp_path / "state"}"\n[maintenance.pressure.limits]\nblog = 393000\n')
    return path


def forecasts_told(tree: SampleTree, config: Path) -> list[str]:
    """What a report tells of the blog by a check then and a check now: the hour, or the day, may have turned between them."""
    told = []
    for now in (tree.now, time.time_ns()):
        _, events = checked(tree, config, now=now, dry_run=True)
        (days,) = (event.forecast_days for event in events if isinstance(event, WorkstreamUsage) and event.workstream_id == "blog")
        assert days is not None
        told.append(f"warning: critical in {days} d, {report_words.day(now + days * DAY)}")
    return told


def test_a_report_agrees_with_the_check_and_leaves_no_trace(run: RunCommand, tree: SampleTree, config: Path, tmp_path: Path) -> None:
    with_history(tree, config)
    before = snapshot(tmp_path)
    done = run("report", "--base-path", tree.root, "--config", config, COLUMNS="140")
    assert snapshot(tmp_path) == before
    assert done.code == 0, done.stderr
    assert "\x1b" not in done.stdout
    _, events = checked(tree, config, dry_run=True)
    (usage,) = (event for event in events if isinstance(event, WorkstreamUsage) and event.workstream_id == "blog")
    (pressure,) = (event for event in events if isinstance(event, DiskPressure))
    assert usage.forecast_days == pressure.forecast_days == 39, "386 kB to the critical limit at 10 kB a day"
    line = next(line for line in done.stdout.splitlines() if line.startswith("My blog"))
    assert any(told in line for told in forecasts_told(tree, config)), line
    assert {"400.0 kB", "101%", "+100.0 kB"} <= set(re.split(r"  +", line)), line
    assert re.search(r"▁.*█", line)
    for piece in ("would remove 1 session and free 3.0 kB", f"{report_words.day(tree.ago(-5))}      9.0 kB  young"):
        assert piece in done.stdout
    assert re.search(r"ok to warning  My blog, 395\.0 kB of 393\.0 kB", done.stdout)


def test_alerts_of_the_period_are_told(run: RunCommand, tree: SampleTree, config: Path) -> None:
    tree.workstream("blog", "My blog", {"work/f": 500_000})
    checked(tree, config, now=tree.now - 3 * DAY)
    arguments = ("report", "--base-path", tree.root, "--config", config)
    assert re.search(r"ok to warning  My blog, 500\.0 kB of 393\.0 kB", run(*arguments, COLUMNS="120").stdout)
    assert "No level changed" in run(*arguments, "--days", "2").stdout


def test_a_terminal_gets_colour(environment: dict[str, str], tree: SampleTree) -> None:
    tree.workstream("blog", "\x1b[2Jt[red]x", {"work/f": 10})
    code, drawn = on_a_terminal(environment, "report", "--base-path", tree.root)
    assert code == 0
    assert "\\x1b[2Jt[red]x" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b[32m" in drawn


@pytest.mark.parametrize("extra", [(), ("--html", "-")])
def test_an_empty_tree_without_history_is_reported(run: RunCommand, tree: SampleTree, extra: tuple[str, ...]) -> None:
    done = run("report", "--base-path", tree.root, *extra)
    assert done.code == 0, done.stderr
    assert report_words.NO_HISTORY in done.stdout
    assert "no session is unused for 7 days" in done.stdout
    assert not done.stderr


def test_the_page_replaces_a_file_whole(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    real, link = tmp_path / "kept" / "real.html", tmp_path / "link.html"
    real.write_text("before")
    link.symlink_to(real)
    done = run("report", "--base-path", tree.root, "--html", link)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert real.read_text().startswith("<!doctype html>")
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o644
    assert os.listdir(real.parent) == ["real.html"]


def test_a_device_is_written_to_and_stays(run: RunCommand, tree: SampleTree) -> None:
    assert run("report", "--base-path", tree.root, "--html", "/dev/null").code == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    full = run("report", "--base-path", tree.root, "--html", "/dev/full")
    assert (full.code, full.stderr) == (78, "ERROR: cannot write the report /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere/r.html", "No such file or directory"),
        ("folder", "Is a directory"),
        ("loop", "its links form a loop"),
        ("file/r", "Not a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_measuring(
    run: RunCommand, tree: SampleTree, tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    shutil.rmtree(tree.workstreams)
    done = run("report", "--base-path", tree.root, "--html", tmp_path / target)
    assert (done.code, done.stdout) == (78, "")
    assert done.stderr == f"ERROR: cannot write the report {tmp_path / target}: {reason}\n"


def test_a_full_disk_keeps_the_page_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page").mkdir()
    target = tmp_path / "page" / "r.html"
    target.write_text("before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        WholeFile(target, "the report").write("after")
    assert (target.read_text(), os.listdir(target.parent)) == ("before", ["r.html"])


def test_standard_output_that_takes_no_more_is_69(run: RunCommand, tree: SampleTree) -> None:
    for extra in ((), ("--html", "-")):
        done = run("report", "--base-path", tree.root, *extra, prefix=("bash", "-c", 'exec "$0" "$@" >/dev/full'))
        assert (done.code, done.stderr) == (69, "ERROR: standard output takes no more: No space left on device\n")


@needs_setpriv
def test_what_cannot_be_read_is_told_with_exit_1(run: RunCommand, tree: SampleTree) -> None:
    hidden = tree.workstream("blog", "My blog", {"work/f": 10}) / "work"
    hidden.chmod(0)
    os.chown(hidden, 12345, 12345)
    done = run("report", "--base-path", tree.root, prefix=WITHOUT_FILE_POWERS)
    assert done.code == 1
    assert "Incomplete: 1 part could not be read" in done.stdout
    assert "at least" in done.stdout


def test_a_limit_that_nobody_knows_is_told_so_with_exit_1(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "titled.toml").write_text("[maintenance.pressure.limits]\n'My blog' = 5\n")
    tree.workstream("blog", "My blog", {"work/f": 10})
    tree.workstream("total", "Total", {"work/f": 20})
    for path in tree.root.glob("workstreams.db*"):
        path.write_text("no database" * 100)
    for form in ((), ("--html", "-")):
        done = run("report", "--base-path", tree.root, "--config", tmp_path / "titled.toml", *form, COLUMNS="140")
        assert done.code == 1, done.stderr
        assert done.stdout.count("limit not known") >= 2


def test_a_state_that_cannot_be_read_is_told_with_exit_1(run: RunCommand, tree: SampleTree, config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_text("no database" * 100)
    before = snapshot(tmp_path / "state")
    done = run("report", "--base-path", tree.root, "--config", config)
    assert done.code == 1
    assert "earlier usage and alerts are not known" in done.stdout
    assert snapshot(tmp_path / "state") == before


@pytest.mark.parametrize("days", ["0", "91", "x"])
def test_days_are_from_1_to_90(run: RunCommand, tree: SampleTree, days: str) -> None:
    assert run("report", "--base-path", tree.root, "--days", days).code == 2


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with started(tmp_path_factory.mktemp("chromium")) as page_:
        yield page_


LONG = "a-name-without-any-place-to-break-" * 8


@needs_chromium
@pytest.mark.parametrize("name", ["My blog", HOSTILE, LONG, "x" * 300])
def test_the_page_in_a_browser_fits_asks_for_nothing_and_complains_of_nothing(tab: Page, tmp_path: Path, name: str) -> None:
    problems = ("openat " + LONG,) if name == LONG else ()
    file = tmp_path / "report.html"
    file.write_text(page(replace(report(name), problems=problems, host=name)), "utf-8")
    backgrounds = {}
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            tab.emulate(width, scheme)
            tab.open(file.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
            assert tab.complaints() == []
            assert tab.requested() == [file.as_uri()]
            backgrounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            wide = "[...document.querySelectorAll('td, span, svg, p, li')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
            assert tab.evaluate(wide) == 0
    assert backgrounds["light"] != backgrounds["dark"]
    assert tab.evaluate("document.scripts.length") == 0


@needs_chromium
def test_text_stands_out_from_its_background_in_both_schemes(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(report()), "utf-8")
    for scheme in ("light", "dark"):
        tab.emulate(1280, scheme)
        tab.open(file.as_uri())
        colours = tab.evaluate(
            "['--page', '--card', '--ink', '--soft', '--ok', '--warning', '--critical']"
            ".map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
        )
        assert isinstance(colours, list)
        grounds, inks = colours[:2], colours[2:]
        assert all(contrast(ink, ground) >= 4.5 for ink in inks for ground in grounds), scheme


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_report_without_a_readable_database_shows_what_is_known(run: RunCommand, tree: SampleTree, config: Path) -> None:
    tree.workstream("blog", "My blog", {"work/f": 500_000})
    tree.workstream("total", "Named like a scope", {"work/f": 1000})
    config.write_text(config.read_text().replace("blog = 393000", "'My blog' = 393000"))
    tree.database.write_bytes(b"no database" * 100)
    done = run("report", "--base-path", tree.root, "--config", config)
    assert done.code == 1
    assert {"blog", "total"} <= set(done.stdout.split())
    assert "file is not a database" in done.stdout
