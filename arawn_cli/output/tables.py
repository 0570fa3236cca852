"""Print events as tables, and show progress on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich import progress
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arawn_cli.context import Progress
from arawn_cli.diskcheck.limits import scope_of
from arawn_cli.events import (
    IN_RECENT_USE,
    Action,
    ChatResult,
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
from arawn_cli.names import escape
from arawn_cli.output.format import age, amount, day, free_space, minute, mounts_in_words, scope_label
from arawn_cli.timestamps import parse
from arawn_cli.units import count, size

LEVEL_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red", Level.UNKNOWN: "magenta"}

_ACTION_STYLES = {
    Action.DELETED: "red",
    Action.TRASHED: "red",
    Action.RESTORED: "green",
    Action.WOULD_DELETE: "yellow",
    Action.WOULD_TRASH: "yellow",
    Action.WOULD_RESTORE: "green",
    Action.FAILED: "bold red",
    Action.KEPT: "green",
}

_DETAILS_MAX = 20  # lines below the table of sessions
_BAR_WIDTH = 20

# From this width on the table of disk usage has room for the areas of each workstream.
_WIDE = 100

_RIGHT_ALIGNED = frozenset({"files", "last activity", "size"})
_FOLDED = frozenset({"cleanup", "of", "why"})


class TerminalProgress(Progress):
    """A progress bar on a terminal. It shows one stage at a time and disappears at the end."""

    def __init__(self, console: Console) -> None:
        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()
        self._progress = progress.Progress(*columns, progress.TimeElapsedColumn(), console=console, transient=True)
        self._task: progress.TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a stage and end the previous one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def end(self) -> None:
        """Remove the bar, before something else is printed."""
        self._progress.stop()


def plain_table(*headings: str, title: str | None = None) -> Table:
    """Return a table without lines. On a narrow terminal its columns of text are folded."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        is_folded = number == 0 or heading in _FOLDED
        table.add_column(heading, justify="right" if heading in _RIGHT_ALIGNED else "left", no_wrap=not is_folded, overflow="fold")
    return table


def usage_bar(percent: int, style: str, width: int = _BAR_WIDTH) -> ProgressBar:
    """Return a bar that is full at the limit."""
    return ProgressBar(total=100, completed=min(percent, 100), width=width, complete_style=style, finished_style=style)


