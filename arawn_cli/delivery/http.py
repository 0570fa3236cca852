"""Send events to a relay with HTTP POST."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as AnyTimeoutError

from arawn_cli import __version__
from arawn_cli.config.relay_url import Address, redact
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Secrets, Token
from arawn_cli.delivery.message import Answer, Delivered, Parcel, Refused, Undelivered
from arawn_cli.names import escape

SHOWN_CHARACTERS = 200


_AGAIN = frozenset({408, 425, 429})


def judge(status: int, body: bytes, retry_after: str | None, now: float, secrets: Secrets) -> Answer:
    """What a status, the start of a body and a `Retry-After` header mean; `now` is in seconds since the epoch."""
    text = shown(body, secrets)
    said = f"{status} {text}".rstrip()
    if status in _AGAIN or status >= 500:
        return Undelivered(f"the relay answers {said}", retry_after=wait_asked_for(retry_after, now))
    if 200 <= status < 300:
        return Refused(said) if _tells_error(body) else Delivered()
    if 300 <= status < 400:
        return Refused(f"{status}, a redirect, which is never followed; set url to where the relay is")
    return Refused(said)


def shown(body: bytes, secrets: Secrets) -> str:
    """The first characters of an answer, on one line, without our secrets and those of any URL in it."""
    text = redact(secrets.removed_from(" ".join(body.decode("utf-8", "replace").split())))
    return escape(text[:SHOWN_CHARACTERS])


def wait_asked_for(retry_after: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, written as a number or as a date; None for no header, or none that can be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def _tells_error(body: bytes) -> bool:
    """Whether a JSON object carries an `error`, which is how Centrifugo refuses with status 200."""
    text = body.removeprefix(BOM_UTF8).lstrip()
    if not text.startswith(b"{"):
        return False
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and bool(answer.get("error"))


USER_AGENT = f"arawn-cli/{__version__}"


# Enough to tell what an answer says; a connection with more to say is closed, not read to its end.
_ANSWER_BYTES = 65_536


# What nginx says, with status 400, to a request in plain text on a port for TLS.
_PLAIN_ON_TLS = b"plain HTTP request was sent to HTTPS port"


class HttpRelay:
    """A relay that takes one event a POST; the connection stays open from one to the next.

    `clock` is the wall clock in seconds, to which the date of a `Retry-After` is compared.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """

    batch = 1

    def __init__(self, address: Address, token: Token | None, ca_file: Path | None, clock: Callable[[], float]) -> None:
        self._address = address
        self._secrets = Secrets.of(address, token)
        self._ca_file = ca_file
        self._clock = clock
        self._common = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "ce-specversion": "1.0",
            **authorization(address, token),
        }
        self._pool = self._pool_of(address, ca_file)

    @staticmethod
    def _pool_of(address: Address, ca_file: Path | None) -> urllib3.HTTPConnectionPool:
        host = f"[{address.host}]" if ":" in address.host else address.host
        if address.is_secure:
            return urllib3.HTTPSConnectionPool(host, address.port, maxsize=1, ssl_context=tls.context_for(ca_file))
        return urllib3.HTTPConnectionPool(host, address.port, maxsize=1)

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer:
        """Posts the one event; an answer that does not come in time leaves open whether the relay has it."""
        (parcel,) = parcels
        until = time.monotonic() + timeout
        try:
            response = self._pool.urlopen(
                "POST",
                self._address.target,
                body=parcel.body,
                headers=self._headers(parcel),
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=timeout),
                preload_content=False,
            )
        except HTTPError as error:
            return self._failure(error, timeout)
        return self._judged(response, until)

    def close(self) -> None:
        """Closes the connection."""
        self._pool.close()

    def _headers(self, parcel: Parcel) -> dict[str, str]:
        return {
            **self._common,
            "ce-id": parcel.event_id,
            "ce-source": parcel.source,
            "ce-type": parcel.type,
            "ce-time": parcel.time,
            "Idempotency-Key": parcel.event_id,
        }

    def _judged(self, response: urllib3.BaseHTTPResponse, until: float) -> Answer:
        body = _start_of(response, until)
        if response.status == 400 and _PLAIN_ON_TLS in body:
            return Undelivered(_speaks_tls(self._address), hopeless=True)
        return judge(response.status, body, response.headers.get("Retry-After"), self._clock(), self._secrets)

    def _failure(self, error: HTTPError, timeout: float) -> Undelivered:
        untrusted = tls.sentence(error, self._address, self._ca_file)
        if untrusted is not None:
            return Undelivered(untrusted, hopeless=True)
        return Undelivered(self._reason(error, timeout))

    def _reason(self, error: HTTPError, timeout: float) -> str:
        host, port = self._address.host, self._address.port
        if isinstance(error, NameResolutionError):
            return f"the name {host} is not known"
        if isinstance(error, NewConnectionError):
            return f"{host} port {port} takes no connection: {_kernel_words(error)}"
        if isinstance(error, ConnectTimeoutError):
            return f"{host} port {port} was not reached within {timeout:.1f} s"
        if isinstance(error, AnyTimeoutError):
            return f"{host} port {port} did not answer within {timeout:.1f} s; it may have the event or not"
        return f"{host} port {port} closed the connection: {_kernel_words(error)}"


def _start_of(response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    """The body as far as it comes in time, and is of use: the status has come, and it tells what became of the event."""
    body = b""
    try:
        while len(body) <= _ANSWER_BYTES and time.monotonic() < until:
            more = response.read1(_ANSWER_BYTES)
            if not more:
                response.release_conn()
                return body
            body += more
    except HTTPError:
        pass  # as for a body that is too long: what has come is enough, and the connection is of no more use
    response.close()
    return body[:_ANSWER_BYTES]


def authorization(address: Address, token: Token | None) -> Mapping[str, str]:
    """The `Authorization` header: the token (RFC 6750), or user and password of the address (RFC 7617), or none."""
    if token is not None:
        return {"Authorization": f"Bearer {token.value}"}
    if address.carries_password:
        return {"Authorization": "Basic " + b64encode(f"{address.user}:{address.password}".encode()).decode("ascii")}
    return {}


def _speaks_tls(address: Address) -> str:
    return f"{address.host} port {address.port} speaks TLS; use https://"


def _kernel_words(error: BaseException) -> str:
    """The kernel's words for what went wrong, if it was asked, else the kind of error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
