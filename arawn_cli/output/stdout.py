"""Standard output: events as JSON lines, and failures of the output itself."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TextIO

from arawn_cli.errors import OutputLostError
from arawn_cli.timestamps import SECOND

if TYPE_CHECKING:
    from arawn_cli.events import Event
    from arawn_cli.output.report_data import Report


def print_event(event: Event) -> None:
    """Print an event as one line, and flush it for the reader."""
    from arawn_cli.events import to_json  # not imported for --version

    print_text(to_json(event) + "\n")


# Fields of a report that are nanoseconds since the epoch.
_INSTANTS = frozenset(
    {"due", "last_activity", "last_run", "last_success", "next_run", "purged_at", "removed_at", "run", "since", "time", "trash_until"}
)


def print_report(report: Report) -> None:
    """Print a report as one line of JSON; its times are RFC 3339.

    Raises:
        OutputLostError: it cannot be printed.
    """
    import json  # not imported for --version

    from arawn_cli.events import rendered
    from arawn_cli.names import encodable

    def plain(value: object, name: str = "") -> object:
        if is_dataclass(value):
            return {field.name: plain(getattr(value, field.name), field.name) for field in fields(value)}
        if name == "trend" and isinstance(value, tuple):
            return [{"time": rendered(hour * 3600 * SECOND), "usage": usage} for hour, usage in value]
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if isinstance(value, str):
            return encodable(value)
        return rendered(value) if name in _INSTANTS and isinstance(value, int) else value

    values = {
        "path" if field.name == "root" else field.name: plain(getattr(report, field.name), field.name)
        for field in fields(report)
        if field.name != "now"
    }
    print_text(json.dumps({"type": "report", "timestamp": rendered(report.now), **values}, separators=(",", ":")) + "\n")


def print_text(text: str) -> None:
    """Print text that is not an event.

    Raises:
        OutputLostError: it cannot be printed.
    """
    sys.stdout.write(text)
    sys.stdout.flush()


class Stdout(io.TextIOWrapper):
    """Standard output of this program.

    A reader that closes the pipe (`| head`) has seen enough: later output is discarded, without an
    error. Any other failure, such as a full disk, is raised as `OutputLostError`, also by every
    later `write`. A character that the encoding lacks is shown as a question mark.
    """

    def __init__(self, original: TextIO) -> None:
        """Write to the buffer of `original`, with the same encoding and buffering."""
        super().__init__(
            original.buffer,
            encoding=original.encoding,
            errors="replace",
            line_buffering=bool(original.line_buffering),
            write_through=getattr(original, "write_through", False),
        )
        self._original = original  # its destructor would close the buffer
        self._failure: OutputLostError | None = None

    def write(self, text: str, /) -> int:
        """Write text; the buffer may hold it until the next flush.

        Raises:
            OutputLostError: the text or earlier output cannot be written.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return super().write(text)
        except OSError as error:
            self._handle(error)
            return len(text)

    def flush(self) -> None:
        """Write the content of the buffer.

        Raises:
            OutputLostError: it cannot be written. Once: the interpreter flushes at exit.
        """
        try:
            super().flush()
        except OSError as error:
            self._handle(error)

    def _handle(self, error: OSError) -> None:
        """Send the content of the buffer, and later output, to /dev/null."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if not isinstance(error, BrokenPipeError):
            self._failure = OutputLostError(f"cannot write to standard output: {error.strerror}")
            raise self._failure from error


def replace_stdout() -> None:
    """Make `sys.stdout` an instance of `Stdout`."""
    sys.stdout = Stdout(sys.stdout)
