"""Try again until a deadline or a signal, and abandon an attempt that hangs."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TypeVar

from arawn_cli.delivery.message import Failed, OutgoingEvent, RelayClient, SendResult
from arawn_cli.fs.mounts import in_thread
from arawn_cli.units import span

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECS = 0.25
_LONGEST_PAUSE_SECS = 8.0

# A client keeps to its timeout; an attempt that does not is abandoned this much later.
_GRACE_SECS = 0.1

# After a signal an attempt may take this much longer: it may show that the events arrived.
_AFTER_SIGNAL_SECS = 0.5

# How often a wait looks for a signal. A sleep continues after one (PEP 475).
_POLL_SECS = 0.1

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance: `monotonic`, `sleep` and `time_ns` of `time`, `random` of `random`."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    wall: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True)
class RetryClient:
    """Wrap a relay client: send again with growing pauses, until a point in time or a signal.

    Attributes:
        timeout: seconds of one attempt.
        end: when all attempts end, on the monotonic clock.
        stopping: whether a signal asked the run to end.
    """

    client: RelayClient
    timeout: float
    end: float
    stopping: Callable[[], bool]
    timing: Timing = Timing()

    def stop_reason(self) -> str | None:
        """Return why no further attempt is made, or None."""
        if self.stopping():
            return "interrupted"
        return "no time was left" if self.timing.monotonic() >= self.end else None

    def send(self, events: Sequence[OutgoingEvent]) -> SendResult:
        """Send all events in their order.

        Return `Failed` if the time is up, or if no attempt in this run could succeed.
        """
        failed: Failed | None = None
        longest = _FIRST_PAUSE_SECS
        while (reason := self.stop_reason()) is None:
            result = self._attempt(events, min(self.timeout, self.end - self.timing.monotonic()))
            if not isinstance(result, Failed):
                return result
            if failed is not None and self.timing.monotonic() >= self.end:
                return failed  # the deadline cut the attempt short, so it says nothing about the relay
            if not result.retryable:
                return result
            failed = result
            # Up to half shorter at random, so that many machines do not retry at the same moment.
            pause = max(longest * (1 - self.timing.random() / 2), result.retry_after or 0.0)
            longest = min(longest * 2, _LONGEST_PAUSE_SECS)
            if self.timing.monotonic() + pause >= self.end:
                return result
            log.debug("%s; next attempt in %.1f s", result.reason, pause)
            self._sleep(pause)
        if failed is not None and not self.stopping():
            return failed  # a pause that took too long says nothing about the relay
        return Failed(f"{reason}; {failed.reason}" if failed else reason)

    def _attempt(self, events: Sequence[OutgoingEvent], seconds: float) -> SendResult:
        """Try once. An attempt that is abandoned touches only the client."""

        def attempt() -> SendResult:
            try:
                return self.client.send(events, seconds)
            except Exception as error:  # whatever a relay answers, it must not end the run
                log.debug("traceback", exc_info=True)
                return Failed(f"the relay's answer cannot be understood: {type(error).__name__}")

        try:
            return result_of(attempt, seconds + _GRACE_SECS, self.stopping, _AFTER_SIGNAL_SECS)
        except TimeoutError:
            if self.stopping():
                return Failed("the event may have arrived")
            return Failed(f"no result within {span(seconds)}; the event may have arrived")
        except OSError as error:
            return Failed(str(error.strerror))

    def _sleep(self, seconds: float) -> None:
        end = self.timing.monotonic() + seconds
        while (left := end - self.timing.monotonic()) > 0 and not self.stopping():
            self.timing.sleep(min(left, _POLL_SECS))


def result_of(call: Callable[[], Answer], seconds: float, stopping: Callable[[], bool], after_signal: float) -> Answer:
    """Return the result of a call in a thread that is abandoned if it takes too long.

    No timeout of a socket limits the resolution of a name, or an answer that comes one byte at a
    time. After a signal to this process, it may take `after_signal` seconds.

    Raises:
        TimeoutError: it did; the text says how long.
        OSError: the call raised it, or no thread can be started (`TasksMax=`, `RLIMIT_NPROC`).
    """
    future = in_thread(call)
    began = time.monotonic()
    end, is_stopping = began + seconds, False
    while (left := end - time.monotonic()) > 0:
        if not is_stopping and stopping():
            is_stopping, end = True, min(end, time.monotonic() + after_signal)
        elif wait([future], min(left, _POLL_SECS)).done:
            return future.result()
    raise TimeoutError(f"no answer within {end - began:.1f} s")
