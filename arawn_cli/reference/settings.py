"""Printing the values of a configuration, each with its source."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from arawn_cli import instants, names
from arawn_cli.origins import Setting
from arawn_cli.setup_events import EffectiveSetting
from arawn_cli.sinks.stdout import json_lines


def print_settings(settings: Iterable[Setting], console: Console) -> None:
    """A line for each value, its source dimmed."""
    for setting in settings:
        console.print(Text(names.escape(f"{setting.key} = {setting.value}")), Text(f"({names.escape(setting.source)})", style="dim"))


def print_settings_as_events(settings: Iterable[Setting], root: str | None) -> None:
    """An event for each value; `root` is the name of the root that they are for."""
    write = json_lines(sys.stdout)
    timestamp, host = instants.render(time.time_ns()), socket.gethostname()
    for each in settings:
        write(
            EffectiveSetting(timestamp=timestamp, host=host, root=root, dry_run=False, key=each.key, value=each.value, source=each.source)
        )
