"""What a terminal of any width shows: whole figures, shortened titles, the worst first."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from arawn_cli.config.loader import Flags
from arawn_cli.diskcheck.history import Outlook
from arawn_cli.diskcheck.levels import ScopeUsage
from arawn_cli.events import Level, Unit
from arawn_cli.output import report_wording as words
from arawn_cli.output.report_data import ScopeReport
from arawn_cli.output.report_text import UsageTable, check_renderables, renderables
from arawn_cli.output.tables import Listing, Tables
from tests.support.in_process import checked, cleaned, reported
from tests.support.limits import MIB, configured
from tests.support.reports import report, scope_report, session
from tests.support.tree import SampleTree

__all__ = ["configured"]

WIDTHS = range(60, 201)
LONG = "Notes for the annual review of the climate adaptation programme of the northern districts, second draft"

titles = (
    st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), min_size=1, max_size=120).map(str.strip).filter(len)
)
MOST = {Unit.BYTES: 2**60, Unit.INODES: 10**12}  # more than any filesystem has


@st.composite
def scopes(draw: st.DrawFn) -> ScopeReport:
    unit = draw(st.sampled_from(Unit))
    limit, capacity = (draw(st.one_of(st.just(0), st.integers(10**6, MOST[unit]))) for _ in range(2))
    usage = ScopeUsage("x", "x", draw(st.integers(0, MOST[unit])), limit, limit, draw(st.booleans()), unit, capacity=capacity)
    next_limit, days = (draw(st.none() | st.integers(0, 365)) for _ in range(2))
    return ScopeReport(usage, draw(st.sampled_from(Level)), (), None, next_limit, days, draw(st.sampled_from(Outlook)))


def lines_of(shown: Iterable[RenderableType], width: int, encoding: str = "utf-8") -> list[str]:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding=encoding, errors="replace"), width=width, highlight=False)
    for renderable in shown:
        console.print(renderable, crop=False)
    console.file.flush()
    return buffer.getvalue().decode(encoding).splitlines()


def is_shown(title: str, line: str) -> bool:
    """Whether a line begins with a title, or with its beginning and an ellipsis."""
    beginning, ellipsis, _ = line.partition("…")
    return line.startswith(title) or (bool(ellipsis) and title.startswith(beginning.rstrip()))


@given(rows=st.lists(st.tuples(titles, scopes()), min_size=1, max_size=4), width=st.sampled_from(WIDTHS), hours=st.sampled_from((0, 24)))
def test_a_table_of_usage_shows_every_figure_whole_and_fits(rows: list[tuple[str, ScopeReport]], width: int, hours: int) -> None:
    _heading, *lines = lines_of([UsageTable(rows, hours)], width)
    assert len(lines) == len(rows)
    for (title, scope), line in zip(rows, lines, strict=True):
        assert cell_len(line) <= width
        assert words.used(scope) in line
        assert words.share(scope) in line
        assert scope.level is Level.OK or scope.level in line
        assert is_shown(title, line), (title, line)


markup = st.lists(st.sampled_from(("[/x]", "[bold]", "[/]", ":smile:", "\\[", "a")), min_size=1, max_size=4).map("".join)
cells = titles | markup


@given(rows=st.lists(st.tuples(cells, cells, cells, cells), min_size=1, max_size=4), width=st.sampled_from(range(40, 201)))
def test_a_listing_shows_every_cell_whole_and_fits(rows: list[tuple[str, ...]], width: int) -> None:
    lines = lines_of([Listing(("session", "last used", "size", "result"), rows)], width)
    assert all(cell_len(line) <= width for line in lines)
    together = "".join("".join(lines).split())
    for row in rows:
        assert all("".join(cell.split()) in together for cell in row[:-1])


@pytest.fixture
def checked_tree(tree: SampleTree, configured: Callable[..., Path]) -> tuple[SampleTree, Path]:
    tree.workstream("c2d84e90-55a1-4b7c-9e3d-60f1b2a7c8e4", "Thesis", {"work/f": 3 * MIB})
    tree.workstream("long", LONG, {"work/f": 100})
    tree.session("5fd1c7d2-6a90-4d4e-9a8a-0f3a6f2f8c01", files={"f": MIB}, age_days=30)
    tree.session("protected-one", files={"f": MIB}, age_days=30)
    return tree, configured(workstream=MIB, cleanup={"protect": ["protected-*"]}, repeat_interval="1d")


def test_the_screens_fit_every_width(checked_tree: tuple[SampleTree, Path]) -> None:
    tree, config = checked_tree
    result, _ = checked(tree, config)
    measured = reported(tree, config)
    _, events = cleaned(tree, config=config, dry_run=True)
    for width in (40, *WIDTHS):
        shown = [*check_renderables(result, verbose=True), *renderables(measured)]
        lines = lines_of(shown, width)
        console = Console(file=io.StringIO(), width=width)
        tables = Tables(console, verbose=True)
        for event in events:
            tables.emit(event)
        assert isinstance(console.file, io.StringIO)
        lines += console.file.getvalue().splitlines()
        commands = [line for line in lines if line.startswith("  arawn-cli ")]  # the terminal wraps them
        assert [line for line in lines if cell_len(line) > width and line not in commands] == [], width
        assert any("Thesis" in line and "300%" in line and "critical" in line for line in lines), width


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("trash_days", [0, 3])
def test_a_cleanup_that_can_be_undone_ends_with_the_command(tree: SampleTree, tmp_path: Path, dry_run: bool, trash_days: int) -> None:
    tree.session("due", files={"f": 9}, age_days=30)
    tree.session("keep-it", files={"f": 9}, age_days=30)
    tree.session("new", files={"f": 9}, age_days=1)
    config = tmp_path / "c.toml"
    config.write_text(f'[maintenance.cleanup]\ntrash_days = {trash_days}\nprotect = ["keep-*"]\n')
    console = Console(file=io.StringIO(), width=300)
    tables = Tables(console, verbose=False, command=Flags(config=Path("/etc/my arawn.toml")).command)
    for event in cleaned(tree, config=config, dry_run=dry_run)[1]:
        tables.emit(event)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert any("Kept: 1 protected, 1 recent files." in line for line in lines)
    undo = "  arawn-cli trash restore --last --config '/etc/my arawn.toml'"
    assert (lines[-1] == undo) is (trash_days > 0 and not dry_run)


def test_an_alert_that_is_not_repeated_still_shows_and_leads(checked_tree: tuple[SampleTree, Path]) -> None:
    tree, config = checked_tree
    for number in range(2):
        result, events = checked(tree, config, now=tree.now + number)
        assert [event.type for event in events].count("disk_pressure") == (0 if number else 2)
        first, second, *rest = lines_of(check_renderables(result, verbose=False), 100)
        assert first == "critical: Thesis is at 300% of its limit, and 1 more alert"
        assert second.startswith("5.0 MiB of 10.0 GiB in 3 workstreams, 1% of the limit.")
        assert [line.split()[0] for line in rest[3:6]] == ["Thesis", "Scratch", "Notes"]


def test_two_hundred_workstreams_take_a_screen(tree: SampleTree, configured: Callable[..., Path]) -> None:
    for number in range(200):
        tree.workstream(f"w{number}", f"Title {number}", {"work/f": 1000 + number})
    tree.workstream("bad", "The bad one", {"work/f": 3 * MIB})
    result, _ = checked(tree, configured(workstream=MIB))
    lines = lines_of(check_renderables(result, verbose=False), 80)
    assert len(lines) < 24
    assert any(line.startswith("The bad one") for line in lines)
    assert any("and 192 more, " in line and "all ok (-v lists them)" in line for line in lines)
    everything = lines_of(check_renderables(result, verbose=True), 80)
    assert all(any(f"w{number}: Title {number}," in line for line in everything) for number in range(200))


def test_a_filesystem_has_the_percentage_of_df_and_its_limit_is_a_mark() -> None:
    usage = ScopeUsage("filesystem", "Filesystem /srv", 801, 850, 950, complete=True, capacity=1000)
    shown = ScopeReport(usage, Level.OK, (), None, 850, None)
    (line,) = lines_of([UsageTable([("Filesystem /srv", shown)])], 120)[1:]
    assert "  85%  █████████████│░░   81%" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_bar_is_readable_without_colours_and_blocks(encoding: str) -> None:
    (line,) = lines_of([UsageTable([("x", scope_report("x", "x", 50, 100))])], 120, encoding)[1:]
    assert "########--------" in line


def test_the_report_begins_with_its_worst_alert() -> None:
    shown = replace(report(), level=Level.WARNING)
    lines = lines_of(renderables(shown), 80)
    assert lines[1] == "warning: My blog is at 130% of its limit"


def test_a_session_above_its_limit_takes_one_line_of_80_columns() -> None:
    identifier = "5fd1c7d2-6a90-4d4e-9a8a-0f3a6f2f8c01"
    lines = lines_of(renderables(replace(report(), sessions=(replace(session(identifier, 340 * MIB, 1), level=Level.WARNING),))), 80)
    found = [line for line in lines if line.startswith(identifier)]
    assert len(found) == 2
    assert all(line.rstrip().endswith("340.0 MiB  from 2026-03-24") for line in found), found
