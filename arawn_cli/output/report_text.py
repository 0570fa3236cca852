"""Render a report for a terminal, with bars and sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arawn_cli.events import Level
from arawn_cli.names import escape
from arawn_cli.output import report_wording as words
from arawn_cli.output.format import age, day, free_space, minute
from arawn_cli.output.report_data import MAX_ALERTS, MAX_DIRECTORIES, MAX_SESSIONS, Report, ScopeReport, SessionReport
from arawn_cli.output.tables import LEVEL_STYLES, plain_table, usage_bar
from arawn_cli.units import count, size

# From this width on there is room for the change beside the trend.
_WIDE = 108

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*#"


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A trend as a row of blocks, as far as the terminal can show them."""

    curve: list[float | None]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(len(self.curve), len(self.curve))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        blocks = _ASCII_BLOCKS if options.ascii_only else _BLOCKS
        line = (" " if height is None else blocks[min(int(height * len(blocks)), len(blocks) - 1)] for height in self.curve)
        yield Text("".join(line), style="cyan")


def renderables(report: Report, width: int) -> Iterator[RenderableType]:
    """Render a report for a terminal with this number of columns, from top to bottom."""
    yield from _head(report)
    yield _heading(f"Usage, and its trend over {count(report.days, 'day')}" if report.has_history else "Usage")
    yield _usage_table(report, width)
    if not report.has_history:
        yield Text(words.NO_HISTORY, style="dim")
    trash = f"the trash holds {size(report.trash)}" if report.trash else "the trash is empty"
    foreign = f", foreign files: {size(report.foreign)}" if report.foreign else ""
    yield Text(f"{escape(report.filesystem.mountpoint)} has {free_space(report.filesystem)} free, {trash}{foreign}.")
    if report.not_counted:
        yield Text(words.not_counted(report))
    if report.sessions:
        yield _heading("Largest scratch sessions")
        yield _session_table(report.largest(), report)
        yield _heading("Oldest scratch sessions")
        yield _session_table(report.oldest(), report)
    yield from _cleanup(report)
    yield from _orphans(report)
    yield from _own_files(report)
    yield from _alerts(report)
    yield from _removals(report)


def _head(report: Report) -> Iterator[RenderableType]:
    style = LEVEL_STYLES.get(report.level, "") if report.complete else "bold red"
    yield Text.assemble(("Disk report", "bold"), f"  {escape(report.host)}:{escape(report.root)}  {minute(report.now)} UTC")
    yield Text.assemble((words.verdict(report), style), f": {words.summary(report)}")
    if report.problems:
        yield Text(f"Incomplete: {words.incomplete(report)}", style="bold red")
        for problem in report.problems[:MAX_ALERTS]:
            yield Text(f"  {escape(problem)}", style="red")


