"""Print events as tables, and show progress on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich import progress
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from arawn_cli.cleanup_events import Action, ChatResult, ScratchCleanup, ScratchSessionEvent, TrashAction, TrashEntryEvent
from arawn_cli.context import Progress
from arawn_cli.errors import ExitCode
from arawn_cli.events import IN_RECENT_USE, Event, Level, Reason
from arawn_cli.output.format import PLAIN, Command, age, day, minute_with_zone
from arawn_cli.timestamps import parse
from arawn_cli.units import count, size

if TYPE_CHECKING:
    from arawn_cli.cleanup.trash_jobs import TrashResult

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
_FOLD = 16  # columns that are enough for text that may be folded

GAP = 2
"""Columns between those of a table."""

_RIGHT_ALIGNED = frozenset({"files", "last used", "size"})


class TerminalProgress(Progress):
    """A progress bar on a terminal. It shows one stage at a time and disappears at the end."""

    def __init__(self, console: Console) -> None:
        columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()
        self._progress = progress.Progress(*columns, progress.TimeElapsedColumn(), console=console, transient=True)

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a stage and end the previous one."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._progress.add_task(what, total=total)

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        for task in self._progress.task_ids:
            self._progress.advance(task, steps)

    def end(self) -> None:
        """Remove the bar, before something else is printed."""
        self._progress.stop()


def advice(text: str, command: str) -> Iterator[Text]:
    """Render a command below its purpose. The terminal wraps it, so that it can be copied."""
    yield Text(text)
    yield Text(f"  {command}", no_wrap=True, overflow="ignore")


def bare_table() -> Table:
    """Return a table without lines and columns."""
    return Table(box=None, header_style="dim", pad_edge=False, padding=(0, GAP, 0, 0))


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows below headings. On a terminal that is too narrow for them, each row is a paragraph."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[Text | str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = zip(self.headings, *self.rows, strict=True)
        widths = [max(cell_len(str(cell)) for cell in column) for column in columns]
        widths[-1] = min(widths[-1], _FOLD)  # the last column is folded
        if sum(widths) + GAP * (len(widths) - 1) <= options.max_width:
            yield self._table()
            return
        for first, *others in self.rows:
            yield Text.assemble(first, overflow="fold")
            parts = [Text.assemble(f"{heading} ", cell) for heading, cell in zip(self.headings[1:], others, strict=True) if str(cell)]
            yield Padding(Text(", ").join(parts), (0, 0, 0, GAP))

    def _table(self) -> Table:
        table = bare_table()
        for heading in self.headings:
            table.add_column(heading, justify="right" if heading in _RIGHT_ALIGNED else "left", no_wrap=heading != self.headings[-1])
        for row in self.rows:
            # In a str, rich would read markup and emoji codes.
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        return table


@dataclass(slots=True)
class Tables:
    """Collect the events of a run and print them as tables at its end.

    Attributes:
        verbose: also list sessions in recent use.
        sort: `age` or `size`: the order of sessions, below which the kept ones follow.
        first: called before anything is printed.
        command: makes the command that undoes a cleanup.
    """

    console: Console
    verbose: bool
    sort: str = "age"
    first: Callable[[], None] = lambda: None
    command: Command = PLAIN
    _sessions: list[ScratchSessionEvent] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Collect an event; print the tables after the last event of a run."""
        match event:
            case ScratchSessionEvent():
                self._sessions.append(event)
            case ScratchCleanup():
                self.first()
                self._print_cleanup(event)
                self._sessions.clear()  # another run may follow, if the person agrees to it
            case TrashEntryEvent():
                self.first()
                self.console.print(_trash_line(event))

    def _print_cleanup(self, summary: ScratchCleanup) -> None:
        listed = [each for each in self._sessions if self.verbose or each.reason not in IN_RECENT_USE or each.action is not Action.KEPT]
        listed.sort(key=lambda session: -(session.bytes or 0) if self.sort == "size" else _instant(session.last_activity))
        listed.sort(key=lambda session: session.action is Action.KEPT)
        if listed:
            self.console.print(Text("Scratch sessions (dry run)" if summary.dry_run else "Scratch sessions", style="bold"))
            self.console.print(Listing(("session", "last used", "size", "result"), [_session_cells(session) for session in listed]), "")
        details = [session for session in listed if session.detail and (self.verbose or session.reason is not Reason.EXPIRED)]
        for session in details[:_DETAILS_MAX]:
            self.console.print(Text(f"{session.session_id}: {_result(session)}: {session.detail}"))
        if len(details) > _DETAILS_MAX:
            self.console.print(Text(f"{len(details) - _DETAILS_MAX:,} more are in the events (--format json)."))
        self.console.print(_cleanup_sentence(summary))
        if summary.sessions_cleaned and summary.trash_until is not None and not summary.dry_run:
            self.console.print(*advice("To undo it:", self.command("trash", "restore", "--last")), sep="\n")


