"""Addresses of relays: taken apart once, and never shown with what is secret in them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


_USERINFO = re.compile(r"(?<=://)[^/?#\s@]*(?:@[^/?#\s@]*)*@")


_BEFORE_AT = re.compile(r"^([^\w]*(?:[a-z]+://)?).*@")


_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


_QUERY = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"]*")


ALLOWED = "an address such as https://relay.example/pub/arawn, with http, https, ws or wss"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a relay listens.

    Attributes:
        target: path and query, as the request line has them.
        user, password: what stood before the `@`, decoded; both empty when there was none.
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
        """Whether events go as WebSocket frames, and not as POST requests."""
        return self.scheme in ("ws", "wss")

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def carries_password(self) -> bool:
        """Whether it names a user or a password."""
        return bool(self.user or self.password)

    @property
    def plain(self) -> str:
        """The address as a client opens it, without user and password."""
        return f"{self.scheme}://{self._bracketed}:{self.port}{self.target}"

    def __str__(self) -> str:
        """The address as people may see it: without user, password and query, any of which can hold a secret."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        path = self.target.partition("?")[0]
        return f"{self.scheme}://{self._bracketed}{port}{path}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse(url: str) -> Address:
    """The address that a URL names (RFC 3986).

    Raises:
        ValueError: it is none that a relay can have; the text says what is allowed and does not repeat the URL.
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
    """A text with the user, password and query of every URL in it taken out."""
    return _QUERY.sub(r"\1?***", _USERINFO.sub("***@", text))


def redact_value(value: str) -> str:
    """A configured value that may be a malformed address: all that could be a user and password is taken out, and a query."""
    shown = _BEFORE_AT.sub(r"\1***@", value)
    before, mark, _ = shown.partition("?") if "?" in shown else shown.partition("#")
    return f"{before}?***" if mark else shown


def _is_host(host: str) -> bool:
    """Whether a name can be looked up (RFC 1123), or is an address in digits."""
    if ":" in host:
        return True  # taken out of brackets, and checked by urlsplit
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _target(parts: SplitResult) -> str:
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path
