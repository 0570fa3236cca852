"""Format durations."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A time as people say it: `30 s`, `1.5 s`, `0.28 s`."""
    return f"{round(seconds, 1 if seconds >= 1 else 2):g} s"
