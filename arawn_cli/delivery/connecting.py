"""Connect directly or by a proxy, verify the certificate, and describe failures.

The proxy is that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in
small letters), as for other programs.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arawn_cli.config import relay_url
from arawn_cli.config.relay_url import Address
from arawn_cli.delivery.credentials import basic, with_kept_variables
from arawn_cli.delivery.message import Failed
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.files import read_small_file

if TYPE_CHECKING:
    import urllib3

# OpenSSL's reasons for an answer that is not a TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})

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

# What http.client says before the status with which a proxy refuses a tunnel.
_NO_TUNNEL = "Tunnel connection failed: "


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
        """What a connection is made to, as messages name it."""
        return f"the proxy {self.proxy.host} port {self.proxy.port}" if self.proxy else self.server

    @property
    def target(self) -> str:
        """What an HTTP request asks for: the whole address if a proxy forwards the request."""
        return self.address.target if self.proxy is None or self.address.is_secure else self.address.plain

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an HTTP request that are for the proxy."""
        return {} if self.proxy is None or self.address.is_secure else _credentials(self.proxy)

    def manager(self) -> urllib3.PoolManager:
        """Return what sends HTTP requests over one connection.

        Raises:
            ConfigurationError: the file of certificate authorities cannot be used.
        """
        import urllib3

        context = context_for(self.ca_file) if self.address.is_secure else None
        if self.proxy is None:
            return urllib3.PoolManager(num_pools=1, maxsize=1, ssl_context=context)
        return urllib3.ProxyManager(self.proxy.plain, proxy_headers=_credentials(self.proxy), num_pools=1, maxsize=1, ssl_context=context)

    def connection(self, timeout: float, *, tunnel: bool) -> http.client.HTTPConnection:
        """Return a connection that is not open yet; `timeout` is that of each step, in seconds.

        Through a proxy it is a tunnel to the server if the server uses TLS, or if `tunnel` is set.

        Raises:
            ConfigurationError: the file of certificate authorities cannot be used.
        """
        end = self.proxy or self.address
        if self.address.is_secure:
            context = context_for(self.ca_file)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(end.host, end.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(end.host, end.port, timeout=timeout)
        if self.proxy is not None and (tunnel or self.address.is_secure):
            connection.set_tunnel(self.address.host, self.address.port, _credentials(self.proxy))
        return connection

    def stream(self, timeout: float) -> socket.socket:
        """Open a connection to the server itself, with TLS if it uses it.

        Raises:
            ConfigurationError: the file of certificate authorities cannot be used.
            OSError: it cannot be opened; see `failure`.
        """
        connection = self.connection(timeout, tunnel=True)
        connection.connect()
        stream: socket.socket = connection.sock
        return stream

    def failure(self, error: BaseException) -> Failed | None:
        """Describe an error of TLS or of a tunnel; None for other errors."""
        for cause in _causes(error):
            if self.proxy is not None and isinstance(cause, OSError) and str(cause).startswith(_NO_TUNNEL):
                answer = str(cause).removeprefix(_NO_TUNNEL)
                return Failed(f"{self.peer} does not connect to {self.server}: {answer}", retryable=answer.startswith("5"))
            if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                return None  # the connection broke in the middle of the handshake
            if isinstance(cause, ssl.SSLError):
                return Failed(self._tls_problem(cause), retryable=False)
        return None

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
    from urllib.request import proxy_bypass  # 20 ms, and only a client needs it

    proxies = _proxies(with_kept_variables(os.environ))
    if proxy_bypass(f"{address.host}:{address.port}", proxies) or _is_in(address.host, proxies.get("no", "")):
        return None
    for name in _PROXY_OF[address.scheme]:
        if value := proxies.get(name, "").strip():
            return _parse_proxy(value, f"${name.upper()}_PROXY")
    return None


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


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name.

    It trusts the system's authorities, or only those of a PEM file.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    # Not create_default_context: it would write the keys of the connection to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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


def cause_of(error: BaseException) -> str:
    """Return the kernel's message behind an error, or else the error's type."""
    messages = (cause.strerror for cause in _causes(error) if isinstance(cause, OSError))
    return next(filter(None, messages), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps, as clients wrap those of the ssl module."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            yield cause
            seen.add(id(cause))
            queue += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
