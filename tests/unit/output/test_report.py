"""What the page and the terminal say and draw of one report, and that a name stays text in both."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from arawn_cli.cleanup.sessions import Decision
from arawn_cli.config.loader import Flags
from arawn_cli.diskcheck.history import Outlook, Transition, equal_steps, trend_of, usage_at
from arawn_cli.diskcheck.levels import FILESYSTEM, INODES, OWN_FILES, SESSION, TOTAL
from arawn_cli.events import Level, Reason, Unit
from arawn_cli.output import report_html, report_wording
from arawn_cli.output.report_data import OpenAlert, Report, open_alerts
from arawn_cli.output.report_html import page
from arawn_cli.output.report_text import renderables
from arawn_cli.timestamps import DAY
from tests.support.in_process import reported
from tests.support.reports import HOSTILE, HOUR, MB, NOW, Elements, grown, report, scope_report, session, text
from tests.support.tree import SampleTree

# What both forms say


@pytest.mark.parametrize("form", [text, lambda shown: Elements(page(shown)).text])
def test_both_forms_say_the_same(form: Callable[[Report], str]) -> None:
    said = " ".join(form(report()).split())
    for piece in (
        "131.6 MiB of 190.7 MiB in 1 workstream, 69% of the limit.",
        "My blog",
        "124.0 MiB",
        "critical in 70 d",
        "2026-05-27",
        "warning in 62 d",
        "2026-05-19",
        "+13.4 MiB" if form is not text else "▇█",
        "A cleanup now would remove 1 session. It would free 2.9 MiB.",
        "2026-03-23",
        "12 d ago",
        "2026-03-17 09:30 UTC",
        "96.3 MiB of 95.4 MiB",
        "workstreams/My blog",
        "archived",
        "Arawn's own files, at least 6.7 MiB in /srv/My blog",
        "models/",
        "expired, purged 2026-03-18",
    ):
        assert piece in said, piece


@pytest.mark.parametrize("form", [text, page])
def test_without_history_both_forms_say_so_and_draw_no_trend(form: Callable[[Report], str]) -> None:
    said = form(report(history=False))
    assert report_wording.NO_HISTORY in said
    assert "<polyline" not in said
    assert "▁" not in said


@pytest.mark.parametrize("form", [text, page])
def test_what_could_not_be_read_is_told(form: Callable[[Report], str]) -> None:
    said = form(replace(report(), problems=("openat workstreams/blog/x: Permission denied",), cleanup=None, level=Level.OK))
    for piece in ("1 part could not be read", "openat workstreams/blog/x: Permission denied", report_wording.UNKNOWN_CLEANUP, "incomplete"):
        assert piece in said


def test_a_forecast_says_why_it_names_no_day() -> None:
    calm = replace(scope_report("blog", "blog", 50, 100, grown(50)), outlook=Outlook.GROWING)
    assert report_wording.forecast(calm) == "not within a year"
    for outlook in (Outlook.STEADY, Outlook.UNCLEAR, Outlook.UNKNOWN):
        assert report_wording.forecast(replace(calm, outlook=outlook)) == outlook.value
    assert report_wording.forecast(replace(calm, next_limit=None)) == "above both limits"
    assert report_wording.forecast(replace(calm, forecast_days=0)) == "warning today"
    assert report_wording.forecast_day(replace(calm, forecast_days=3), NOW) == "2026-03-21"


@pytest.mark.parametrize("form", [text, lambda shown: Elements(page(shown)).text])
def test_a_scope_without_a_limit_has_no_share_and_no_forecast(form: Callable[[Report], str]) -> None:
    unlimited = scope_report(TOTAL, "all workstreams", 138 * MB, 0, grown(138 * MB))
    shown = replace(report(), total=unlimited, workstreams=(), filesystems=(), alerts=())
    said = " ".join(form(shown).split())
    assert "131.6 MiB in 0 workstreams, no limit." in said
    for piece in ("% of", "of no limit", "both limits", "in 62 d"):
        assert piece not in said.partition("Next cleanup")[0]


def test_a_terminal_without_block_characters_gets_others() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=120)
    with console.capture() as capture:
        for renderable in renderables(report()):
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


def test_a_decision_is_not_compared_with_the_others(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        tree.session(f"old-{number}", files={"f": 1}, age_days=30)
        tree.session(f"new-{number}", files={"f": 1}, age_days=1)
    compared = []
    equal = Decision.__eq__

    def counted(decision: Decision, other: object) -> bool:
        compared.append(decision)
        return equal(decision, other)

    monkeypatch.setattr(Decision, "__eq__", counted)
    shown = reported(tree)
    assert shown.cleanup is not None
    assert (len(shown.cleanup.removed), len(shown.cleanup.later)) == (40, 40)
    assert len(compared) <= 80


# Trends and charts


def test_a_trend_begins_with_what_was_used_when_the_period_began() -> None:
    samples = [(10, 5), (20, 7), (30, 9)]
    assert trend_of(samples, (40, 1), 25) == ((15, 5), (20, 7), (30, 9), (40, 1))
    assert trend_of(samples, (30, 8), 100) == ((10, 5), (20, 7), (30, 8))
    assert trend_of([], (30, 8), 100) == ((30, 8),)
    assert usage_at(((15, 5), (20, 7)), equal_steps(10, 30, 5)) == [None, 5, 7, 7, 7]


@pytest.mark.parametrize(("usage", "expected"), [(0, 0), (50, 25), (100, 50), (500, 100)])
def test_a_bar_ends_at_twice_the_limit(usage: int, expected: float) -> None:
    assert report_html.bar(scope_report("x", "x", usage, 100)) == report_html.Bar(expected, 50)


def test_the_chart_holds_the_limit_and_everything_used() -> None:
    for factor in (0, 1, 50, 10**6):
        total = scope_report(TOTAL, "", 138 * MB * factor, 200 * MB, ((HOUR - 300, 0), (HOUR - 5, 400 * MB)))
        chart = report_html.chart(replace(report(), total=total))
        assert chart is not None
        places = [tuple(map(float, point.split(","))) for line in (chart.line.area, chart.forecast) for point in line.split()]
        assert all(0 <= x <= 1000 and 0 <= y <= 240 for x, y in places)
        assert any(tick.value == 200 * MB for tick in chart.limits)
        assert len(chart.amounts) <= 6


def test_every_reason_that_keeps_a_session_has_words() -> None:
    assert set(report_wording._KEPT) == set(Reason) - {Reason.EXPIRED}


def test_a_page_names_open_alerts_first_with_their_start_and_a_next_step() -> None:
    said = " ".join(Elements(page(report())).text.split())
    assert said.index("Open alerts") < said.index("All workstreams")
    assert "My blog: 124.0 MiB, 130% of 95.4 MiB since 2026-03-17 09:30 UTC See its largest files below, or raise its limit " in said
    assert "scratch-cleanup last run 1 d ago next run 2026-03-19 09:30 UTC" in said
    assert "disk-check has not run yet next run unknown" in said
    assert "1 session removed, 4.8 MiB; 4.8 MiB of it freed, 0 bytes in the trash." in said
    assert "largest file: work/My blog/film.mp4 57.2 MiB" in said


@pytest.mark.parametrize("scope", [TOTAL, "scratch", "blog", f"{SESSION}old", OWN_FILES, f"{FILESYSTEM}:/srv", f"{INODES}:/srv"])
@pytest.mark.parametrize("trash", [0, MB])
@pytest.mark.parametrize("due", [True, False])
def test_every_alert_has_a_command_for_this_root_or_a_sentence(scope: str, trash: int, due: bool) -> None:
    options, command = ("--config", "/etc/my arawn.toml"), Flags(config=Path("/etc/my arawn.toml")).command
    alert = OpenAlert(scope_report(scope, "x", 130 * MB, 100 * MB), NOW)
    shown = replace(report(), alerts=(alert,), trash=trash, cleanup=report().cleanup if due else None)
    console = Console(file=io.StringIO(), width=300, highlight=False)
    for renderable in renderables(shown, command):
        console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    (line,) = (line for line in console.file.getvalue().splitlines() if line.startswith("  arawn-cli "))
    assert shlex.split(line, comments=True)[-2:] == list(options)
    said = Elements(page(shown, command)).text.partition("Open alerts")[2].partition("All workstreams")[0]
    step = report_wording.next_step(alert, shown)
    told = command(*step) if step else report_wording.advice(alert)
    assert told in said
    assert "#" not in said


def test_a_cleanup_into_the_trash_frees_nothing_at_once() -> None:
    full = report().cleanup
    assert full is not None
    shown = replace(report(), cleanup=replace(full, trashed=3 * MB, trash_until=NOW + 3 * DAY, freed=0))
    for form in (text(shown, 300), " ".join(Elements(page(shown)).text.split())):
        assert "2.9 MiB, in the trash until 2026-03-21 09:30 UTC. No space is freed until then." in form
    assert "Cleanup now would remove1 sessionof 2; would free 0 bytes at once" in Elements(page(shown)).text


@pytest.mark.parametrize("form", [text, lambda shown: Elements(page(shown)).text])
def test_every_time_of_day_has_a_zone(form: Callable[[Report], str]) -> None:
    times = re.findall(r"\d\d:\d\d( UTC)?", form(report()))
    assert times == [" UTC"] * len(times)


def test_a_page_without_next_runs_names_the_command_that_says_why() -> None:
    jobs = tuple(replace(job, next_run=None) for job in report().jobs)
    for shown, is_named in ((report(), False), (replace(report(), jobs=jobs), True)):
        assert ("arawn-cli schedule status" in Elements(page(shown)).text) is is_named


def test_sessions_are_counted_by_age_once_each() -> None:
    ages = [0.5, 1, 6.9, 7, 29, 30, 89, 90, 400]
    sessions = (*(session(f"s{number}", 10, age) for number, age in enumerate(ages)), replace(session("u", 10, 1), last_activity=None))
    assert replace(report(), sessions=sessions).ages() == [
        ("under a day", 1, 10),
        ("1 to 7 days", 2, 20),
        ("7 to 30 days", 2, 20),
        ("30 to 90 days", 2, 20),
        ("over 90 days", 2, 20),
        ("unknown", 1, 10),
    ]


def test_of_many_workstreams_those_that_are_small_and_ok_are_folded() -> None:
    (blog,) = report().workstreams
    calm = replace(blog, scope=scope_report("calm", "calm", MB, 100 * MB))
    shown = replace(report(), workstreams=(*[calm] * 199, blog))
    visible, folded = report_wording.folded(shown)
    assert (len(visible), len(folded), visible[-1]) == (13, 187, blog)
    assert "187 more workstreams" in Elements(page(shown)).text


def test_an_alert_lasts_since_its_scope_left_ok() -> None:
    scope = scope_report("blog", "blog", 130 * MB, 100 * MB)
    steps = [(3, Level.WARNING, Level.CRITICAL), (5, Level.OK, Level.WARNING), (9, Level.WARNING, Level.OK), (12, Level.OK, Level.WARNING)]
    transitions = [Transition(NOW - days * DAY, "blog", "blog", Unit.BYTES, 1, 1, before, level) for days, before, level in steps]
    (alert,) = open_alerts({"blog": scope, "calm": scope_report("calm", "calm", 1, 2)}, transitions)
    assert alert.since == NOW - 5 * DAY
    assert open_alerts({"blog": scope}, transitions[:1])[0].since is None
