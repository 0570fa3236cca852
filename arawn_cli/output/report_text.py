"""A report on a terminal: tables with bars and sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.filesize import decimal
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arawn_cli import names
from arawn_cli.diskcheck.alerts import Transition
from arawn_cli.diskcheck.history import equal_steps, usage_at
from arawn_cli.events import Level
from arawn_cli.output import report_wording as words
from arawn_cli.output.report_data import SHOWN_ALERTS, SHOWN_SESSIONS, Report, ScopeReport, Session
from arawn_cli.output.tables import LEVEL_STYLES, Fitting, Layout, plain_table, usage_bar

# From this width on a line has room for the change beside its trend.
_WIDE = 108


_BLOCKS = "▁▂▃▄▅▆▇█"


_ASCII = "_.-=+*#"


_SESSION_LAYOUTS = (
    Layout(("session", "size", "last activity", "cleanup"), lines=False),
    Layout(("session", "size", "activity", "cleanup"), lines=False),
)


# Less than this share of the usage does not fill the height: noise must not look like growth.
_LEAST_SPAN = 0.1


class Sparkline:
    """A trend as a row of blocks, from the least to the largest usage; moments before the first sample stay empty."""

    def __init__(self, standing: ScopeReport, hours: int, width: int) -> None:
        last = standing.trend[-1][0]
        self._usages = usage_at(standing.trend, equal_steps(last - hours, last, width)) if len(standing.trend) > 1 else []

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """One column for each moment."""
        return Measurement(len(self._usages), len(self._usages))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The blocks that the terminal can show."""
        known = [usage for usage in self._usages if usage is not None]
        blocks = _ASCII if options.ascii_only else _BLOCKS
        yield Text("".join(" " if usage is None else _block(usage, known, blocks) for usage in self._usages), style="cyan")


def _block(usage: int, known: list[int], blocks: str) -> str:
    least, largest = min(known), max(known)
    span = max(largest - least, largest * _LEAST_SPAN, 1)
    return blocks[min(int((usage - least) / span * len(blocks)), len(blocks) - 1)]


def renderables(report: Report, width: int) -> Iterator[RenderableType]:
    """Everything that a report shows, from top to bottom, on a terminal of so many columns."""
    yield from _head(report)
    yield _heading(f"Usage, and its trend over {words.count(report.days, 'day')}" if report.has_history else "Usage")
    yield _usage_table(report, width)
    if not report.has_history:
        yield Text(words.NO_HISTORY, style="dim")
    yield from _facts(report)
    if report.sessions:
        yield _heading("Largest scratch sessions")
        yield _session_table(report.largest(), report)
        yield _heading("Oldest scratch sessions")
        yield _session_table(report.oldest(), report)
    yield from _cleanup(report)
    yield from _alerts(report)


