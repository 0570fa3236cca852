"""Render a disk check and a report for a terminal, with bars and sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.text import Text

from arawn_cli.check_events import DiskCheck, WorkstreamUsage
from arawn_cli.diskcheck.history import WINDOW_HOURS
from arawn_cli.diskcheck.job import CheckResult
from arawn_cli.diskcheck.levels import TOTAL, scope_of, worst_first
from arawn_cli.events import Level, Unit
from arawn_cli.names import escape
from arawn_cli.output import report_wording as words
from arawn_cli.output.format import PLAIN, Command, age, day, fullness, minute_with_zone, mounts_in_words, scope_name
from arawn_cli.output.report_data import (
    MAX_ALERTS,
    MAX_DIRECTORIES,
    MAX_SESSIONS,
    Report,
    ScopeReport,
    SessionReport,
    alerts_of,
    scope_reports,
    with_unknown_limit,
)
from arawn_cli.output.tables import GAP, LEVEL_STYLES, Listing, advice, bare_table
from arawn_cli.units import count, size

_BAR_WIDTH = 16
_TREND_WIDTH = 10

_FIND_LARGEST = ("report", "--html", "report.html")

_LEAST_NAME = 20  # columns that a name gets before others are shown

_ROWS = 10  # of usage, unless more scopes are not ok
_ROWS_MAX = 20

_RIGHT_ALIGNED = frozenset({"used", "limit", "percent", "change"})
_TITLES = {"percent": "full", "bar": "", "level": "", "date": ""}
"""The headings of columns of usage that are not headed by their name."""

_OPTIONAL = ("forecast", "trend", "limit", "date", "bar", "change")
"""Columns of usage that are left out if there is no room, the most important first."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*#"


def _sparkline(curve: Sequence[float | None], blocks: str) -> Text:
    return Text("".join(" " if height is None else blocks[min(int(height * len(blocks)), len(blocks) - 1)] for height in curve), "cyan")


