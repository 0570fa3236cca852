"""Write events as JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from arawn_cli.events import Event, to_json


def json_lines(stream: TextIO) -> Callable[[Event], None]:
    """Return a function that writes an event as one line, and flushes it for the reader."""

    def write(event: Event) -> None:
        stream.write(to_json(event) + "\n")
        stream.flush()

    return write