def _head(report: Report) -> Iterator[RenderableType]:
    style = LEVEL_STYLES.get(report.level, "") if report.complete else "bold red"
    yield Text.assemble(
        ("Disk report", "bold"), f"  {names.escape(report.host)}:{names.escape(report.root)}  {words.minute(report.now)} UTC"
    )
    yield Text.assemble((words.verdict(report), style), f": {words.summary(report)}")
    if report.problems:
        yield Text(
            f"Incomplete: {words.count(len(report.problems), 'part')} could not be read, and all figures leave it out.", style="bold red"
        )
        for problem in report.problems[:SHOWN_ALERTS]:
            yield Text(f"  {names.escape(problem)}", style="red")


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the table of usage has room for; a trend and its change need a history."""

    bar: int
    trend: int
    change: bool


def _columns(report: Report, width: int) -> _Columns:
    wide = width >= _WIDE
    return _Columns(bar=16 if wide else 10, trend=(14 if wide else 10) if report.has_history else 0, change=wide and report.has_history)


def _usage_table(report: Report, width: int) -> Table:
    columns = _columns(report, width)
    table = plain_table()
    table.add_column("", overflow="fold")
    for heading in ("used", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of limit", width=columns.bar)
    table.add_column("", justify="right", no_wrap=True)
    if columns.trend:
        table.add_column("trend", no_wrap=True)
    if columns.change:
        table.add_column("change", justify="right", no_wrap=True)
    table.add_column("forecast", overflow="fold")
    for workstream in report.workstreams:
        table.add_row(*_cells(names.escape(workstream.standing.usage.name), workstream.standing, report, columns))
    for label, standing in (("all workstreams", report.total), ("filesystem", report.space), ("inodes", report.inodes)):
        if standing:
            table.add_row(*_cells(label, standing, report, columns))
    return table


def _cells(label: str, standing: ScopeReport, report: Report, columns: _Columns) -> Iterator[RenderableType]:
    style = LEVEL_STYLES[standing.level]
    yield Text(label)
    yield Text(words.used(standing), style=style)
    yield words.limit(standing)
    yield "" if standing.level is Level.UNKNOWN else usage_bar(standing.percent, style, columns.bar)
    yield Text(words.share(standing), style=style)
    if columns.trend:
        yield Sparkline(standing, report.days * 24, columns.trend)
    if columns.change:
        yield words.change(standing)
    level = "" if standing.level is Level.OK else f"{standing.level}: "
    reached = words.reached(standing, report.now)
    yield Text.assemble((level, style), words.forecast(standing), f", {reached}" if reached else "")


def _facts(report: Report) -> Iterator[RenderableType]:
    trash = f"trash holds {decimal(report.trash)}" if report.trash else "trash is empty"
    foreign = f", {decimal(report.foreign)} is not Arawn's" if report.foreign else ""
    yield Text(f"{names.escape(report.filesystem.mountpoint)} has {words.free(report)} free, {trash}{foreign}.")


def _session_table(sessions: Iterable[Session], report: Report) -> Fitting:
    return Fitting([_session_cells(session, report) for session in sessions], _SESSION_LAYOUTS)


def _session_cells(session: Session, report: Report) -> dict[str, Text]:
    style = LEVEL_STYLES[session.level]
    level = "" if session.level is Level.OK else f" ({session.level})"
    ago = words.ago(session.last_activity, report.now)
    return {
        "session": Text.assemble(names.escape(session.id), (level, style)),
        "size": Text(decimal(session.size), style=style),
        "last activity": Text(ago if session.last_activity is None else f"{words.day(session.last_activity)}, {ago}"),
        "activity": Text(ago),
        "cleanup": Text(words.fate(session)),
    }


def _cleanup(report: Report) -> Iterator[RenderableType]:
    yield _heading("Next cleanup")
    if report.cleanup is None:
        yield Text(words.UNKNOWN_CLEANUP, style="red")
        return
    yield Text(words.cleanup(report.cleanup, report))
    for session in report.cleanup.going[:SHOWN_SESSIONS]:
        yield _line("now", session)
    for session in report.cleanup.coming[:SHOWN_SESSIONS]:
        yield _line(words.day(session.due or 0), session)
    if left_out := words.left_out(report.cleanup):
        yield Text(f"  and {words.count(left_out, 'session')} more", style="dim")


def _line(when: str, session: Session) -> Text:
    return Text(f"  {when:<10}  {decimal(session.size):>10}  {names.escape(session.id)}")


def _alerts(report: Report) -> Iterator[RenderableType]:
    yield _heading(f"Alerts of the last {words.count(report.days, 'day')}")
    if not report.transitions:
        yield Text(words.NO_ALERTS, style="dim")
    for transition in report.transitions[:SHOWN_ALERTS]:
        yield _alert(transition)
    if len(report.transitions) > SHOWN_ALERTS:
        yield Text(f"  and {len(report.transitions) - SHOWN_ALERTS:,} more", style="dim")


def _alert(transition: Transition) -> Text:
    return Text.assemble(
        f"  {words.minute(transition.time)}  ",
        (f"{transition.before} to {transition.level}", LEVEL_STYLES[transition.level]),
        f"  {words.scope(transition.scope, transition.name)}, {words.transition(transition)}",
    )


def _heading(text: str) -> Padding:
    return Padding(Text(text, style="bold"), (1, 0, 0, 0))
