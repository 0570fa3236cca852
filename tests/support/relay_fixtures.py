"""A real relay for tests: nginx with nchan on free ports of the loopback, and subscribers to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import trustme
from websockets.sync.client import ClientConnection, connect

from tests.conftest import needs

TEMPLATE = Path(__file__).parent / "relay" / "nchan.conf.in"
MODULES = Path("/usr/lib/nginx/modules")
TOKEN = "tok-3nchan"


needs_nchan = needs(shutil.which("nginx") is not None and (MODULES / "ngx_nchan_module.so").exists(), "Debian's nginx with nchan")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Nchan:
    """One nginx; `stop` and `start` may follow each other, on the same ports."""

    directory: Path
    port: int
    tls_port: int
    authority: trustme.CA
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        arguments = ["nginx", "-p", str(self.directory), "-c", "nginx.conf", "-g", "daemon off;"]
        with (self.directory / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(arguments, stderr=errors)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (self.directory / "stderr").read_text()
            time.sleep(0.005)
        raise AssertionError("nginx does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The worker holds still: the kernel still takes connections, and nobody answers."""
        assert self.process is not None
        (worker,) = psutil.Process(self.process.pid).children()
        worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            worker.send_signal(signal.SIGCONT)

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def tls_url(self, path: str, scheme: str = "https", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.tls_port}{path}"

    @contextmanager
    def subscriber(self, channel: str) -> Iterator[ClientConnection]:
        with connect(self.url(f"/sub/{channel}", "ws"), proxy=None, compression=None, max_queue=None) as connection:
            yield connection

    def buffered(self, channel: str, count: int) -> list[str]:
        """The first messages of a channel, as a late subscriber gets them."""
        with self.subscriber(channel) as connection:
            return received(connection, count)

    def everything(self, channel: str, last: str) -> list[str]:
        """All messages of a channel; a marker, `last`, was published behind them."""
        with self.subscriber(channel) as connection:
            messages: list[str] = []
            while (message := connection.recv(timeout=10)) != last:
                messages.append(str(message))
            return messages


def received(connection: ClientConnection, count: int) -> list[str]:
    """The next messages of a subscriber."""
    return [str(connection.recv(timeout=10)) for _ in range(count)]


def build(directory: Path, **settings: str) -> Nchan:
    """A configured nginx that is not started."""
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.cert_chain_pems[0].write_to_path(directory / "srv.pem")
    server.private_key_pem.write_to_path(directory / "srv.key")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    relay = Nchan(directory, free_port(), free_port(), authority)
    words = {"PORT": str(relay.port), "TLS_PORT": str(relay.tls_port), "TOKEN": TOKEN, "BUFFER": "50", "SMALL": "800", **settings}
    words["USER"] = "user root;" if os.geteuid() == 0 else ""
    text = TEMPLATE.read_text().replace("load_module modules/", f"load_module {MODULES}/")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    (directory / "nginx.conf").write_text(text)
    return relay


@pytest.fixture(scope="session")
def shared_nchan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nchan]:
    """A relay that nobody stops; each test has a channel of its own."""
    relay = build(tmp_path_factory.mktemp("nchan"), BUFFER="20000")
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
def nchan(tmp_path: Path) -> Iterator[Nchan]:
    """A relay of the test's own, to stop, freeze and start again."""
    directory = tmp_path / "nchan"
    directory.mkdir()
    relay = build(directory)
    relay.start()
    yield relay
    relay.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Returns as soon as something holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.005)
