"""Events as JSON lines on standard output."""

from __future__ import annotations

import logging
from typing import TextIO

from arawn_cli.events import Event, to_json

log = logging.getLogger(__name__)


class JsonLines:
    """Writes each event as one line and flushes it, so that a reader sees it when it happens.

    A reader that went away, or a full disk behind the stream, does not stop the
    run: the first such error is logged, and every event from then on counts in `lost`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0

    def emit(self, event: Event) -> None:
        """Writes one event."""
        if self.lost:
            self.lost += 1
            return
        try:
            self._stream.write(to_json(event) + "\n")
            self._stream.flush()
        except OSError as error:
            self.lost += 1
            log.error("standard output takes no more events: %s", error.strerror)
