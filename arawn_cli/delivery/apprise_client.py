"""Send messages to people through Apprise, which a child process imports.

Apprise comes with the extra `arawn-cli[notify]`. An address is a secret: it is neither stored nor
logged, and the child inherits it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from arawn_cli.delivery.credentials import Secrets, notify_urls, with_kept_variables
from arawn_cli.delivery.message import (
    EXCERPT_CHARACTERS,
    PROXY_UNAUTHORISED,
    RETRYABLE,
    UNAUTHORISED,
    Delivered,
    Failed,
    OutgoingEvent,
    Refused,
    SendResult,
)
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.child import Child
from arawn_cli.names import escape
from arawn_cli.units import span


@dataclass(frozen=True, slots=True)
class Address:
    """An Apprise URL, and its position among those of its file, from 1."""

    number: int
    url: str = field(repr=False)

    def __str__(self) -> str:
        """Return the address as logs name it."""
        return f"address {self.number} ({escape(self.url.partition('://')[0])})"


def addresses_from(file: Path, environment: Mapping[str, str]) -> list[Address]:
    """Read the addresses of notifications.

    Raises:
        ConfigurationError: the file cannot be used. The text has nothing of its content.
    """
    try:
        lines = notify_urls(file, environment).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text (byte {error.start})") from error
    urls = []
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\S", text):
            raise ConfigurationError(
                f"{file}, line {number}: no address; allowed: one Apprise URL per line, such as mailto://…, and comments"
            )
        urls.append(text)
    if not urls:
        raise ConfigurationError(f"{file} has no address: write one Apprise URL per line, or remove urls_file from [maintenance.notify]")
    return [Address(number, url) for number, url in enumerate(urls, 1)]


def missing_apprise() -> str | None:
    """Return the command that installs Apprise if it is missing, else None. It is not imported."""
    if find_spec("apprise") is not None:
        return None
    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):
        return "pipx inject arawn-cli apprise"
    if os.path.exists(os.path.join(sys.prefix, "uv-receipt.toml")):
        return "uv tool install --force --with apprise ."
    return f"{shlex.quote(sys.executable)} -m pip install apprise"


class AppriseClient:
    """Send messages to one address from a child process, which can be killed.

    Some services of Apprise wait without a limit, or start threads that outlive the call.
    """

    batch_size = 1

    def __init__(self, address: Address, *, use_proxy: bool = True) -> None:
        """Take an address, and whether a proxy that the environment names may be used.

        Raises:
            ConfigurationError: Apprise is not installed, or no process can be started.
        """
        if missing_apprise():
            raise ConfigurationError("Apprise is not installed")
        try:
            self._child = Child("Apprise", lambda message: _answer(address.url, message, use_proxy=use_proxy))
        except OSError as error:
            raise ConfigurationError(f"cannot start a process for Apprise: {error.strerror}") from error

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Send one message. After a timeout it may have arrived, so only a later run retries."""
        (event,) = events
        return self._ask(json.loads(event.body), timeout)

    def problem(self, timeout: float, *, test: bool) -> str | None:
        """Return why the address cannot be used, None if it can. With `test`, send a message."""
        message = {"title": f"Arawn on {socket.gethostname()}: test", "body": "arawn-cli can notify you. Nothing is wrong.", "type": "info"}
        match self._ask(message if test else None, timeout):
            case Refused(reason) | Failed(reason):
                return reason
        return None

    def _ask(self, message: Mapping[str, str] | None, timeout: float) -> SendResult:
        try:
            answer = self._child.ask(message, seconds=timeout)
        except OSError as error:
            self._child.end()
            if error.errno == errno.ETIMEDOUT:
                return Failed(f"no answer within {span(timeout)}; the message may have arrived", retryable=False)
            return Failed("Apprise ended without a result; the message may have arrived", retryable=False)
        return _RESULTS[answer.pop("result")](**answer)

    def close(self) -> None:
        """End the child, also if it is still sending."""
        self._child.end()


_RESULTS: dict[str, Callable[..., SendResult]] = {result.__name__: result for result in (Delivered, Refused, Failed)}


# The rest runs in the child process.


def _answer(url: str, message: Mapping[str, str] | None, *, use_proxy: bool) -> dict[str, object]:
    """Send a message and return the result; without a message only check the address."""
    logging.root.handlers = [logging.NullHandler()]  # libraries log addresses
    # Only proxies: a program that a library starts gets all variables.
    os.environ.update({name: value for name, value in with_kept_variables(os.environ).items() if name.lower().endswith("_proxy")})
    if not use_proxy:
        os.environ["no_proxy"] = "*"  # of both names, this one counts
    try:
        result = _send_with_apprise(url, message)
    except Exception as error:  # a service may fail in any way, and the text may contain the address
        result = Failed(f"Apprise failed with {type(error).__name__}", retryable=False)
    return {"result": type(result).__name__, **asdict(result)}


class _Records(logging.Handler):
    """Keep the log of Apprise, which alone says why a message was not sent."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.warnings: list[str] = []
        self.causes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.warnings.append(text)
        elif "Exception" in text:
            self.causes.append(text)


# Nothing was sent if one of these is the cause: the run may try again.
_UNREACHABLE = re.compile(r"refused|name resolution|not known|No route|unreachable|NewConnectionError|NameResolution|ConnectTimeout")
_STATUS = re.compile(r"error=(\d{3})\b")
_SMTP_STATUS = re.compile(r"\((5\d\d), ")

# Answers of HTTP and SMTP (RFC 4954, 6) to a wrong password, which refuse no single message.
_NO_ACCESS = frozenset({UNAUTHORISED, PROXY_UNAUTHORISED, 530, 534, 535, 538})


def interpret(warnings: Sequence[str], causes: Sequence[str], url: str) -> Refused | Failed:
    """Interpret the log of Apprise about a message that was not sent.

    Causes may contain the address, also in parts or encoded, so the result names only their kind.
    """
    text = escape(without_address(" ".join(" ".join(warnings).split()), url))[:EXCERPT_CHARACTERS] or "Apprise gives no reason"
    cause = " ".join(causes)
    if found := _STATUS.search(" ".join(warnings)):
        status = int(found[1])
        if 400 <= status < 500 and status not in RETRYABLE | _NO_ACCESS:
            return Refused(text)
    if rejected := _SMTP_STATUS.search(cause):
        text = f"{text} SMTP {rejected[1]}"
        return Failed(text, retryable=False) if int(rejected[1]) in _NO_ACCESS else Refused(text)
    if _UNREACHABLE.search(cause):
        return Failed(f"it cannot be reached: {text}")
    return Failed(text, retryable=False)


def without_address(text: str, url: str) -> str:
    """Return a text without the parts of an Apprise URL, each of which may be a secret."""
    return Secrets.of_texts(re.split(r"[/:@?&=+,#]+", url.partition("://")[2])).removed_from(text)


def _send_with_apprise(url: str, message: Mapping[str, str] | None) -> SendResult:
    import apprise

    records = _Records()
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [records], False
    logger.setLevel(logging.DEBUG)
    asset = apprise.AppriseAsset(app_id="arawn-cli", app_desc="Arawn", app_url="")
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return Failed("Apprise does not understand this address", retryable=False)
    if message is None:
        return Delivered()
    services = apprise.Apprise(asset=asset)
    services.add(service)
    is_sent = services.notify(body=message["body"], title=message["title"], notify_type=message["type"], body_format="text")
    return Delivered() if is_sent else interpret(records.warnings, records.causes, url)
