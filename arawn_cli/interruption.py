"""SIGTERM and SIGINT as something to ask about."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from arawn_cli.errors import ExitCode


class Signals:
    """SIGTERM and SIGINT as something to ask about, so that a run ends between two steps and tells what it did."""

    def __init__(self) -> None:
        self._received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Takes both signals while the context lasts."""
        before = [(number, signal.signal(number, self._receive)) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def stopping(self) -> bool:
        """Whether one of them came."""
        return self._received is not None

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code that tells of the signal, or None when none came."""
        return None if self._received is None else ExitCode(128 + self._received)

    def _receive(self, number: int, _frame: object) -> None:
        self._received = number
