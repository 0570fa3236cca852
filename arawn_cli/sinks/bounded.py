"""A relay that keeps to its time, whatever holds it up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from arawn_cli.parcels import Answer, Parcel, Relay, Undelivered

# The client's own limit comes first where it can, because it knows what it waited for.
_HEAD_START = 0.9


class Bounded:
    """Another relay, each attempt of which ends in time.

    No timeout of a socket limits the resolving of a name, or an answer that comes a byte at a time.
    So attempts are made in a thread, which is left behind when its time is up; it dies with the process.
    `make` builds the relay, and builds it anew after that.
    """

    def __init__(self, make: Callable[[], Relay]) -> None:
        self._make = make
        self._relay = make()
        self._worker: _Worker | None = None

    @property
    def batch(self) -> int:
        """The most events of one attempt."""
        return self._relay.batch

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer:
        """As the relay's, and it ends within `timeout` seconds."""
        if self._worker is None:
            self._worker = _Worker(self._relay)
        answer = self._worker.attempt(parcels, timeout)
        if answer is None:
            self._worker = None
            self._relay = self._make()
            return Undelivered(f"no answer within {timeout:g} s; the relay may have the event or not")
        return answer

    def close(self) -> None:
        """Lets go of the connections and the thread."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None
        self._relay.close()


class _Worker:
    """One thread that makes attempts, one at a time."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._tasks: SimpleQueue[tuple[Sequence[Parcel], float] | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer | Exception] = SimpleQueue()
        threading.Thread(target=self._work, name="relay", daemon=True).start()

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer | None:
        """The relay's answer, or None when there was none in time."""
        self._tasks.put((parcels, timeout * _HEAD_START))
        try:
            answer = self._answers.get(timeout=timeout)
        except Empty:
            self.end()
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """The thread ends after what it is at."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._answers.put(self._relay.attempt(*task))
            except Exception as error:  # it is raised again where the answer is waited for
                self._answers.put(error)
