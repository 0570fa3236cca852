"""Connect directly or by a proxy, verify the certificate, and describe failures.

The proxy is that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in
small letters), as for other programs.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

from arawn_cli.config import relay_url
from arawn_cli.config.relay_url import Address
from arawn_cli.delivery.credentials import Secrets, Token, basic, with_kept_variables
from arawn_cli.delivery.message import PROXY_UNAUTHORISED, Failed, excerpt
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.files import read_small_file

# OpenSSL's reasons for an answer that is not a TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})

# The other end closed the connection, such as in the middle of the handshake.
_TLS_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

# A bundle of all authorities of a system is about 200 kB.
_MAX_BYTES = 16 * 1024 * 1024

# The variables that name the proxy for a kind of address, in small letters without _PROXY. A
# WebSocket connection prefers the proxy for https, which is used to tunnels (RFC 6455, 4.1).
_PROXY_OF = {
    "http": ("http", "all"),
    "https": ("https", "all"),
    "ws": ("ws", "https", "http", "all"),
    "wss": ("wss", "https", "all"),
}


class _NoTunnelError(OSError):
    """The proxy does not connect to the server."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the proxy does not connect: {status} {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a server.

    Attributes:
        ca_file: the certificate authorities to trust, or None for those of the system.
        proxy: an address with the scheme http, or None for a direct connection.
    """

    address: Address
    ca_file: Path | None = None
    proxy: Address | None = None

    def __str__(self) -> str:
        """Return the address, and the proxy without its password."""
        return f"{self.address} through {self.peer}" if self.proxy else str(self.address)

    @property
    def server(self) -> str:
        """The server, as messages name it."""
        return f"{self.address.host} port {self.address.port}"

    @property
    def peer(self) -> str:
        """The other end of the connection, as messages name it."""
        return f"the proxy {self.proxy.host} port {self.proxy.port}" if self.proxy else self.server

    @property
    def target(self) -> str:
        """The target of an HTTP request: the whole address if a proxy forwards the request."""
        return self.address.target if self.proxy is None or self.address.is_secure else self.address.plain

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an HTTP request that are for the proxy."""
        return {} if self.proxy is None or self.address.is_secure else _credentials(self.proxy)

    @property
    def unauthorised(self) -> Failed:
        """The failure if the proxy answers 407 (RFC 9110, 15.5.8)."""
        is_known = self.proxy is not None and self.proxy.carries_password
        reason = "does not accept our user and password" if is_known else "requires user and password, and none are configured"
        return Failed(f"{self.peer} {reason} ({PROXY_UNAUTHORISED})", retryable=False)

    def connect(self, timeout: float, *, tunnel: bool = False) -> HTTPConnection:
        """Open a connection; `timeout` is that of each step, in seconds.

        Through a proxy it is a tunnel to the server if the server uses TLS, or if `tunnel` is set.

        Raises:
            ConfigurationError: the file of certificate authorities cannot be used.
            OSError, HTTPException: it cannot be opened; see `failure`.
        """
        server = replace(self.address, host=self.address.host.removesuffix("."))  # no certificate has the dot
        context = context_for(self.ca_file) if server.is_secure else None
        end = self.proxy or server
        stream = socket.create_connection((end.host.removesuffix("."), end.port), timeout)
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.proxy is not None and (tunnel or server.is_secure):
                _open_tunnel(stream, server.authority, self.proxy)
            if context is not None:
                stream = context.wrap_socket(stream, server_hostname=server.host)
        except BaseException:  # whatever it is, nobody else closes the connection
            stream.close()
            raise
        connection = HTTPSConnection(server.host, server.port, context=context) if context else HTTPConnection(server.host, server.port)
        connection.response_class = _Response
        connection.sock = stream
        connection.auto_open = 0  # without its socket it would connect anew, past the proxy and without a time limit
        return connection

    def failure(self, error: OSError | HTTPException) -> Failed | None:
        """Describe an error of TLS or of a tunnel; None for other errors."""
        if isinstance(error, _NoTunnelError):
            if error.status == PROXY_UNAUTHORISED:
                return self.unauthorised
            answer = excerpt(f"{error.status} {error.reason}", self.secrets(None))
            return Failed(f"{self.peer} does not connect to {self.server}: {answer}", retryable=error.status >= 500)
        if isinstance(error, _TLS_ENDS):
            return None
        return Failed(self._tls_problem(error), retryable=False) if isinstance(error, ssl.SSLError) else None

    def cause_of(self, error: OSError | HTTPException) -> str:
        """Return the message of the kernel or of a library, or else the type of an error.

        It may have text of a proxy, whose secrets are removed. The text of an `HTTPException` may
        be any part of an answer.
        """
        if not isinstance(error, OSError):
            return type(error).__name__
        if isinstance(error, _TLS_ENDS):
            return "the TLS connection ended unexpectedly"
        return excerpt(error.strerror or str(error), self.secrets(None)) or type(error).__name__

    def secrets(self, token: Token | None) -> Secrets:
        """Return the secrets that the other end may repeat in its answers."""
        return Secrets.of(self.address, token, self.proxy)

    def _tls_problem(self, error: ssl.SSLError) -> str:
        if error.reason in _NO_TLS:
            other = "http" if self.address.scheme == "https" else "ws"
            return f"{self.server} does not speak TLS; use {other}://, or the port that does"
        if not isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS with {self.address.host} failed: {error.reason or error.strerror or error}"
        certificate = f"the certificate of {self.address.host}"
        match error.verify_code:  # X509_V_ERR_* of OpenSSL's x509_vfy.h, which the ssl module does not name
            case 10:
                return f"{certificate} has expired"
            case 9:
                return f"{certificate} is not valid yet; check the clock of this machine"
            case 62 | 64:
                return f"{certificate} is for another host"
            case 2 | 18 | 19 | 20 | 21 | 24:
                place = f"is not in {self.ca_file}" if self.ca_file else "the system does not know"
                return f"{certificate} is signed by an authority that {place}; name the right one with ca_file"
        return f"{certificate} is not accepted: {error.verify_message}"


