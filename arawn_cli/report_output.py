"""Where a report goes: standard output, for people or as a page, or a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from arawn_cli.render import OutputConsole
from arawn_cli.report_values import Report
from arawn_cli.sinks.stdout import printing
from arawn_cli.whole_file import WholeFile

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
    return _PageOnOutput() if html == STANDARD_OUTPUT else _PageInFile(WholeFile(Path(html), "the report"))


class _Terminal:
    def take(self, report: Report) -> None:
        from arawn_cli.report_text import renderables

        with printing():
            console = OutputConsole(highlight=False)
            for renderable in renderables(report, console.width):
                console.print(renderable)


class _PageOnOutput:
    def take(self, report: Report) -> None:
        from arawn_cli.report_html import page

        with printing():
            sys.stdout.buffer.write(page(report).encode())


class _PageInFile:
    def __init__(self, file: WholeFile) -> None:
        self._file = file

    def take(self, report: Report) -> None:
        from arawn_cli.report_html import page

        self._file.write(page(report))