def _usage_table(report: Report, width: int) -> Table:
    """Render usage and limits; the trend needs a history, the change a wide terminal as well."""
    wide = width >= _WIDE
    bar_width, trend_width = (16, 14) if wide else (10, 10)
    table = plain_table()
    table.add_column("", overflow="fold")
    for heading in ("used", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of limit", width=bar_width)
    table.add_column("", justify="right", no_wrap=True)
    if report.has_history:
        table.add_column("trend", no_wrap=True)
    if report.has_history and wide:
        table.add_column("change", justify="right", no_wrap=True)
    table.add_column("forecast", overflow="fold")

    def cells(label: str, scope: ScopeReport) -> Iterator[RenderableType]:
        style = LEVEL_STYLES[scope.level]
        yield Text(label)
        yield Text(words.used(scope), style=style)
        yield words.limit(scope)
        yield usage_bar(scope.percent, style, bar_width) if scope.has_limit else ""
        yield Text(words.share(scope), style=style)
        if report.has_history:
            yield Sparkline(scope.curve(report.days * 24, trend_width))
        if report.has_history and wide:
            yield words.change(scope)
        level = "" if scope.level is Level.OK else f"{scope.level}: "
        forecast_day = words.forecast_day(scope, report.now)
        yield Text.assemble((level, style), words.forecast(scope), f", {forecast_day}" if forecast_day else "")

    for workstream in report.workstreams:
        table.add_row(*cells(escape(workstream.scope.usage.name), workstream.scope))
    others = (
        ("all workstreams", report.total),
        ("Arawn's own files", report.own_scope),
        *((escape(scope.usage.name), scope) for scope in report.filesystems),
    )
    for label, scope in others:
        if scope:
            table.add_row(*cells(label, scope))
    return table


def _session_table(sessions: Iterable[SessionReport], report: Report) -> Table:
    table = plain_table("session", "size", "last activity", "cleanup")
    for session in sessions:
        style = LEVEL_STYLES[session.level]
        level = "" if session.level is Level.OK else f" ({session.level})"
        table.add_row(
            Text.assemble(escape(session.id), (level, style)),
            Text(size(session.size), style=style),
            age(session.last_activity, report.now),
            words.due(session),
        )
    return table


def _cleanup(report: Report) -> Iterator[RenderableType]:
    yield _heading("Next cleanup")
    if report.cleanup is None:
        yield Text(words.UNKNOWN_CLEANUP, style="red")
        return
    yield Text(words.cleanup(report.cleanup, report))
    listed = [("now", session) for session in report.cleanup.removed[:MAX_SESSIONS]]
    listed += [(day(session.due or 0), session) for session in report.cleanup.later[:MAX_SESSIONS]]
    for when, session in listed:
        yield Text(f"  {when:<10}  {size(session.size):>10}  {escape(session.id)}")
    if number := words.not_shown(report.cleanup):
        yield Text(f"  and {count(number, 'session')} more", style="dim")


def _orphans(report: Report) -> Iterator[RenderableType]:
    yield _heading("Not covered by any cleanup")
    if not report.orphans:
        yield Text(words.NO_ORPHANS, style="dim")
        return
    table = plain_table("directory", "of", "size", "why")
    for orphan in report.orphans[:MAX_DIRECTORIES]:
        used = words.at_least(orphan.size, complete=orphan.complete)
        table.add_row(Text(escape(orphan.path)), Text(escape(orphan.title)), used, orphan.kind)
    yield table
    yield from _more(len(report.orphans) - MAX_DIRECTORIES)


def _own_files(report: Report) -> Iterator[RenderableType]:
    for title, directory in words.directories(report):
        yield _heading(title)
        table = plain_table("entry", "size")
        for name, number in directory.entries[:MAX_DIRECTORIES]:
            table.add_row(Text(name), size(number))
        yield table
        yield from _more(len(directory.entries) - MAX_DIRECTORIES)


def _more(number: int) -> Iterator[Text]:
    if number > 0:
        yield Text(f"  and {number:,} more", style="dim")


def _alerts(report: Report) -> Iterator[RenderableType]:
    yield _heading(f"Alerts of the last {count(report.days, 'day')}")
    if not report.transitions:
        yield Text(words.NO_ALERTS, style="dim")
    for transition in report.transitions[:MAX_ALERTS]:
        yield Text.assemble(
            f"  {minute(transition.time)}  ",
            (f"{transition.before} to {transition.level}", LEVEL_STYLES[transition.level]),
            f"  {words.transition_scope(transition)}, {words.transition_usage(transition)}",
        )
    yield from _more(len(report.transitions) - MAX_ALERTS)


def _removals(report: Report) -> Iterator[RenderableType]:
    yield _heading(f"Sessions removed in the last {count(report.days, 'day')}")
    if not report.removals:
        yield Text(words.NO_REMOVALS, style="dim")
        return
    table = plain_table("session", "removed", "size", "why")
    table.columns[0].no_wrap = True  # rather fold the reason
    for removal in report.removals[:MAX_SESSIONS]:
        table.add_row(Text(escape(removal.session)), day(removal.removed_at), size(removal.bytes), words.removal(removal))
    yield table
    yield from _more(len(report.removals) - MAX_SESSIONS)


def _heading(text: str) -> Padding:
    return Padding(Text(text, style="bold"), (1, 0, 0, 0))