class Tables:
    """Collect the events of a run and print them as tables at its end."""

    def __init__(self, console: Console, *, verbose: bool, first: Callable[[], None] = lambda: None) -> None:
        """Create tables for one run.

        Args:
            console: where they are printed.
            verbose: also list sessions in recent use.
            first: called before anything is printed.
        """
        self._console = console
        self._verbose = verbose
        self._first = first
        self._events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Collect an event; print the tables after the last event of a run."""
        self._events.append(event)
        if isinstance(event, ScratchCleanup | DiskCheck | TrashEntryEvent):
            self._first()
        if isinstance(event, ScratchCleanup):
            self._print_cleanup(event, [other for other in self._events if isinstance(other, ScratchSessionEvent)])
        elif isinstance(event, DiskCheck):
            self._print_check(event)
        elif isinstance(event, TrashEntryEvent):
            self._console.print(_trash_line(event))

    def _print_cleanup(self, summary: ScratchCleanup, sessions: Iterable[ScratchSessionEvent]) -> None:
        listed = [
            session for session in sessions if self._verbose or session.reason not in IN_RECENT_USE or session.action is not Action.KEPT
        ]
        if listed:
            title = "Scratch sessions (dry run)" if summary.dry_run else "Scratch sessions"
            table = plain_table("session", "result", "last activity", "size", title=title)
            for session in listed:
                table.add_row(*_session_cells(session))
            self._console.print(table, "")
        details = [session for session in listed if session.detail and (self._verbose or session.reason is not Reason.EXPIRED)]
        for session in details[:_DETAILS_MAX]:
            restored = session.action in (Action.RESTORED, Action.WOULD_RESTORE)
            result = session.action.replace("_", " ") if restored else session.reason
            self._console.print(Text(f"{session.session_id}: {result}: {session.detail}"))
        if len(details) > _DETAILS_MAX:
            self._console.print(Text(f"{len(details) - _DETAILS_MAX:,} more are in the events (--format json)."))
        self._console.print(_cleanup_sentence(summary))
        self._events.clear()  # another run may follow, if the person agrees to it

    def _print_check(self, summary: DiskCheck) -> None:
        pressure = [event for event in self._events if isinstance(event, DiskPressure)]
        usages = [event for event in self._events if isinstance(event, WorkstreamUsage)]
        levels = {event.scope: event.level for event in pressure}
        self._console.print(_usage_table(usages, summary, levels, areas=self._console.width >= _WIDE))
        for event in pressure:
            self._console.print(_pressure_sentence(event))
        self._console.print(_check_sentence(summary))


def _session_cells(session: ScratchSessionEvent) -> tuple[Text, ...]:
    # The reason says more about a kept session than its action.
    result = session.reason if session.action in (Action.KEPT, Action.FAILED) else session.action.replace("_", " ")
    return (
        Text(session.session_id),
        Text(result, style=_ACTION_STYLES[session.action]),
        Text(_age(session.last_activity, session.timestamp)),
        Text("-" if session.bytes is None else size(session.bytes)),
    )


_CHATS = {
    ChatResult.KEPT: "Their chats are kept.",
    ChatResult.WITHOUT_FILES: "Their chats can never write files again (see keep_chats).",
    ChatResult.DELETED: "The history of their chats is deleted, too (see keep_chats).",
}


def _cleanup_sentence(summary: ScratchCleanup) -> Text:
    verb, freed = ("Would remove", "Would free") if summary.dry_run else ("Removed", "Freed")
    text = f"{verb} {count(summary.sessions_cleaned, 'session')} of {summary.sessions_checked:,}"
    if summary.trash_until is not None:
        text += f": {size(summary.bytes_trashed)}, in the trash until {minute(parse(summary.trash_until))} UTC"
    text += f". {freed} {size(summary.bytes_freed)}."
    if summary.sessions_cleaned:
        text += f" {_CHATS[summary.chats]}"
    if summary.sessions_restored:
        verb = "Would restore" if summary.dry_run else "Restored"
        text += f" {verb} {count(summary.sessions_restored, 'session')} from the trash: chats that go on."
    if summary.sessions_kept:
        text += " Kept: " + ", ".join(f"{number:,} {reason}" for reason, number in summary.sessions_kept.items()) + "."
    if summary.trash_bytes:
        text += f" The trash holds {size(summary.trash_bytes)}."
    if summary.no_sessions is not None:
        text += f" {summary.no_sessions}."
    if not summary.database_found:
        text += " No database of Arawn's was found."
    if summary.failures:
        text += f" {count(summary.failure_count, 'failure')}."
    return Text(text, style="red" if summary.failures else "")


def _usage_table(usages: list[WorkstreamUsage], summary: DiskCheck, levels: dict[str, Level], *, areas: bool) -> Table:
    has_forecast = any(usage.forecast_days is not None for usage in usages)
    table = Table(title="Disk usage (dry run)" if summary.dry_run else "Disk usage", title_justify="left")
    table.add_column("workstream", overflow="fold")
    for heading in (*(("production", "work", "other") if areas else ()), "total", "limit"):
        table.add_column(heading, justify="right")
    table.add_column("of limit", min_width=_BAR_WIDTH)
    table.add_column("", justify="right", no_wrap=True)
    if has_forecast:
        table.add_column("limit in", justify="right", no_wrap=True)
    for usage in sorted(usages, key=lambda event: event.total_bytes, reverse=True):
        style = LEVEL_STYLES[levels.get(scope_of(usage.workstream_id.removeprefix(f"{usage.root}/")), Level.OK)]
        table.add_row(
            Text(escape(usage.workstream_name)),
            *([size(part) for part in (usage.production_bytes, usage.work_bytes, usage.other_bytes)] if areas else []),
            Text(size(usage.total_bytes) + ("" if usage.complete else " at least"), style=style),
            size(usage.limit_bytes) if usage.limit_bytes else "",
            usage_bar(usage.percent, style),
            f"{usage.total_bytes * 100 // usage.limit_bytes}%" if usage.limit_bytes else "",
            *(["-" if usage.forecast_days is None else f"{usage.forecast_days} d"] if has_forecast else []),
        )
    return table


def _pressure_sentence(event: DiskPressure) -> Text:
    label = escape(scope_label(event.scope, event.workstream_name))
    percent = event.usage_bytes * 100 // max(event.limit_bytes, 1)
    usage, limit = _amount_with_unit(event.usage_bytes, event.unit), _amount_with_unit(event.limit_bytes, event.unit)
    text = f"{event.level}: {label} uses {usage}, {percent}% of {limit}"
    if event.forecast_days is not None:
        text += f"; critical in {count(event.forecast_days, 'day')}"
    if event.reclaimable_bytes:
        text += f"; a cleanup would free {size(event.reclaimable_bytes)}"
    return Text(text, style=LEVEL_STYLES[event.level])


def _check_sentence(summary: DiskCheck) -> Text:
    text = f"{summary.level}: {size(summary.total_usage_bytes)} in {count(summary.workstreams, 'workstream')}"
    for filesystem in (summary.filesystem, *summary.mounted):
        text += f"; {filesystem.mountpoint} has {free_space(filesystem)} free"
    if summary.forecast_days is not None:
        text += f"; the total reaches its next limit in {count(summary.forecast_days, 'day')}"
    if summary.own_files_bytes:
        text += f"; Arawn's own files: {size(summary.own_files_bytes)}"
    if summary.trash_bytes:
        text += f"; the trash holds {size(summary.trash_bytes)}"
    if summary.foreign:
        text += f"; foreign files: {size(summary.foreign_bytes)}"
    if summary.not_counted:
        text += f"; not counted: {mounts_in_words(summary.not_counted)}"
    if not summary.complete:
        text += f"; incomplete: {count(summary.failure_count, 'failure')}"
    return Text(text, style=LEVEL_STYLES[summary.level])


def print_trash(entries: Sequence[TrashEntryEvent]) -> None:
    """Print the removed sessions in the trash as a table."""
    table = plain_table("session", "removed", "purged from", "size", "files", title="Trash")
    for entry in entries:
        table.add_row(*_trash_cells(entry))
    console = Console(highlight=False)
    console.print(table if entries else "The trash is empty.")
    for entry in entries:
        if entry.reason:
            console.print(Text(f"{entry.session_id}: {entry.reason}"))


def _trash_line(event: TrashEntryEvent) -> Text:
    held = ", held by an interrupted run" if event.held else ""
    removed = f"{day(parse(event.removed_at))} ({_age(event.removed_at, event.timestamp)})"
    return Text(f"{event.action.replace('_', ' ')} {event.session_id}: removed {removed}, {size(event.bytes)}{held}")


def _trash_cells(event: TrashEntryEvent) -> tuple[Text, ...]:
    state = " (held by an interrupted run)" if event.held else " (being purged)" if event.action is TrashAction.BEING_PURGED else ""
    purged = f"was {day(parse(event.purged_at))}" if event.purged_at else day(parse(event.purged_from)) if event.purged_from else "-"
    return (
        Text.assemble(event.session_id, (state, "yellow")),
        Text(day(parse(event.removed_at))),
        Text(purged),
        Text(size(event.bytes)),
        Text("-" if event.files is None else f"{event.files:,}"),
    )


def _age(instant: str | None, now: str) -> str:
    return age(None if instant is None else parse(instant), parse(now))


def _amount_with_unit(number: int, unit: Unit) -> str:
    return amount(number, unit) + ("" if unit is Unit.BYTES else f" {unit}")
