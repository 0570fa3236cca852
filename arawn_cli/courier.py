"""Trying until it works or the time is up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arawn_cli.bounded import OverdueError, Worker, span
from arawn_cli.parcels import Answer, Parcel, Relay, Undelivered

log = logging.getLogger(__name__)

FIRST_WAIT_SECS = 0.25
LONGEST_WAIT_SECS = 8.0

# An attempt keeps its own time; one that does not is left behind so much later.
GRACE_SECS = 0.1

_NAP_SECS = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance.

    Attributes:
        monotonic: a clock that never steps, in seconds.
        sleep: waits for so many seconds.
        chance: a random number from 0 to below 1.
        stopping: whether a signal asked the run to end.
    """

    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    chance: Callable[[], float]
    stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Courier:
    """Brings events to a relay, trying again with growing waits, until a point in time.

    Only an attempt is left to another thread, which touches nothing but the connection: one that is left behind disturbs nothing.

    Attributes:
        timeout: seconds of one attempt.
        until: when all of it ends, on the monotonic clock.
    """

    relay: Relay
    pace: Pace
    timeout: float
    until: float
    _worker: Worker[Answer] = field(default_factory=Worker)

    @property
    def is_over(self) -> bool:
        """Whether there is no time for another attempt."""
        return self.pace.stopping() or self.pace.monotonic() >= self.until

    def why_over(self) -> str:
        """What ended the trying."""
        return "interrupted" if self.pace.stopping() else "no time was left"

    def carry(self, parcels: Sequence[Parcel]) -> Answer:
        """What came of the events; `Undelivered` when the time is up, or trying again would change nothing in this run."""
        answer: Undelivered | None = None
        tries = 0
        while (left := self.until - self.pace.monotonic()) > 0 and not self.pace.stopping():
            latest = self._attempt(parcels, min(self.timeout, left))
            if not isinstance(latest, Undelivered) or latest.hopeless:
                return latest
            answer = latest
            wait = max(self._backoff(tries), answer.retry_after or 0.0)
            tries += 1
            if self.pace.monotonic() + wait >= self.until:
                return answer
            log.debug("%s; next try in %.1f s", answer.reason, wait)
            self._pause(wait)
        return self._unfinished(answer)

    def close(self) -> None:
        """Lets go of connections."""
        self._worker.close()
        self.relay.close()

    def _attempt(self, parcels: Sequence[Parcel], seconds: float) -> Answer:
        try:
            return self._worker.run(lambda: self.relay.attempt(parcels, seconds), seconds + GRACE_SECS, self.pace.stopping)
        except OverdueError:
            return Undelivered(f"the relay held on for more than {span(seconds)}; it may have the event or not")
        except Exception as error:  # the relay decides what it answers, and must not end the run by it
            log.debug("where it happened", exc_info=True)
            return Undelivered(f"the answer of the relay cannot be understood: {type(error).__name__}")

    def _unfinished(self, answer: Undelivered | None) -> Undelivered:
        if answer is None:
            return Undelivered(self.why_over())
        return Undelivered(f"interrupted; {answer.reason}") if self.pace.stopping() else answer

    def _backoff(self, tries: int) -> float:
        """Twice as long each time, and by chance up to half shorter, so that many machines do not come back at one moment."""
        longest: float = min(FIRST_WAIT_SECS * 2 ** min(tries, 16), LONGEST_WAIT_SECS)
        return longest * (1 - self.pace.chance() / 2)

    def _pause(self, seconds: float) -> None:
        """Waits in short naps: a sleep goes on after a signal."""
        end = self.pace.monotonic() + seconds
        while (left := end - self.pace.monotonic()) > 0 and not self.pace.stopping():
            self.pace.sleep(min(left, _NAP_SECS))
