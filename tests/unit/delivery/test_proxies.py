"""Proxies: which one is used, HTTP and WebSocket relays behind a real one, and its failures."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from websockets.sync.server import ServerConnection, serve

from arawn_cli.config import relay_url
from arawn_cli.delivery.connecting import Route, route_to
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.http import HttpClient, probe
from arawn_cli.delivery.message import Delivered, Failed, SendResult
from arawn_cli.delivery.ping import Pings
from arawn_cli.delivery.websocket import WebSocketClient
from arawn_cli.errors import ConfigurationError
from tests.support.contrary_servers import ONE, TOKEN, answering, running

SCHEMES = ("http", "https", "ws", "wss")
NAMES = ("relay.example", "2001:db8::7")
ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no", "ws", "wss"):
        for variable in (f"{name}_proxy", f"{name}_PROXY".upper()):
            monkeypatch.delenv(variable, raising=False)


@dataclass
class Proxy:
    """A proxy that knows one server, whatever its name; `status` is its answer to a tunnel."""

    server: int = 0
    status: bytes = b"200 OK"
    heads: list[bytes] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            yield listener.getsockname()[1]
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                down, _ = listener.accept()
                with down, contextlib.suppress(OSError):
                    self._talk(down)

    def _talk(self, down: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received and (data := down.recv(65_536)):
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        self.heads.append(head)
        is_tunnel = head.startswith(b"CONNECT ")
        if not self.status.startswith(b"200"):
            down.sendall(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server)) as up:
            if is_tunnel:
                down.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                up.sendall(received)
            back = threading.Thread(target=self._pass, args=(up, down), daemon=True)
            back.start()
            self._pass(down, up)
            back.join()
        assert not (is_tunnel and rest)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relay_of(scheme: str, directory: Path, received: list[str]) -> Iterator[int]:
    """A relay of each kind with a certificate for `NAMES`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    context = None
    if scheme in ("https", "wss"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*NAMES).configure_cert(context)
    if scheme in ("http", "https"):

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                received.append(str(self.headers))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            web.socket = context.wrap_socket(web.socket, server_side=True)
        with web, running(web.serve_forever, web.shutdown):
            yield web.server_address[1]
        return

    def talk(connection: ServerConnection) -> None:
        received.extend(str(message) for message in connection)

    with serve(talk, "127.0.0.1", 0, ssl=context) as server, running(server.serve_forever, server.shutdown):
        yield server.socket.getsockname()[1]


