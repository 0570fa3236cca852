"""Servers that take notifications: JSON over HTTP, a mail server, and ntfy's way to publish."""

from __future__ import annotations

import html
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class JsonServer:
    """A server for `json://`. It answers with `status` after `delay` seconds, and keeps what it
    accepted."""

    scheme = "json"

    def __init__(self) -> None:
        self.status = 200
        self.delay = 0.0
        self.messages: list[dict[str, str]] = []
        self.requests: list[str] = []
        self._requested = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(self.path)
                outer._requested.set()
                time.sleep(outer.delay)
                status, answer = outer.answer(self.path, json.loads(body), dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_values: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def answer(self, _path: str, message: dict[str, str], _headers: dict[str, str]) -> tuple[int, dict[str, object]]:
        if self.status == 200:
            self.messages.append(message)
        return self.status, {}

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Title and text of each message."""
        return [(message["title"], message["message"]) for message in self.messages]

    def wait_for_request(self) -> None:
        assert self._requested.wait(30)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class NtfyServer(JsonServer):
    """A server that publishes as ntfy does, with a token, its answers and errors.

    The answers are those of ntfy's documentation ("Publish as JSON", "Authentication",
    "Limitations").
    """

    scheme = "ntfy"
    token = "tk_0123456789abcdefghijklmnopqrs"

    @property
    def url(self) -> str:
        return f"ntfy://{self.token}@127.0.0.1:{self.port}/alerts"

    def answer(self, path: str, message: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, object]]:
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"code": 40101, "http": 401, "error": "unauthorized", "link": "https://ntfy.sh/docs/publish/#authentication"}
        if path != "/" or not message.get("topic") or self.status != 200:
            return max(self.status, 400), {"code": 40009, "http": 400, "error": "invalid request: topic invalid"}
        self.messages.append(message)
        number = len(self.messages)
        return 200, {"id": f"id{number}", "time": 1_700_000_000 + number, "event": "message", **message}


class MailServer:
    """A mail server that keeps what it accepted, or refuses every recipient."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.status = 200
        self._controller = Controller(self, hostname="127.0.0.1", port=_free_port())
        self._controller.start()

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self._controller.port}/?from=arawn@example.org&to=me@example.org"

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Subject and text of each mail; Apprise writes HTML with a line for each line of the
        message."""
        found = []
        for message in self.messages:
            part = message.get_body(("html", "plain"))
            assert part is not None
            lines = re.sub(r"<br\s*/?>", "\n", str(part.get_content()))
            text = html.unescape(re.sub(r"<[^>]+>", "", lines)).replace("\xa0", " ").strip()
            found.append((str(message["Subject"]), "\n".join(line.strip() for line in text.splitlines())))
        return found

    async def handle_RCPT(  # noqa: N802 - a name of aiosmtpd
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.status != 200:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.messages.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    def close(self) -> None:
        self._controller.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


NotifyServer = JsonServer | NtfyServer | MailServer
SERVERS: dict[str, Callable[[], NotifyServer]] = {"http": JsonServer, "mail": MailServer, "ntfy": NtfyServer}


@contextmanager
def silent_port(*, listens: bool = True) -> Iterator[int]:
    """A port on which nobody answers, or to which nobody can connect."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        yield listener.getsockname()[1]
