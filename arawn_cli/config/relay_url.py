"""Parse URLs of relays, and hide secrets when they are shown."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
# Compiled at the first use: most runs need none of them.
_USERINFO = r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*@"
_BEFORE_AT = r"^([^\w]*(?:[a-z]+://)?).*@"
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_QUERY = r"(://[^\s?#'\"]*)[?#][^\s'\"]*"
_PATH = r"(?i)(https?://[^\s/?#'\"]+)[/?#][^\s'\"]*"
# Characters that a path or a query may have, beside letters, digits and "_.-~" (RFC 3986, A).
_ALLOWED_IN_TARGET = "%/?:@!$&'()*+,;="
ALLOWED = "an address such as https://relay.example/pub/arawn, with http, https, ws or wss"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a relay.

    Attributes:
        target: path and query, as in a request line.
        user, password: decoded from before the `@`; empty without them.
    """

    scheme: str
    host: str
    port: int
    target: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("https", "wss")

    @property
    def is_websocket(self) -> bool:
        """Whether events are sent as WebSocket frames instead of POST requests."""
        return self.scheme in ("ws", "wss")

    @property
    def is_loopback(self) -> bool:
        """Whether the relay is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def carries_password(self) -> bool:
        """Whether it has a user or a password."""
        return bool(self.user or self.password)

    @property
    def plain(self) -> str:
        """The URL for a client, without user and password."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def authority(self) -> str:
        """Host and port, with an IPv6 address in brackets (RFC 3986, 3.2)."""
        return f"{self._bracketed}:{self.port}"

    def __str__(self) -> str:
        """Return the URL without user, password and query, which may be secret."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        path = self.target.partition("?")[0]
        return f"{self.scheme}://{self._bracketed}{port}{path}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse(url: str) -> Address:
    """Parse a URL (RFC 3986).

    Raises:
        ValueError: it is not the URL of a relay. The text names the allowed forms and does not
            repeat the URL.

    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(ALLOWED)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(ALLOWED) from error
    if parts.scheme not in _DEFAULT_PORTS or not host or port == 0 or not _is_host(host):
        raise ValueError(ALLOWED)
    return Address(
        scheme=parts.scheme,
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        target=_target(parts),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def redact(text: str) -> str:
    """Return a text with user, password and query of every URL in it replaced."""
    return re.sub(_QUERY, r"\1?***", re.sub(_USERINFO, "***@", text))


def redact_value(value: str) -> str:
    """Return a value, which may be a malformed URL, without user, password and query."""
    shown = re.sub(_BEFORE_AT, r"\1***@", value)
    before, separator, _ = shown.partition("?") if "?" in shown else shown.partition("#")
    return f"{before}?***" if separator else shown


def redact_path(value: str) -> str:
    """Return a URL with nothing but its scheme and host, and any other text as it is."""
    return re.sub(_PATH, r"\1/***", re.sub(_USERINFO, "", value))


def _is_host(host: str) -> bool:
    """Return whether a text is a valid host name (RFC 1123) or IP address."""
    if ":" in host:
        return True  # an IPv6 address, which urlsplit has checked
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(re.fullmatch(_LABEL, label) for label in labels)


def _target(parts: SplitResult) -> str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe=_ALLOWED_IN_TARGET)