def _session_cells(session: ScratchSessionEvent) -> tuple[Text, ...]:
    return (
        Text(session.session_id),
        Text(_age(session.last_activity, session.timestamp)),
        Text("-" if session.bytes is None else size(session.bytes)),
        Text(_result(session), style=_ACTION_STYLES[session.action]),
    )


def _result(session: ScratchSessionEvent) -> str:
    """Return the action on a session, and its reason: `would trash`, `kept: protected`."""
    action = session.action.replace("_", " ")
    return action if session.reason is Reason.EXPIRED else f"{action}: {session.reason.replace('_', ' ')}"


_CHATS = {
    ChatResult.KEPT: "Their chats are kept.",
    ChatResult.WITHOUT_FILES: "Their chats can never write files again (see keep_chats).",
    ChatResult.DELETED: "The history of their chats is deleted, too (see keep_chats).",
}


def _cleanup_sentence(summary: ScratchCleanup) -> Text:
    verb, freed = ("Would remove", "Would free") if summary.dry_run else ("Removed", "Freed")
    text = f"{verb} {count(summary.sessions_cleaned, 'session')} of {summary.sessions_checked:,}"
    if summary.trash_until is not None:
        text += f": {size(summary.bytes_trashed)}, in the trash until {minute_with_zone(parse(summary.trash_until))}"
    text += (
        f". {freed} {size(summary.bytes_freed)}." if summary.bytes_freed or not summary.bytes_trashed else ". No space is freed until then."
    )
    if summary.sessions_cleaned:
        text += f" {_CHATS[summary.chats]}"
    if summary.sessions_restored:
        verb = "Would restore" if summary.dry_run else "Restored"
        text += f" {verb} {count(summary.sessions_restored, 'session')} from the trash: chats that go on."
    if summary.sessions_kept:
        text += " Kept: " + ", ".join(f"{number:,} {reason.replace('_', ' ')}" for reason, number in summary.sessions_kept.items()) + "."
    if summary.trash_bytes:
        text += f" The trash holds {size(summary.trash_bytes)}."
    if summary.no_sessions is not None:
        text += f" {summary.no_sessions}."
    if not summary.database_found:
        text += " No database of Arawn's was found."
    if summary.failures:
        text += f" {count(summary.failure_count, 'failure')}."
    return Text(text, style="red" if summary.failures else "")


def trash_renderables(result: TrashResult) -> Iterator[RenderableType]:
    """Render the removed sessions in the trash."""
    if not result.entries:
        if result.exit_code is ExitCode.DONE:
            yield "The trash is empty."
        return
    yield Text("Trash", style="bold")
    yield Listing(("session", "removed", "purged from", "size", "files"), [_trash_cells(entry) for entry in result.entries])
    for entry in result.entries:
        if entry.reason:
            yield Text(f"{entry.session_id}: {entry.reason}")


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


def _instant(text: str | None) -> int:
    return 0 if text is None else parse(text)


def _age(instant: str | None, now: str) -> str:
    return age(None if instant is None else parse(instant), parse(now))
