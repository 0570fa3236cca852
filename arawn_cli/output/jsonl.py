"""Standard output as a place for events, in whatever form, that may go away in mid-run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from arawn_cli.errors import OutputLostError
from arawn_cli.events import Event, to_json

log = logging.getLogger(__name__)


def json_lines(stream: TextIO) -> Callable[[Event], None]:
    """Writes each event as one line and flushes it, so that a reader sees it when it happens."""

    def write(event: Event) -> None:
        stream.write(to_json(event) + "\n")
        stream.flush()

    return write


@contextmanager
def printing() -> Iterator[None]:
    """A context at whose end all that was printed in it has gone out.

    Raises:
        OutputLostError: standard output takes no more.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise OutputLostError.of(error) from error


class StandardOutput:
    """Passes events to a writer until it fails.

    A reader that went away, or a full disk behind the stream, does not stop the
    run: the first such error is logged, and every event from then on counts in `lost`.
    """

    def __init__(self, write: Callable[[Event], None]) -> None:
        self._write = write
        self.lost = 0

    def emit(self, event: Event) -> None:
        """Writes one event."""
        if self.lost:
            self.lost += 1
            return
        try:
            self._write(event)
        except OSError as error:
            self.lost += 1
            log.error("standard output takes no more events: %s", error.strerror)
