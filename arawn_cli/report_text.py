"""A report on a terminal: tables with bars and sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arawn_cli import report_words as words
from arawn_cli.alerts import Transition
from arawn_cli.render import LEVEL_STYLES, usage_bar
from arawn_cli.report import SHOWN_ALERTS, SHOWN_SESSIONS, Report, Session, Standing
from arawn_cli.trend import equal_steps, usage_at

_BAR_WIDTH = 16
_TREND_WIDTH = 14
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#"
# Less than this share of the usage does not fill the height: noise must not look like growth.
_LEAST_SPAN = 0.1


class Sparkline:
    """A trend as a row of blocks, from the least to the largest usage; moments before the first sample stay empty."""

    def __init__(self, standing: Standing, hours: int) -> None:
        last = standing.trend[-1][0]
        self._usages = usage_at(standing.trend, equal_steps(last - hours, last, _TREND_WIDTH)) if len(standing.trend) > 1 else []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The blocks that the terminal can show."""
        known = [usage for usage in self._usages if usage is not None]
        blocks = _ASCII if options.ascii_only else _BLOCKS
        yield Text("".join(" " if usage is None else _block(usage, known, blocks) for usage in self._usages), style="cyan")


def _block(usage: int, known: list[int], blocks: str) -> str:
    least, largest = min(known), max(known)
    span = max(largest - least, largest * _LEAST_SPAN, 1)
    return blocks[min(int((usage - least) / span * len(blocks)), len(blocks) - 1)]


def renderables(report: Report) -> Iterator[RenderableType]:
    """Everything that a report shows, from top to bottom."""
    yield from _head(report)
    yield _usage_table(report)
    if not report.has_history:
        yield Text(words.NO_HISTORY, style="dim")
    yield from _facts(report)
    if report.sessions:
        yield _session_table("Largest scratch sessions", report.largest(), report)
        yield _session_table("Oldest scratch sessions", report.oldest(), report)
    yield from _cleanup(report)
    yield from _alerts(report)


def _head(report: Report) -> Iterator[RenderableType]:
    style = LEVEL_STYLES.get(report.level, "") if report.complete else "bold red"
    yield Text.assemble(
        ("Disk report", "bold"), f"  {words.escape(report.host)}:{words.escape(report.root)}  {words.minute(report.now)} UTC"
    )
    yield Text.assemble((words.verdict(report), style), f": {words.summary(report)}")
    if report.problems:
        yield Text(
            f"Incomplete: {words.count(len(report.problems), 'part')} could not be read, and all figures leave it out.", style="bold red"
        )
        for problem in report.problems[:SHOWN_ALERTS]:
            yield Text(f"  {words.escape(problem)}", style="red")


def _usage_table(report: Report) -> Table:
    table = _table(f"Usage, and its trend over {words.count(report.days, 'day')}")
    table.add_column("", overflow="fold")
    for heading in ("used", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of limit", min_width=_BAR_WIDTH)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("trend", no_wrap=True, min_width=_TREND_WIDTH if report.has_history else None)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("forecast", overflow="fold")
    for workstream in report.workstreams:
        _add(table, words.escape(workstream.standing.usage.name), workstream.standing, report)
    table.add_section()
    _add(table, "All workstreams", report.total, report)
    for label, standing in (("Filesystem", report.space), ("Inodes", report.inodes)):
        if standing:
            _add(table, label, standing, report)
    return table


def _add(table: Table, label: str, standing: Standing, report: Report) -> None:
    style = LEVEL_STYLES[standing.level]
    table.add_row(
        Text(label),
        Text(words.used(standing), style=style),
        words.limit(standing),
        usage_bar(standing.percent, style, _BAR_WIDTH),
        f"{standing.percent}%",
        Sparkline(standing, report.days * 24),
        words.change(standing),
        Text(words.forecast(standing, report.now)),
    )


def _facts(report: Report) -> Iterator[RenderableType]:
    trash = f"trash holds {decimal(report.trash)}" if report.trash else "trash is empty"
    foreign = f", {decimal(report.foreign)} is not Arawn's" if report.foreign else ""
    yield Text(f"{words.escape(report.filesystem.mountpoint)} has {words.free(report)} free, {trash}{foreign}.")


def _session_table(title: str, sessions: Iterable[Session], report: Report) -> Table:
    table = _table(title)
    table.add_column("session", overflow="fold", min_width=24)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("last activity", justify="right", no_wrap=True)
    table.add_column("cleanup", no_wrap=True)
    for session in sessions:
        activity = (
            "unknown"
            if session.last_activity is None
            else f"{words.day(session.last_activity)}, {words.ago(session.last_activity, report.now)}"
        )
        size = Text(decimal(session.size), style=LEVEL_STYLES[session.level])
        table.add_row(Text(words.escape(session.id)), size, activity, words.fate(session))
    return table


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
    return Text(f"  {when:<10}  {decimal(session.size):>10}  {words.escape(session.id)}")


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


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0)
    )
