"""Tables and progress for people."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arawn_cli import names, timestamps
from arawn_cli.diskcheck.limits import scope_of
from arawn_cli.events import (
    IN_RECENT_USE,
    Action,
    DiskCheck,
    DiskPressure,
    Event,
    Level,
    Reason,
    ScratchCleanup,
    ScratchSessionEvent,
    TrashAction,
    TrashEntryEvent,
    Unit,
    WorkstreamUsage,
)
from arawn_cli.output.jsonl import printing

_TO_THE_RIGHT = frozenset({"activity", "age", "files", "last activity", "size"})


# More than any terminal has: what a table would take if nothing had to fold.
_NO_EDGE = 10_000


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns a table has, by their headings, and whether lines are drawn around them."""

    columns: tuple[str, ...]
    lines: bool = True


@dataclass(frozen=True, slots=True)
class Fitting:
    """A table in the first of its layouts that the terminal has room for; in the last one, the first column folds if it must.

    Each row has a cell for every heading of any layout.
    """

    rows: Sequence[Mapping[str, Text]]
    layouts: Sequence[Layout]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it fits."""
        tables = [self._table(layout) for layout in self.layouts]
        boundless = options.update(width=_NO_EDGE)
        yield next((table for table in tables if console.measure(table, options=boundless).maximum <= options.max_width), tables[-1])

    def _table(self, layout: Layout) -> Table:
        table = Table(title=self.title, title_justify="left") if layout.lines else plain_table(self.title)
        for heading in layout.columns:
            first = heading == layout.columns[0]
            table.add_column(heading, justify="right" if heading in _TO_THE_RIGHT else "left", no_wrap=not first, overflow="fold")
        for row in self.rows:
            table.add_row(*(row[heading] for heading in layout.columns))
        return table


def plain_table(title: str | None = None) -> Table:
    """A table without lines."""
    return Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))


LEVEL_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red", Level.UNKNOWN: "magenta"}


# From so many columns on, the table of disk usage has room for the areas of each workstream.
_WIDE = 100


_BAR = 20


_SESSION_LAYOUTS = (
    Layout(("session", "action", "reason", "last activity", "size")),
    Layout(("session", "action", "reason", "activity", "size")),
    Layout(("session", "result", "activity", "size"), lines=False),
)


_ACTION_STYLES = {
    Action.DELETED: "red",
    Action.WOULD_DELETE: "yellow",
    Action.FAILED: "bold red",
    Action.KEPT: "green",
}


class OutputConsole(Console):
    """Standard output for tables; a reader that went away is an error like any other, not the end of the run."""

    def on_broken_pipe(self) -> None:
        """Raises what rich would turn into an exit."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class TerminalProgress:
    """A progress bar on a terminal, one stage at a time, gone when the stage ends."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, what: str, total: int) -> None:
        """Begins a stage, ending the one before."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def end(self) -> None:
        """Takes the bar off the terminal, before something else is printed there."""
        self._progress.stop()


