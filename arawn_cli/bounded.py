"""Work that ends in time, whatever holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")

_NAP_SECS = 0.1

# What a signal still allows: an answer that is on its way tells whether an event arrived.
_AFTER_SIGNAL_SECS = 0.5


class OverdueError(Exception):
    """The work has not ended; it goes on, and nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    """A piece of work has an answer."""

    result: Result


@dataclass(frozen=True, slots=True)
class _Failed:
    """A piece of work raised an error."""

    error: Exception


class Worker(Generic[Result]):
    """Does one piece of work after the other, and none of them for longer than it may take.

    No timeout of a socket limits the resolving of a name, or an answer that comes a byte at a time. So the
    work is done in a thread, which is left behind when its time is up, and ends with the process.
    It must touch nothing that the program uses afterwards.
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[Callable[[], Result] | None] | None = None
        self._ended: SimpleQueue[_Done[Result] | _Failed] = SimpleQueue()

    def run(self, work: Callable[[], Result], seconds: float, stopping: Callable[[], bool]) -> Result:
        """What the work answers.

        Args:
            work: what to do.
            seconds: how long it may take.
            stopping: whether a signal asks for an end, which cuts that short.

        Raises:
            OverdueError: it has not ended in time.
            Exception: what the work raises.
        """
        if self._orders is None:
            self._orders = self._hire()
        self._orders.put(work)
        ended = self._wait(time.monotonic() + seconds, stopping)
        if ended is None:
            self.close()
            raise OverdueError
        if isinstance(ended, _Failed):
            raise ended.error
        return ended.result

    def close(self) -> None:
        """Lets the thread go, once it is done with what it does."""
        if self._orders is not None:
            self._orders.put(None)
            self._orders = None

    def _hire(self) -> SimpleQueue[Callable[[], Result] | None]:
        orders: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
        # A queue of its own: what one that was left behind says later is heard by nobody.
        ended: SimpleQueue[_Done[Result] | _Failed] = SimpleQueue()
        self._ended = ended
        threading.Thread(target=_work_off, args=(orders, ended), daemon=True).start()
        return orders

    def _wait(self, until: float, stopping: Callable[[], bool]) -> _Done[Result] | _Failed | None:
        told = False
        while True:
            if not told and stopping():
                told, until = True, min(until, time.monotonic() + _AFTER_SIGNAL_SECS)
            left = until - time.monotonic()
            try:
                return self._ended.get(timeout=max(min(left, _NAP_SECS), 0.0))
            except Empty:
                if left <= 0:
                    return None


def _work_off(orders: SimpleQueue[Callable[[], Result] | None], ended: SimpleQueue[_Done[Result] | _Failed]) -> None:
    while (work := orders.get()) is not None:
        try:
            ended.put(_Done(work()))
        except Exception as error:  # it is raised again where the work is waited for
            ended.put(_Failed(error))


def span(seconds: float) -> str:
    """A time as people say it: `30 s`, `1.5 s`, `0.28 s`."""
    return f"{round(seconds, 1 if seconds >= 1 else 2):g} s"