class _Response(HTTPResponse):
    """Skip all interim answers (RFC 9110, 15.2). http.client itself skips only those with 100."""

    def begin(self) -> None:
        super().begin()
        while 102 <= self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment] # with headers, nothing more is read
            super().begin()


def _open_tunnel(stream: socket.socket, authority: str, proxy: Address) -> None:
    """Ask a proxy for a tunnel to a server (RFC 9110, 9.3.6).

    `HTTPConnection.set_tunnel` writes an IPv6 address without brackets before Python 3.11.9 and
    3.12.3.

    Raises:
        OSError, HTTPException: it opens none.
    """
    headers = {"Host": authority, **_credentials(proxy)}
    lines = [f"CONNECT {authority} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    stream.sendall("\r\n".join(lines).encode("ascii"))
    with _Response(stream, method="CONNECT") as answer:
        answer.begin()
    if answer.status != 200:
        raise _NoTunnelError(answer.status, answer.reason)


def route_to(address: Address, ca_file: Path | None, *, use_proxy: bool) -> Route:
    """Return how to reach a server.

    A server on this machine is reached directly: a proxy would look for it on its own machine, and
    a token may only be sent to it because it is here.

    Raises:
        ConfigurationError: the environment names a proxy that cannot be used.
    """
    proxy = None if address.is_loopback or not use_proxy else _proxy_for(address)
    return Route(address, ca_file, proxy)


def _proxy_for(address: Address) -> Address | None:
    proxies = _proxies(with_kept_variables(os.environ))
    name = next((name for name in _PROXY_OF[address.scheme] if proxies.get(name, "").strip()), None)
    if name is None:
        return None
    from urllib.request import proxy_bypass  # 5 ms, and only a proxy needs it

    if proxy_bypass(f"{address.host}:{address.port}", proxies) or _is_in(address.host, proxies.get("no", "")):
        return None
    return _parse_proxy(proxies[name].strip(), f"${name.upper()}_PROXY")


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies by the names of the variables, in small letters without `_PROXY`.

    A name in small letters outweighs the other one. A request to a CGI script sets `HTTP_PROXY`.
    """
    return {
        name.lower().removesuffix("_proxy"): value
        for name, value in sorted(environment.items())
        if name.lower().endswith("_proxy") and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environment)
    }


def _is_in(host: str, excluded: str) -> bool:
    """Whether a host is an IP address in a network of `NO_PROXY`, which urllib ignores."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in excluded.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False


def _parse_proxy(value: str, variable: str) -> Address:
    """Parse the value of a variable, which an error never repeats: it may have a password."""
    try:
        proxy = relay_url.parse(value if "://" in value else f"http://{value}")
    except ValueError:
        proxy = None
    if proxy is None or proxy.scheme != "http":
        raise ConfigurationError(
            f"{variable} is not the address of an HTTP proxy, such as http://proxy.example:3128; "
            "correct it, name the relay in $NO_PROXY, or set maintenance.use_proxy = false"
        )
    return proxy


def _credentials(proxy: Address) -> dict[str, str]:
    return {"Proxy-Authorization": basic(proxy)} if proxy.carries_password else {}


@cache
def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context of this process that verifies certificate and host name.

    It trusts the system's authorities, or only those of a PEM file.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    # Not create_default_context: it would write the keys of the connection to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=read_small_file(ca_file, _MAX_BYTES).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: {ca_file} holds no certificate in PEM format") from error
    except OSError as error:
        raise ConfigurationError(f"maintenance.relay.ca_file: cannot read {ca_file}: {error.strerror}") from error
    return context
