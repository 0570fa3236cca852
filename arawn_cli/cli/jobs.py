"""Run the jobs for their commands, and derive exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from arawn_cli.cli.runner import Ended, Output, discard_stdout, run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.paths import unread
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.levels import reaches
from arawn_cli.errors import EXIT_MEANINGS, ArawnCliError, ExitCode
from arawn_cli.events import Event, Level
from arawn_cli.fs.files import AtomicFile
from arawn_cli.output.jsonl import printing
from arawn_cli.output.report_data import Report
from arawn_cli.output.tables import OutputConsole
from arawn_cli.state import State

if TYPE_CHECKING:
    from arawn_cli.diskcheck.job import Checked
    from arawn_cli.events import DiskCheck, ScratchCleanup, ScratchSessionEvent

log = logging.getLogger(__name__)

STANDARD_OUTPUT = "-"


class Destination(Protocol):
    """Takes one report."""

    def take(self, report: Report) -> None:
        """Shows or stores the report.

        Raises:
            ConfigurationError: the file cannot be written.
            OutputLostError: standard output takes no more.
        """


def destination(html: str | None) -> Destination:
    """The destination that `--html` names, or the terminal.

    Raises:
        ConfigurationError: it shows already that the file cannot be written.
    """
    if html is None:
        return _Terminal()
    return _PageOnOutput() if html == STANDARD_OUTPUT else _PageInFile(AtomicFile(Path(html), "the report"))


class _Terminal:
    def take(self, report: Report) -> None:
        from arawn_cli.output.report_text import renderables

        with printing():
            console = OutputConsole(highlight=False)
            for renderable in renderables(report, console.width):
                console.print(renderable)


class _PageOnOutput:
    def take(self, report: Report) -> None:
        from arawn_cli.output.report_html import page

        with printing():
            sys.stdout.buffer.write(page(report).encode())


class _PageInFile:
    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def take(self, report: Report) -> None:
        from arawn_cli.output.report_html import page

        self._file.write(page(report))


@dataclass(frozen=True, slots=True)
class Audience:
    """Who else hears how a job went: of the reason that ended it early, and its summary."""

    told: Callable[[str], None] = lambda _reason: None
    summed_up: Callable[[ScratchCleanup | DiskCheck], None] = lambda _summary: None


_NOBODY = Audience()


def run_cleanup(flags: Flags, output: Output, audience: Audience = _NOBODY) -> ExitCode:
    """`scratch-cleanup`, from flags to exit code."""

    def job(config: Config, context: RunContext) -> Ended:
        from arawn_cli.cleanup.job import clean
        from arawn_cli.events import Reason, ScratchSessionEvent

        if not output.unless_running and (problem := unread(config.root, config.file, on_purpose=flags.config is not None)):
            log.warning("%s", problem)
        sessions: list[ScratchSessionEvent] = []

        def also(event: Event) -> None:
            if isinstance(event, ScratchSessionEvent):
                sessions.append(event)

        summary = clean(config, _also_to(also, context) if config.metrics_directory else context)
        audience.summed_up(summary)
        code = ExitCode.PARTIAL if summary.failures else ExitCode.DONE
        if Reason.REMOVAL_LIMIT in summary.sessions_kept:
            code = ExitCode.REFUSED
        return Ended(code, lambda: _write_cleanup_metrics(config, context.state, summary, sessions))

    return run_job(flags, output, job, told=audience.told)


def run_check(flags: Flags, output: Output, fail_on: str | None, audience: Audience = _NOBODY) -> ExitCode:
    """`disk-check`, from flags to exit code; a level that was reached outweighs a part that could not be read."""

    def job(config: Config, context: RunContext) -> Ended:
        from arawn_cli.diskcheck.job import check, levels_log, only_check

        if output.resolved() == "table":
            levels_log.setLevel(logging.ERROR)
        with only_check(config.root) if output.unless_running else nullcontext():
            checked = check(config, context)
        audience.summed_up(checked.summary)
        code = ExitCode.DONE if checked.summary.complete else ExitCode.PARTIAL
        if fail_on is not None and reaches(checked.summary.level, Level(fail_on)):
            code = ExitCode.LEVEL_REACHED
        return Ended(code, lambda: _write_check_metrics(config, context.state, checked))

    return run_job(flags, output, job, told=audience.told)


def run_check_for_nagios(flags: Flags, output: Output) -> int:
    """`disk-check --format nagios`: prints one status line, and answers with the return code of a monitoring plugin."""
    from arawn_cli.diskcheck.job import check, levels_log
    from arawn_cli.output import nagios

    levels_log.setLevel(logging.ERROR)
    reasons: list[str] = []
    results: list[Checked] = []

    def job(config: Config, context: RunContext) -> Ended:
        results.append(check(config, context))
        return Ended(ExitCode.DONE, lambda: _write_check_metrics(config, context.state, results[0]))

    code = run_job(flags, Output(format="none", verbose=output.verbose, quiet=output.quiet), job, told=reasons.append)
    if results:
        line, answer = nagios.status_line(results[0]), nagios.RETURN_CODES[results[0].summary.level]
    else:
        line, answer = nagios.unknown_line(reasons[0] if reasons else EXIT_MEANINGS[code]), nagios.UNKNOWN
    print(line, flush=True)  # noqa: T201 - standard output is where the line belongs
    return answer


def run_report(flags: Flags, output: Output, days: int, html: str | None, kept: Callable[[Config], tuple[Path, str | None]]) -> ExitCode:
    """`report`, from flags to exit code; it is shown once progress is off the terminal.

    `kept` names the state directory that it follows, and says what cannot be read of another.
    """
    gathered: list[tuple[Destination, Report]] = []
    unread: list[str] = []

    def following(config: Config) -> Config:
        directory, problem = kept(config)
        unread.extend([problem] if problem else [])
        return replace(config, state_directory=directory)

    def job(config: Config, context: RunContext) -> Ended:
        from arawn_cli.output.report_data import gather

        place = destination(html)
        report = gather(config, context, days, unread)
        gathered.append((place, report))
        return _whole(report.complete)

    code = run_job(flags, output, job, prepared=following)

    def tell() -> None:
        for place, report in gathered:
            place.take(report)

    return _told(tell, code)


def run_trash_list(flags: Flags, output: Output) -> ExitCode:
    """`trash list`, from flags to exit code; a table is shown whole once all is measured."""
    from arawn_cli.cleanup.trash_jobs import list_trash

    def job(config: Config, context: RunContext) -> Ended:
        return _whole(list_trash(config, _also_to(listed.append, context)))

    listed: list[Event] = []
    if output.resolved() != "table":
        return run_job(flags, output, job)
    code = run_job(flags, replace(output, format="none"), job)
    if not listed and code is not ExitCode.DONE:
        return code
    from arawn_cli.events import TrashEntryEvent
    from arawn_cli.output.tables import show

    return _told(lambda: show([event for event in listed if isinstance(event, TrashEntryEvent)]), code)


def run_trash_restore(flags: Flags, output: Output, session: str) -> ExitCode:
    """`trash restore`, from flags to exit code."""
    from arawn_cli.cleanup.trash_jobs import restore

    return run_job(flags, output, lambda config, context: _whole(restore(config, context, session)))


def run_trash_purge(flags: Flags, output: Output, older_than_days: int) -> ExitCode:
    """`trash purge`, from flags to exit code."""
    from arawn_cli.cleanup.trash_jobs import empty

    def job(config: Config, context: RunContext) -> Ended:
        return _whole(empty(config, _also_to(purged.append, context), older_than_days))

    purged: list[Event] = []
    code = run_job(flags, output, job)
    if purged or code is not ExitCode.DONE or output.resolved() != "table":
        return code
    from arawn_cli.output.tables import say_that_nothing_is_purged

    return _told(say_that_nothing_is_purged, code)


def _told(tell: Callable[[], None], code: ExitCode) -> ExitCode:
    """The exit code once standard output or a file has the outcome; `code` is that of the run that came to it."""
    try:
        tell()
    except ArawnCliError as error:
        log.error("%s", error)
        code = error.exit_code
    if code is ExitCode.UNDELIVERED:
        discard_stdout()
    return code


def _whole(succeeded: bool) -> Ended:
    return Ended(ExitCode.DONE if succeeded else ExitCode.PARTIAL)


def _also_to(takes: Callable[[Event], None], context: RunContext) -> RunContext:
    """The same context, whose events another gets too."""

    def emit(event: Event) -> None:
        takes(event)
        context.emit(event)

    return replace(context, emit=emit)


def _write_check_metrics(config: Config, state: State, checked: Checked) -> None:
    if config.metrics_directory and not config.dry_run:
        from arawn_cli.output.prometheus import write_check

        write_check(config.metrics_directory, config, state, checked)


def _write_cleanup_metrics(config: Config, state: State, summary: ScratchCleanup, sessions: Sequence[ScratchSessionEvent]) -> None:
    if config.metrics_directory and not config.dry_run:
        from arawn_cli.output.prometheus import write_cleanup

        write_cleanup(config.metrics_directory, config, state, summary, sessions)
