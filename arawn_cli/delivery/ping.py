"""Ping a dead man's switch such as healthchecks.io when a run begins and ends.

It tells people if a run fails, or if none comes. A failed ping is a warning and nothing else.
The address is secret, since everybody who knows it can ping: logs name its host alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.client import HTTPException

from arawn_cli.config import relay_url
from arawn_cli.config.relay_url import Address
from arawn_cli.delivery.connecting import route_to
from arawn_cli.delivery.credentials import authorization
from arawn_cli.delivery.http import post
from arawn_cli.delivery.message import USER_AGENT
from arawn_cli.delivery.retry import result_of
from arawn_cli.errors import ConfigurationError, ExitCode
from arawn_cli.events import Event, to_json
from arawn_cli.problems import persistent

log = logging.getLogger(__name__)

_SECS = 1.5  # for one of the two pings of a run
_STOPPING_SECS = 0.7  # after a signal, a run ends within a second

_BODY_BYTES = 100_000  # healthchecks.io keeps as much
_IGNORED = ("OK (not found)", "OK (rate limited)")

_CONTENT_TYPE = {"Content-Type": "application/json", "User-Agent": USER_AGENT}


def suffix_of(exit_code: ExitCode, *, has_result: bool) -> str | None:
    """Return the end of the path for the last ping of a run, or None if it gets no such ping.

    A run without a result and without a failure did nothing: another run holds the lock and pings,
    or nobody agreed to its removals.
    """
    if exit_code is ExitCode.DONE:
        return "" if has_result else None
    return None if exit_code is ExitCode.LOCKED else f"/{exit_code:d}"


def with_suffix(target: str, suffix: str) -> str:
    """Append to the path of a target, which may have a query."""
    path, mark, query = target.partition("?")
    return f"{path.rstrip('/')}{suffix}{mark}{query}" if suffix else target


@dataclass(slots=True)
class Pings:
    """The two pings of one run, which take at most three seconds together.

    Attributes:
        url: the address, as configured.
        use_proxy: whether to connect through the proxy of the environment.
        stopping: whether a signal asked the run to end.
    """

    url: str
    stopping: Callable[[], bool]
    use_proxy: bool = True
    _has_failed: bool = False
    _address: Address = field(init=False)

    def __post_init__(self) -> None:
        self._address = relay_url.parse(self.url)

    def start(self) -> None:
        """Say that a run has begun."""
        self._ping("/start", b"")

    def end(self, exit_code: ExitCode, summary: Event | None, problems: Sequence[str]) -> None:
        """Say how a run ended; the body is its summary as JSON, or the problems without one."""
        suffix = suffix_of(exit_code, has_result=summary is not None)
        if suffix is not None:
            body = to_json(summary) if summary is not None else json.dumps({"exit_code": exit_code, "problems": problems})
            self._ping(suffix, body.encode()[:_BODY_BYTES])

    def _ping(self, suffix: str, body: bytes) -> None:
        problem = self._send(suffix, body)
        if problem is not None:
            host = self._address.host
            log.log(
                logging.INFO if self._has_failed else logging.WARNING,
                "the ping of %s failed: %s",
                host,
                problem,
                extra=persistent(f"ping {host}", ended=f"the ping of {host} succeeds again", about=str(self._address.port)),
            )
            self._has_failed = True

    def _send(self, suffix: str, body: bytes) -> str | None:
        """Send a ping, and return its failure, None without one."""
        try:
            return result_of(lambda: _post(self._address, suffix, body, use_proxy=self.use_proxy), _SECS, self.stopping, _STOPPING_SECS)
        except OSError as error:
            return error.strerror or str(error)


def _post(address: Address, suffix: str, body: bytes, *, use_proxy: bool) -> str | None:
    """Send a ping, and return its failure, without the address."""
    end = time.monotonic() + _SECS
    try:
        route = route_to(replace(address, target=with_suffix(address.target, suffix)), None, use_proxy=use_proxy)
    except ConfigurationError as error:
        return str(error)
    try:
        with closing(route.connect(_SECS)) as connection:
            answer = post(connection, route, {**_CONTENT_TYPE, **authorization(address, None)}, body, end)
    except TimeoutError:
        return f"no answer within {_SECS:.1f} s"
    except (OSError, HTTPException) as error:
        return route.cause_of(error)
    if 300 <= answer.status < 400:
        return f"it answers {answer.status}, a redirect, which is never followed"
    if answer.status < 300 and not answer.is_complete:
        return f"it did not complete its answer {answer.status}"
    # healthchecks.io says with status 200 that it ignored a ping. Other answers may repeat the
    # address.
    ignored = next((text for text in _IGNORED if text.encode() in answer.body), "")
    return None if answer.status < 300 and not ignored else f"it answers {answer.status} {ignored}".rstrip()