class Tables:
    """Collects the events of a run and prints them as tables at its end."""

    def __init__(self, console: Console, *, verbose: bool, first: Callable[[], None] = lambda: None) -> None:
        """`verbose` lists the sessions that stay because they are in use too; `first` is called before anything is printed."""
        self._console = console
        self._verbose = verbose
        self._first = first
        self._events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Takes one event; the last of a run makes the tables."""
        self._events.append(event)
        if isinstance(event, ScratchCleanup | DiskCheck | TrashEntryEvent):
            self._first()
        if isinstance(event, ScratchCleanup):
            self._cleanup(event, [other for other in self._events if isinstance(other, ScratchSessionEvent)])
        elif isinstance(event, DiskCheck):
            self._check(event)
        elif isinstance(event, TrashEntryEvent):
            self._console.print(_trash_line(event))

    def _cleanup(self, summary: ScratchCleanup, sessions: Iterable[ScratchSessionEvent]) -> None:
        shown = [session for session in sessions if self._verbose or session.reason not in IN_RECENT_USE]
        if shown:
            self._console.print(_session_table(shown, dry_run=summary.dry_run))
        self._console.print(_cleanup_sentence(summary))

    def _check(self, summary: DiskCheck) -> None:
        pressure = [event for event in self._events if isinstance(event, DiskPressure)]
        usage = [event for event in self._events if isinstance(event, WorkstreamUsage)]
        levels = {event.scope: event.level for event in pressure}
        self._console.print(_usage_table(usage, summary, levels, areas=self._console.width >= _WIDE))
        for event in pressure:
            self._console.print(_pressure_line(event))
        self._console.print(_check_sentence(summary))


def _session_table(sessions: list[ScratchSessionEvent], *, dry_run: bool) -> Fitting:
    rows = [_session_cells(session) for session in sessions]
    return Fitting(rows, _SESSION_LAYOUTS, "Scratch sessions (dry run)" if dry_run else "Scratch sessions")


def _session_cells(session: ScratchSessionEvent) -> dict[str, Text]:
    style = _ACTION_STYLES[session.action]
    action = Text(session.action.replace("_", " "), style=style)
    return {
        "session": Text(session.session_id),
        "action": action,
        "reason": Text(session.reason),
        # What is not removed stays for its reason.
        "result": action if session.reason is Reason.EXPIRED else Text(session.reason, style=style),
        "last activity": Text(day_and_age(session.last_activity, session.timestamp)),
        "activity": Text(age(session.last_activity, session.timestamp)),
        "size": Text("-" if session.bytes is None else decimal(session.bytes)),
    }


def _trash_line(event: TrashEntryEvent) -> Text:
    held = ", held by an interrupted run" if event.held else ""
    return Text(
        f"{event.action} {event.session_id}: removed {day_and_age(event.removed_at, event.timestamp)}, {decimal(event.bytes)}{held}"
    )


def day_and_age(instant: str | None, now: str) -> str:
    """The day of an instant, and how long ago that was."""
    return age(instant, now) if instant is None else f"{instant[:10]} ({age(instant, now)})"


def age(instant: str | None, now: str) -> str:
    """How long ago an instant was, in hours or days."""
    if instant is None:
        return "unknown"
    seconds = (timestamps.parse(now) - timestamps.parse(instant)) // timestamps.SECOND
    if seconds < 0:
        return "future"
    return f"{seconds // 3600} h ago" if seconds < 86_400 else f"{seconds // 86_400} d ago"


def _cleanup_sentence(summary: ScratchCleanup) -> Text:
    verb, freed = ("Would remove", "would free") if summary.dry_run else ("Removed", "freed")
    cleaned = f"{_count(summary.sessions_cleaned, 'session')} of {summary.sessions_checked}"
    text = f"{verb} {cleaned}, {freed} {decimal(summary.bytes_reclaimed)}."
    if summary.sessions_kept:
        text += " Kept: " + ", ".join(f"{count} {reason}" for reason, count in summary.sessions_kept.items()) + "."
    if summary.trash_bytes:
        text += f" In the trash: {decimal(summary.trash_bytes)}."
    if summary.failures:
        text += f" {_count(len(summary.failures), 'failure')}."
    return Text(text, style="red" if summary.failures else "")


def _usage_table(usages: list[WorkstreamUsage], summary: DiskCheck, levels: dict[str, Level], *, areas: bool) -> Table:
    foresees = any(usage.forecast_days is not None for usage in usages)
    table = Table(title="Disk usage (dry run)" if summary.dry_run else "Disk usage", title_justify="left")
    table.add_column("workstream", overflow="fold")
    for heading in (*(("production", "work", "other") if areas else ()), "total", "limit"):
        table.add_column(heading, justify="right")
    table.add_column("of limit", min_width=_BAR)
    table.add_column("", justify="right", no_wrap=True)
    if foresees:
        table.add_column("limit in", justify="right", no_wrap=True)
    for usage in sorted(usages, key=lambda event: event.total_bytes, reverse=True):
        level = levels.get(scope_of(usage.workstream_id), Level.OK)
        table.add_row(
            Text(names.escape(usage.workstream_name)),
            *([decimal(size) for size in (usage.production_bytes, usage.work_bytes, usage.other_bytes)] if areas else []),
            Text(decimal(usage.total_bytes) + ("" if usage.complete else " at least"), style=LEVEL_STYLES[level]),
            decimal(usage.limit_bytes),
            usage_bar(usage.percent, LEVEL_STYLES[level]),
            f"{usage.total_bytes * 100 // usage.limit_bytes}%",
            *(["-" if usage.forecast_days is None else f"{usage.forecast_days} d"] if foresees else []),
        )
    return table


def usage_bar(percent: int, style: str, width: int = _BAR) -> ProgressBar:
    """A bar that is full at the limit."""
    return ProgressBar(total=100, completed=min(percent, 100), width=width, complete_style=style, finished_style=style)


def _pressure_line(event: DiskPressure) -> Text:
    name = f" ({names.escape(event.workstream_name)})" if event.workstream_name != event.scope else ""
    limit = _amount(event.limit_bytes, event.unit)
    share = f"{event.usage_bytes * 100 // max(event.limit_bytes, 1)}% of {limit}"
    text = f"{event.level}: {names.escape(event.scope)}{name} uses {_amount(event.usage_bytes, event.unit)}, {share}"
    if event.forecast_days is not None:
        text += f"; the next limit in {_count(event.forecast_days, 'day')}"
    if event.reclaimable_bytes:
        text += f"; a cleanup would free {decimal(event.reclaimable_bytes)}"
    return Text(text, style=LEVEL_STYLES[event.level])


def _amount(number: int, unit: str) -> str:
    return decimal(number) if unit == Unit.BYTES else f"{number:,} {unit}"


def _check_sentence(summary: DiskCheck) -> Text:
    filesystem = summary.filesystem
    text = (
        f"{summary.level}: {decimal(summary.total_usage_bytes)} in {_count(summary.workstreams, 'workstream')}; "
        f"{filesystem.mountpoint} has {decimal(filesystem.free_bytes)} of {decimal(filesystem.total_bytes)} free"
    )
    if summary.forecast_days is not None:
        text += f"; the total comes to its next limit in {_count(summary.forecast_days, 'day')}"
    if summary.foreign:
        text += f"; {decimal(sum(entry.bytes for entry in summary.foreign))} is not Arawn's"
    if not summary.complete:
        text += f"; incomplete: {_count(len(summary.failures), 'failure')}"
    return Text(text, style=LEVEL_STYLES[summary.level])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


EMPTY = "The trash is empty."


NOTHING_TO_PURGE = "Nothing in the trash is to be purged."


_LAYOUTS = (
    Layout(("session", "removed", "age", "size", "files")),
    Layout(("session", "age", "size", "files")),
    Layout(("session", "age", "size"), lines=False),
)


def show(listed: Sequence[TrashEntryEvent]) -> None:
    """Prints what is in the trash.

    Raises:
        OutputLostError: standard output takes no more.
    """
    _print(Fitting([_cells(event) for event in listed], _LAYOUTS, "Trash") if listed else Text(EMPTY))


def say_that_nothing_is_purged() -> None:
    """Prints that there was nothing to do.

    Raises:
        OutputLostError: standard output takes no more.
    """
    _print(Text(NOTHING_TO_PURGE))


def _cells(event: TrashEntryEvent) -> dict[str, Text]:
    state = " (held by an interrupted run)" if event.held else " (being purged)" if event.action is TrashAction.BEING_PURGED else ""
    return {
        "session": Text.assemble(event.session_id, (state, "yellow")),
        "removed": Text(event.removed_at[:16].replace("T", " ")),
        "age": Text(age(event.removed_at, event.timestamp)),
        "size": Text(decimal(event.bytes)),
        "files": Text(f"{event.files:,}"),
    }


def _print(shown: RenderableType) -> None:
    with printing():
        OutputConsole(highlight=False).print(shown)
