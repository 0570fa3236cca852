"""Print events as JSON lines."""

from __future__ import annotations

import sys

from arawn_cli.events import Event, to_json


def print_event(event: Event) -> None:
    """Print an event as one line, and flush it for the reader."""
    sys.stdout.write(to_json(event) + "\n")
    sys.stdout.flush()
