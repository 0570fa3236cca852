"""Send messages to people through Apprise, which a child process imports.

Apprise comes with the extra `arawn-cli[notify]`. An address is a secret: it is neither stored nor
logged, and the child gets it through a pipe.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote

from arawn_cli.delivery.credentials import notify_urls
from arawn_cli.delivery.message import EXCERPT_CHARACTERS, RETRYABLE, Delivered, Failed, OutgoingEvent, Refused, SendResult
from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape
from arawn_cli.units import span

_SHORTEST_SECRET = 3  # characters; shorter texts are part of too many words


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
    """Send messages to one address, each in a child process that is killed when its time is up.

    Some services of Apprise wait without a limit, or start threads that outlive the call.
    """

    batch_size = 1

    def __init__(self, address: Address, *, use_proxy: bool = True) -> None:
        """Take an address, and whether a proxy that the environment names may be used.

        Raises:
            ConfigurationError: Apprise is not installed.
        """
        if missing_apprise():
            raise ConfigurationError("Apprise is not installed")
        self._address = address
        self._use_proxy = use_proxy
        self._unreachable: Failed | None = None

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Send one message. After a timeout it may have arrived, so only a later run retries."""
        (event,) = events
        result = _run_child({"url": self._address.url, **json.loads(event.body)}, timeout, use_proxy=self._use_proxy)
        if isinstance(result, Failed):
            # The last attempt of a run may have had too little time to say anything.
            result = self._unreachable or result
            self._unreachable = replace(result, retryable=False) if result.retryable else None
        return result

    def close(self) -> None:
        """Do nothing: no connection stays open."""


def _run_child(request: Mapping[str, str], timeout: float, *, use_proxy: bool) -> SendResult:
    text = json.dumps({"seconds": math.ceil(timeout), "use_proxy": use_proxy, **request})
    try:
        done = subprocess.run(
            (sys.executable, "-P", "-m", __name__), input=text.encode(), capture_output=True, timeout=timeout, check=False
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Failed(f"no answer within {span(timeout)}; the message may have arrived", retryable=False)
    except OSError as error:
        return Failed(f"cannot start Apprise: {error.strerror}", retryable=False)
    except ValueError:  # what it printed may contain the address
        return Failed(f"Apprise ended with {done.returncode} and without a result", retryable=False)
    match answer["result"]:
        case "delivered":
            return Delivered()
        case "refused":
            return Refused(answer["reason"])
        case _:
            return Failed(answer["reason"], retryable=answer["retryable"])


def problem_of(address: Address, timeout: float, *, use_proxy: bool, test: bool) -> str | None:
    """Return why an address cannot be used, None if it can. With `test`, send a message to it."""
    message = {"title": f"Arawn on {socket.gethostname()}: test", "body": "arawn-cli can notify you. Nothing is wrong.", "type": "info"}
    match _run_child({"url": address.url} | (message if test else {}), timeout, use_proxy=use_proxy):
        case Refused(reason) | Failed(reason):
            return reason
    return None


# The rest runs in the child process.


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


def interpret(warnings: Sequence[str], causes: Sequence[str], url: str) -> Refused | Failed:
    """Interpret the log of Apprise about a message that was not sent.

    Causes may contain the address, also in parts or encoded, so the result names only their kind.
    """
    text = escape(without_address(" ".join(" ".join(warnings).split()), url))[:EXCERPT_CHARACTERS] or "Apprise gives no reason"
    cause = " ".join(causes)
    status = _STATUS.search(" ".join(warnings))
    if status and 400 <= int(status[1]) < 500 and int(status[1]) not in RETRYABLE:
        return Refused(text)
    if rejected := _SMTP_STATUS.search(cause):
        return Refused(f"{text} SMTP {rejected[1]}")
    if _UNREACHABLE.search(cause):
        return Failed(f"it cannot be reached: {text}")
    return Failed(text, retryable=False)


def without_address(text: str, url: str) -> str:
    """Return a text without the parts of an Apprise URL, each of which may be a secret."""
    parts = re.split(r"[/:@?&=+,#]+", url.partition("://")[2])
    forms = {form for part in parts for form in (part, unquote(part), quote(unquote(part), safe="")) if len(form) >= _SHORTEST_SECRET}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _send_with_apprise(request: Mapping[str, str]) -> SendResult:
    """Send a message; without a body only check the address."""
    import apprise

    records = _Records()
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [records], False
    logger.setLevel(logging.DEBUG)
    asset = apprise.AppriseAsset(app_id="arawn-cli", app_desc="Arawn", app_url="")
    service = apprise.Apprise.instantiate(request["url"], asset=asset)
    if service is None:
        return Failed("Apprise does not understand this address", retryable=False)
    if "body" not in request:
        return Delivered()
    services = apprise.Apprise(asset=asset)
    services.add(service)
    is_sent = services.notify(body=request["body"], title=request["title"], notify_type=request["type"], body_format="text")
    return Delivered() if is_sent else interpret(records.warnings, records.causes, request["url"])


def _main() -> None:
    """Read a message and its address from standard input, send it, and write the result as JSON."""
    request = json.load(sys.stdin)
    signal.alarm(request["seconds"] + 1)  # if nobody is left to kill this process
    if not request["use_proxy"]:
        os.environ["no_proxy"] = "*"  # of both names, this one counts
    answer: dict[str, str | bool]
    match _send_with_apprise(request):
        case Delivered():
            answer = {"result": "delivered"}
        case Refused(reason):
            answer = {"result": "refused", "reason": reason}
        case Failed() as failed:
            answer = {"result": "failed", "reason": failed.reason, "retryable": failed.retryable}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # threads of Apprise may be left


if __name__ == "__main__":
    _main()