def _bar(scope: ScopeReport, full: str, empty: str, mark: str) -> Text:
    """Draw a bar that is full at the limit, or at a filesystem's capacity with a limit mark."""
    usage = scope.usage
    filled = min(round(usage.percent * _BAR_WIDTH / 100), _BAR_WIDTH)
    cells = list(full * filled + empty * (_BAR_WIDTH - filled))
    if usage.capacity:
        cells[min(usage.limit * _BAR_WIDTH // usage.capacity, _BAR_WIDTH - 1)] = mark
    bar = Text("".join(cells))
    bar.stylize(LEVEL_STYLES[scope.level], 0, filled)  # the rest has the terminal's own colour
    return bar


@dataclass(frozen=True, slots=True)
class UsageTable:
    """Usage, level and forecast of scopes, each with its name: the columns for which there is room.

    `hours` is the period of the trend, which ends at `now`; 0 shows no trend and no dates.
    """

    rows: Sequence[tuple[str, ScopeReport]]
    hours: int = 0
    now: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        rows = [self._cells(scope, ascii_only=options.ascii_only) for _, scope in self.rows]
        titles = {column: _TITLES.get(column, column) for column in rows[0]}
        widths = {column: GAP + max(len(title), *(row[column].cell_len for row in rows)) for column, title in titles.items()}
        longest = max(cell_len(name) for name, _ in self.rows)
        shown = [column for column in titles if column not in _OPTIONAL]
        left = options.max_width - sum(widths[column] for column in shown)
        for column in _OPTIONAL:
            if column in widths and left - widths[column] >= min(longest, _LEAST_NAME):
                shown.append(column)
                left -= widths[column]
        table = bare_table()
        table.add_column("", no_wrap=True, overflow="ellipsis", width=max(min(longest, left), 1))
        columns = [column for column in titles if column in shown]
        for column in columns:
            table.add_column(titles[column], justify="right" if column in _RIGHT_ALIGNED else "left", no_wrap=True)
        for (name, _), row in zip(self.rows, rows, strict=True):
            table.add_row(Text(name), *(row[column] for column in columns))
        yield table

    def _cells(self, scope: ScopeReport, *, ascii_only: bool) -> dict[str, Text]:
        """Return the cells of a row by column, in their order."""
        style = LEVEL_STYLES[scope.level]
        cells = {
            "used": Text(words.used(scope), style),
            "limit": Text(words.limit(scope)),
            "bar": _bar(scope, *("#-|" if ascii_only else "█░│")) if scope.has_limit else Text(),
            "percent": Text(words.share(scope), style),
        }
        if self.hours:
            curve = scope.curve(self.hours, _TREND_WIDTH)
            cells |= {"trend": _sparkline(curve, _ASCII_BLOCKS if ascii_only else _BLOCKS), "change": Text(words.change(scope))}
        cells["level"] = Text("" if scope.level is Level.OK else scope.level, style)
        cells["forecast"] = Text("" if scope.next_limit is None and scope.level is not Level.UNKNOWN else words.forecast(scope))
        if self.hours:
            cells["date"] = Text(words.forecast_day(scope, self.now))
        return cells


def check_renderables(result: CheckResult, command: Command = PLAIN, *, verbose: bool) -> Iterator[RenderableType]:
    """Render a disk check; `verbose` shows every workstream's id."""
    scopes = scope_reports(result.verdicts, result.history, WINDOW_HOURS)
    alerts, summary = alerts_of(scopes.values()), result.summary
    total = scopes[TOTAL]
    headline = words.headline(alerts, complete=summary.complete)
    yield Text.assemble((str(summary.level), LEVEL_STYLES[summary.level]), f": {headline}", " (dry run)" if summary.dry_run else "")
    forecast = f" {words.forecast(total).capitalize()}." if total.forecast_days is not None else ""
    yield Text(words.summary(total, summary.workstreams) + forecast)
    yield Text("; ".join(_disk(summary)))
    workstreams = {event.workstream_id: _workstream_scope(event, scopes) for event in result.workstreams}
    others = [scope for scope in alerts if scope not in workstreams.values() and scope is not total]
    ranked = sorted((*workstreams.values(), *others), key=lambda scope: worst_first(scope.usage, scope.level))
    shown, rest = (ranked, []) if verbose else _most_important(ranked)
    yield ""
    yield UsageTable([(escape(scope.usage.name), scope) for scope in shown])
    if rest:
        yield Text(_rest(rest), style="dim")
    if verbose:
        yield ""
        for event in result.workstreams:
            areas = words.areas(event.production_bytes, event.work_bytes, event.other_bytes)
            yield Text(f"{event.workstream_id}: {escape(event.workstream_name)}, {areas}")
    yield from _check_notes(result)
    if alerts:
        yield ""
        if result.reclaimable:
            freed = size(result.reclaimable)
            yield from advice(f"A cleanup would free {freed}. To see what it would remove:", command("scratch-cleanup", "-n"))
        yield from advice("To see what grows, and the largest sessions:", command("report"))


def _workstream_scope(event: WorkstreamUsage, scopes: Mapping[str, ScopeReport]) -> ScopeReport:
    """Return the scope of a workstream; its limit is unknown without the database."""
    scope = scope_of(event.workstream_id.removeprefix(f"{event.root}/"))
    return scopes.get(scope) or with_unknown_limit(scope, event.workstream_name, event.total_bytes, 0, complete=event.complete)


def _disk(summary: DiskCheck) -> Iterator[str]:
    for filesystem in (summary.filesystem, *summary.mounted):
        yield fullness(filesystem)
    if summary.own_files_bytes:
        yield f"Arawn's own files: {size(summary.own_files_bytes)}"
    if summary.trash_bytes:
        yield f"the trash holds {size(summary.trash_bytes)}"
    if summary.foreign:
        yield f"foreign files: {size(summary.foreign_bytes)}"


def _check_notes(result: CheckResult) -> Iterator[Text]:
    """Render the entries that the figures do not include, and the scopes that recovered."""
    summary = result.summary
    for verdict in result.verdicts:
        if verdict.notify and verdict.level is Level.OK:
            yield Text(f"ok again: {escape(verdict.usage.name)}", style=LEVEL_STYLES[Level.OK])
    if summary.not_counted:
        yield Text(f"Not counted: {mounts_in_words(summary.not_counted)}.")
    if not summary.complete:
        yield from _incomplete(summary.failure_count, map(str, result.measurements.failures))


def _incomplete(number: int, problems: Iterable[str]) -> Iterator[Text]:
    yield Text(f"Incomplete: {words.unread(number)}", style="bold red")
    yield from (Text(f"  {escape(problem)}", style="red") for problem in islice(problems, MAX_ALERTS))


def _most_important(ranked: Sequence[ScopeReport]) -> tuple[Sequence[ScopeReport], Sequence[ScopeReport]]:
    """Return the first of the scopes, which are those to look at, and the rest."""
    wanted = sum(scope.level is not Level.OK or not scope.usage.complete for scope in ranked)
    number = min(max(wanted, _ROWS), _ROWS_MAX)
    return (ranked, ()) if len(ranked) <= number + 1 else (ranked[:number], ranked[number:])


def _rest(scopes: Sequence[ScopeReport]) -> str:
    """Return how many scopes are not shown, and how much they use."""
    bad = sum(scope.level is not Level.OK for scope in scopes)
    used = size(sum(scope.usage.usage for scope in scopes if scope.usage.unit is Unit.BYTES))
    return f"and {len(scopes):,} more, {used} together, {f'{bad:,} of them not ok' if bad else 'all ok'} (-v lists them)"


def renderables(report: Report, command: Command = PLAIN, *, verbose: bool = False) -> Iterator[RenderableType]:
    """Render a report; `verbose` shows every workstream."""
    yield from _head(report)
    if report.alerts:
        yield from _open_alerts(report, command)
    yield _heading(f"Usage, and its trend over {count(report.days, 'day')}" if report.has_history else "Usage")
    yield from _usage(report, verbose=verbose)
    if not report.has_history:
        yield Text(words.NO_HISTORY, style="dim")
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
    yield Text.assemble(("Disk report", "bold"), f"  {escape(report.host)}:{escape(report.root)}  {minute_with_zone(report.now)}")
    yield Text.assemble(
        (words.verdict(report), style), f": {words.headline([alert.scope for alert in report.alerts], complete=report.complete)}"
    )
    yield Text(words.summary(report.total, len(report.workstreams)))
    trash = f"the trash holds {size(report.trash)}" if report.trash else "the trash is empty"
    foreign = f"; foreign files: {size(report.foreign)}" if report.foreign else ""
    yield Text(f"{escape(fullness(report.filesystem))}; {trash}{foreign}")
    if report.problems:
        yield from _incomplete(len(report.problems), report.problems)


def _open_alerts(report: Report, command: Command) -> Iterator[RenderableType]:
    yield _heading("Open alerts")
    for alert in report.alerts[:MAX_ALERTS]:
        style = LEVEL_STYLES[alert.scope.level]
        yield Text.assemble((str(alert.scope.level), style), f": {words.problem(alert.scope)}, {words.opened(alert)}")
        step = words.next_step(alert, report)
        why = "" if step else "  # lists the largest files"
        yield Text(f"  {command(*(step or _FIND_LARGEST))}{why}", no_wrap=True, overflow="ignore")
    yield from _more(len(report.alerts) - MAX_ALERTS)


def _usage(report: Report, *, verbose: bool) -> Iterator[RenderableType]:
    workstreams = [workstream.scope for workstream in report.workstreams]
    shown, rest = (workstreams, []) if verbose else _most_important(workstreams)
    others = [scope for scope in (report.total, report.own_scope, *report.filesystems) if scope is not None]
    yield UsageTable(
        [(escape(scope.usage.name), scope) for scope in (*others, *shown)], report.days * 24 if report.has_history else 0, report.now
    )
    if rest:
        yield Text(_rest(rest), style="dim")


def _session_table(sessions: Iterable[SessionReport], report: Report) -> Listing:
    rows = []
    for session in sessions:
        bytes_used = Text(size(session.size), LEVEL_STYLES[session.level])
        rows.append((escape(session.id), age(session.last_activity, report.now), bytes_used, words.due(session)))
    return Listing(("session", "last used", "size", "cleanup"), rows)


def _cleanup(report: Report) -> Iterator[RenderableType]:
    yield _heading("Next cleanup")
    if report.cleanup is None:
        yield Text(words.UNKNOWN_CLEANUP, style="red")
        return
    yield Text(words.cleanup(report.cleanup))
    listed = [("now", session) for session in report.cleanup.removed[:MAX_SESSIONS]]
    listed += [(day(session.due or 0), session) for session in report.cleanup.later[:MAX_SESSIONS]]
    for when, session in listed:
        yield Text(f"  {when:<10}  {size(session.size):>10}  {escape(session.id)}")
    if number := words.not_shown(report.cleanup):
        yield Text(f"  and {count(number, 'session')} more", style="dim")


def _section(
    title: str, headings: tuple[str, ...], rows: Sequence[tuple[Text | str, ...]], most: int, empty: str
) -> Iterator[RenderableType]:
    """Render a list, of which at most some rows are shown."""
    yield _heading(title)
    if empty and not rows:
        yield Text(empty, style="dim")
        return
    yield Listing(headings, rows[:most])
    yield from _more(len(rows) - most)


def _orphans(report: Report) -> Iterator[RenderableType]:
    rows = [
        (escape(orphan.path), words.at_least(orphan.size, complete=orphan.complete), escape(orphan.title), orphan.kind)
        for orphan in report.orphans
    ]
    yield from _section("Not covered by any cleanup", ("directory", "size", "of", "why"), rows, MAX_DIRECTORIES, words.NO_ORPHANS)


def _own_files(report: Report) -> Iterator[RenderableType]:
    for title, directory in words.directories(report):
        rows = [(name, size(number)) for name, number in directory.entries]
        yield from _section(title, ("entry", "size"), rows, MAX_DIRECTORIES, "")


def _more(number: int) -> Iterator[Text]:
    if number > 0:
        yield Text(f"  and {number:,} more", style="dim")


def _alerts(report: Report) -> Iterator[RenderableType]:
    yield _heading(f"Alerts of the last {count(report.days, 'day')}")
    if not report.transitions:
        yield Text(words.NO_ALERTS, style="dim")
    for transition in report.transitions[:MAX_ALERTS]:
        yield Text.assemble(
            f"  {minute_with_zone(transition.time)}  ",
            (f"{transition.before} to {transition.level}", LEVEL_STYLES[transition.level]),
            f"  {scope_name(transition.scope, transition.name)}, {words.transition_usage(transition)}",
        )
    yield from _more(len(report.transitions) - MAX_ALERTS)


def _removals(report: Report) -> Iterator[RenderableType]:
    title = f"Sessions removed in the last {count(report.days, 'day')}"
    rows = [(escape(removal.session), day(removal.removed_at), size(removal.bytes), words.removal(removal)) for removal in report.removals]
    yield from _section(title, ("session", "removed", "size", "why"), rows, MAX_SESSIONS, words.NO_REMOVALS)


def _heading(text: str) -> Padding:
    return Padding(Text(text, style="bold"), (1, 0, 0, 0))