def sent(route: Route, token: Token | None = None) -> SendResult:
    relay = WebSocketClient(route, token, "") if route.address.is_websocket else HttpClient(route, token)
    result = relay.send([ONE], 5)
    relay.close()
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("user", ["", "ann:s3cr3t@"])
@pytest.mark.parametrize("host", ["relay.example", "[2001:db8::7]"])
def test_events_reach_each_kind_of_relay_through_a_proxy(
    tmp_path: Path, scheme: str, user: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy resolves the name of the relay, which this machine does not know."""
    received: list[str] = []
    with relay_of(scheme, tmp_path, received) as server:
        proxy = Proxy(server)
        with proxy.listening() as port:
            monkeypatch.setenv("ALL_PROXY", f"http://{user}127.0.0.1:{port}")
            route = route_to(relay_url.parse(f"{scheme}://{host}:{server}/pub"), tmp_path / "ca.pem", use_proxy=True)
            assert sent(route) == Delivered()
    (head,) = proxy.heads
    line = f"POST http://{host}:{server}/pub" if scheme == "http" else f"CONNECT {host}:{server}"
    assert head.startswith(line.encode() + b" ")
    assert f"\r\nHost: {host}:{server}\r\n".encode() in head + b"\r\n"
    assert (b"Proxy-Authorization: Basic YW5uOnMzY3IzdA==" in head) is bool(user)
    assert len(received) == 1
    assert scheme.startswith("ws") or f"Host: {host}:{server}\n" in received[0]
    assert "s3cr3t" not in str(route)
    if scheme == "https":
        assert "Proxy-Authorization" not in received[0]


@pytest.mark.parametrize(
    ("scheme", "status", "retryable"),
    [
        *((scheme, b"407 Proxy Authentication Required", False) for scheme in SCHEMES),
        *((scheme, b"503 Service Unavailable", True) for scheme in SCHEMES),
        *((scheme, b"403 Forbidden", False) for scheme in SCHEMES if scheme != "http"),  # that is as if the relay had answered
    ],
)
def test_a_proxy_that_does_not_connect_refuses_no_event(
    scheme: str, status: bytes, retryable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(status=status)
    with proxy.listening() as port:
        monkeypatch.setenv("all_proxy", f"http://ann:s3cr3t@127.0.0.1:{port}/")
        route = route_to(relay_url.parse(f"{scheme}://relay.example/pub"), None, use_proxy=True)
        result = sent(route)
        found = probe(route, None, "", 5)
    assert isinstance(result, Failed)
    assert result.retryable is retryable
    assert str(status[:3], "ascii") in result.reason
    assert found.ok is False
    assert str(status[:3], "ascii") in found.text
    assert "s3cr3t" not in result.reason + found.text + repr(route) + str(route)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("user", "words"),
    [("", "requires user and password, and none are configured"), ("ann:s3cr3t@", "does not accept our user and password")],
)
def test_a_proxy_that_requires_a_password_is_described(scheme: str, user: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(status=b"407 Proxy Authentication Required")
    with proxy.listening() as port:
        monkeypatch.setenv("ALL_PROXY", f"http://{user}127.0.0.1:{port}")
        route = route_to(relay_url.parse(f"{scheme}://relay.example/pub"), None, use_proxy=True)
        reason = f"the proxy 127.0.0.1 port {port} {words} (407)"
        assert sent(route) == Failed(reason, retryable=False)
        assert reason in probe(route, None, "", 5).text


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_proxy_that_is_down_is_named_without_its_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://ann:s3cr3t@127.0.0.1:9")
    route = route_to(relay_url.parse(f"{scheme}://relay.example/pub"), None, use_proxy=True)
    assert sent(route) == Failed("cannot connect to the proxy 127.0.0.1 port 9: Connection refused")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_proxy_that_speaks_another_protocol_is_a_failure(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def route_through(port: int) -> Route:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        return route_to(relay_url.parse(f"{scheme}://relay.example/pub"), None, use_proxy=True)

    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert isinstance(sent(route_through(port)), Failed)
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert probe(route_through(port), None, "", 5).ok is False


@pytest.mark.parametrize("scheme", ["https", "ws", "wss"])
def test_neither_control_characters_nor_secrets_of_a_proxys_answer_are_shown(
    scheme: str, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy(status=b"403 \x1b]0;x\x07 s3cr3t YW5uOnMzY3IzdA== " + b"x" * 1000)
    with proxy.listening() as port:
        monkeypatch.setenv("all_proxy", f"http://ann:s3cr3t@127.0.0.1:{port}/")
        route = route_to(relay_url.parse(f"{scheme}://relay.example/pub"), None, use_proxy=True)
        result = sent(route)
        found = probe(route, None, "", 5)
        Pings("https://hc.example/uuid", lambda: False).start()
    assert isinstance(result, Failed)
    for text in (result.reason, found.text, told.records[0].getMessage()):
        assert "403" in text
        assert len(text) < 500
        for secret in ("\x1b", "\x07", "s3cr3t", "YW5uOnMzY3IzdA"):
            assert secret not in text


def test_a_token_is_not_for_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []
    with relay_of("https", tmp_path, received) as server:
        proxy = Proxy(server)
        with proxy.listening() as port:
            monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
            route = route_to(relay_url.parse(f"https://relay.example:{server}/pub"), tmp_path / "ca.pem", use_proxy=True)
            assert sent(route, TOKEN) == Delivered()
    assert TOKEN.value.encode() not in b"".join(proxy.heads)
    assert f"Bearer {TOKEN.value}" in received[0]


def test_a_ping_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(ACCEPTED) as server:
        proxy = Proxy(server)
        with proxy.listening() as port:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
            Pings("http://hc.example/uuid", lambda: False).start()
    assert proxy.heads[0].startswith(b"POST http://hc.example:80/uuid/start ")


@pytest.mark.parametrize(
    ("url", "variables", "host"),
    [
        ("https://relay.example/", {"HTTPS_PROXY": "http://p1:3128"}, "p1"),
        ("https://relay.example/", {"https_proxy": "http://p1:3128", "HTTPS_PROXY": "http://p2:3128"}, "p1"),
        ("https://relay.example/", {"HTTP_PROXY": "http://p1:3128"}, None),
        ("https://relay.example/", {"HTTP_PROXY": "http://p1:3128", "ALL_PROXY": "p2:3128"}, "p2"),
        ("http://relay.example/", {"HTTP_PROXY": "http://p1:3128", "HTTPS_PROXY": "http://p2:3128"}, "p1"),
        ("wss://relay.example/", {"HTTPS_PROXY": "http://p1:3128"}, "p1"),
        ("ws://relay.example/", {"HTTP_PROXY": "http://p1:3128"}, "p1"),
        ("ws://relay.example/", {"HTTP_PROXY": "http://p1:3128", "HTTPS_PROXY": "http://p2:3128"}, "p2"),
        # A proxy would look for this machine's relay on its own machine.
        ("http://127.0.0.1:8090/", {"ALL_PROXY": "http://p1:3128"}, None),
        ("http://localhost:8090/", {"ALL_PROXY": "http://p1:3128"}, None),
        ("ws://[::1]:8090/", {"ALL_PROXY": "http://p1:3128"}, None),
        # NO_PROXY has names, their domains, addresses, networks, ports, or a star.
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "relay.example"}, None),
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "no_proxy": "localhost, .example"}, None),
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "example"}, None),
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "ample"}, "p1"),
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "*"}, None),
        ("https://relay.example:8443/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "relay.example:8443"}, None),
        ("https://relay.example/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "relay.example:8443"}, "p1"),
        ("https://10.1.2.3/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "other,10.0.0.0/8"}, None),
        ("https://11.1.2.3/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "10.0.0.0/8"}, "p1"),
        ("wss://[fd00::7]/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "fd00::/8"}, None),
        ("wss://[fd00::7]/", {"ALL_PROXY": "http://p1:3128", "NO_PROXY": "[fd00::7]"}, None),
        ("https://relay.example/", {"HTTPS_PROXY": ""}, None),
    ],
)
def test_the_environment_names_the_proxy(url: str, variables: dict[str, str], host: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = route_to(relay_url.parse(url), None, use_proxy=True).proxy
    assert (proxy and proxy.host) == host
    assert route_to(relay_url.parse(url), None, use_proxy=False).proxy is None


@pytest.mark.parametrize(
    "value", ["socks5://ann:s3cr3t@p1:1080", "https://ann:s3cr3t@p1:443", "http://ann:s3cr3t@", "http://ann:s3 cr3t@p1"]
)
def test_an_unusable_proxy_is_an_error_that_does_not_repeat_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match=r"\$HTTPS_PROXY is not the address of an HTTP proxy") as raised:
        route_to(relay_url.parse("https://relay.example/"), None, use_proxy=True)
    assert "s3" not in str(raised.value)
