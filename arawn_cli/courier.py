"""Trying until it works or the time is up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arawn_cli.parcels import Answer, Parcel, Relay, Undelivered

log = logging.getLogger(__name__)

FIRST_WAIT_SECS = 0.25
LONGEST_WAIT_SECS = 8.0

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

    Attributes:
        timeout: seconds of one attempt.
        until: when all of it ends, on the monotonic clock.
    """

    relay: Relay
    pace: Pace
    timeout: float
    until: float

    @property
    def is_over(self) -> bool:
        """Whether there is no time for another attempt."""
        return self.pace.stopping() or self.pace.monotonic() >= self.until

    def carry(self, parcels: Sequence[Parcel]) -> Answer:
        """What came of the events; `Undelivered` when the time is up, or trying again would change nothing."""
        answer: Answer = Undelivered("no time was left for it")
        tries = 0
        while not self.is_over:
            answer = self.relay.attempt(parcels, min(self.timeout, self.until - self.pace.monotonic()))
            if not isinstance(answer, Undelivered) or answer.hopeless:
                return answer
            wait = max(self._backoff(tries), answer.retry_after or 0.0)
            tries += 1
            if self.pace.monotonic() + wait >= self.until:
                return answer
            log.debug("%s; next try in %.1f s", answer.reason, wait)
            self._pause(wait)
        return answer

    def _backoff(self, tries: int) -> float:
        """Twice as long each time, and by chance up to half shorter, so that many machines do not come back at one moment."""
        longest: float = min(FIRST_WAIT_SECS * 2 ** min(tries, 16), LONGEST_WAIT_SECS)
        return longest * (1 - self.pace.chance() / 2)

    def _pause(self, seconds: float) -> None:
        """Waits in short naps: a sleep goes on after a signal."""
        end = self.pace.monotonic() + seconds
        while (left := end - self.pace.monotonic()) > 0 and not self.pace.stopping():
            self.pace.sleep(min(left, _NAP_SECS))
