"""The relay configuration to install is one that nginx takes and Arawn's client understands."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tomli_w
import urllib3
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.conftest import Run
from tests.support.relay_fixtures import MODULES, Nchan, build, needs_nchan, received
from tests.support.tree import SampleTree

CONTRIB = Path(__file__).parents[2] / "contrib" / "relay" / "arawn-relay.conf"
pytestmark = needs_nchan


def installed(directory: Path, arawn_port: int = 8080) -> Nchan:
    """The configuration inside a minimal nginx.conf, as Debian's includes it."""
    relay = build(directory)
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "".join(f"{kind}_temp_path tmp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    site = CONTRIB.read_text().replace("127.0.0.1:8090", f"127.0.0.1:{relay.port}").replace("CHANGE-THIS-TOKEN", "t0ken")
    site = site.replace("127.0.0.1:8080", f"127.0.0.1:{arawn_port}")
    (directory / "site.conf").write_text(site)
    (directory / "nginx.conf").write_text(
        f"load_module {MODULES}/ngx_nchan_module.so;\n{user}\npid nginx.pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {paths} include site.conf; }}\n"
    )
    return relay


class _Arawn(BaseHTTPRequestHandler):
    """Answers every request, with its method, path and token."""

    def _answer(self) -> None:
        body = json.dumps([self.command, self.path, self.headers["Authorization"]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def arawn() -> Iterator[int]:
    """A server in place of Arawn; yield its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Arawn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nginx_accepts_it(tmp_path: Path) -> None:
    installed(tmp_path)
    done = subprocess.run(["nginx", "-t", "-p", str(tmp_path), "-c", "nginx.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_events_reach_subscribers_and_the_terminal_client_and_strangers_are_kept_out(tmp_path: Path) -> None:
    relay = installed(tmp_path)
    relay.start()
    token = {"Authorization": "Bearer t0ken"}
    try:
        assert urllib3.request("POST", relay.url("/pub/arawn"), body="x").status == 401
        assert urllib3.request("POST", relay.url("/pub/arawn"), body="x", headers={"Authorization": "Bearer T0KEN"}).status == 401
        assert urllib3.request("DELETE", relay.url("/pub/arawn"), headers=token).status == 403
        with pytest.raises(InvalidStatus, match="403"):
            connect(relay.url("/ws", "ws"), proxy=None, origin=Origin("https://evil.example"))
        with connect(relay.url("/ws", "ws"), proxy=None) as client:
            client.send('{"type":"ping"}')
            assert json.loads(client.recv(timeout=10)) == {"type": "pong"}
            assert urllib3.request("POST", relay.url("/pub/arawn"), body='{"n":1}', headers=token).status == 201
            assert received(client, 1) == ['{"n":1}']
        with connect(relay.url("/sub/arawn", "ws"), proxy=None, additional_headers=token) as late:
            assert received(late, 1) == ['{"n":1}']
    finally:
        relay.stop()


LISTS = (
    "/api/v1/workstreams",
    "/api/v1/workstreams?include_archived=true",
    "/api/v1/workstreams/7b1f3a52-9c6e/sessions",
    "/api/v1/sessions",
)


def test_the_lists_that_the_terminal_client_reads_come_from_arawn_and_nothing_else_does(tmp_path: Path) -> None:
    with arawn() as port:
        relay = installed(tmp_path, port)
        relay.start()
        try:
            for path in LISTS:
                answer = urllib3.request("GET", relay.url(path), headers={"Authorization": "Bearer of-arawn"})
                assert (answer.status, answer.json()) == (200, ["GET", path, "Bearer of-arawn"])
                for method in ("POST", "PUT", "PATCH", "DELETE"):
                    assert urllib3.request(method, relay.url(path), body="{}").status == 403, (method, path)
            disguised = urllib3.request("GET", relay.url("/api/v1/chat%2F..%2Fworkstreams/x/../sessions"))
            assert disguised.status == 404
            disguised = urllib3.request("GET", relay.url("/api/v1/workstreams/x%2F..%2Fy/sessions"))
            assert disguised.json()[1] == "/api/v1/workstreams/y/sessions", "what was compared is what Arawn gets"
            for path in (
                "/api/v1/sessions/x/messages",
                "/api/v1/sessions/x",
                "/api/v1/workstreams/x",
                "/api/v1/workstreams/x/messages",
                "/api/v1/workstreams/../chat",
                "/api/v1/chat",
                "/health",
            ):
                assert urllib3.request("GET", relay.url(path)).status == 404, path
        finally:
            relay.stop()


def test_pages_of_other_sites_do_not_get_the_lists(tmp_path: Path) -> None:
    with arawn() as port:
        relay = installed(tmp_path, port)
        relay.start()
        try:
            for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Host": f"evil.example:{relay.port}"}):
                assert urllib3.request("GET", relay.url(LISTS[0]), headers=headers).status == 403, headers
            for host in ("localhost", f"localhost:{relay.port}", "127.0.0.1", f"[::1]:{relay.port}"):
                assert urllib3.request("GET", relay.url(LISTS[0]), headers={"Host": host}).status == 200, host
        finally:
            relay.stop()


def test_events_arrive_while_arawn_is_stopped(tmp_path: Path) -> None:
    with arawn() as port:
        pass
    relay = installed(tmp_path, port)
    relay.start()
    try:
        assert urllib3.request("GET", relay.url(LISTS[0]), retries=False).status == 502
        assert urllib3.request("POST", relay.url("/pub/arawn"), body="x", headers={"Authorization": "Bearer t0ken"}).status in (201, 202)
    finally:
        relay.stop()


def test_the_terminal_client_tells_the_alerts_of_two_roots_apart(tmp_path: Path, tree: SampleTree, run: Callable[..., Run]) -> None:
    """Both roots have the same workstream and session. The client keeps the last alert of each
    `workstream_id`."""
    lab = SampleTree(tmp_path / "lab", tree.now)
    for each in (tree, lab):
        each.workstream("thesis", "Thesis", {"work/data": 4000})
        each.session("s1", age_days=1, files={"work/f": 4000})
    relay, token = installed(tmp_path), tmp_path / "token"
    token.write_text("t0ken")
    token.chmod(0o600)
    limits = {"total": "1kB", "workstream": "1kB", "session": "1kB"}
    maintenance = {
        "root": str(tree.root),
        "state_dir": str(tmp_path / "state"),
        "relay": {"url": relay.url("/pub/arawn"), "token_file": str(token)},
        "pressure": limits,
        "roots": [{"name": "lab", "path": str(lab.root)}],
    }
    config = tmp_path / "c.toml"
    config.write_text(tomli_w.dumps({"maintenance": maintenance}))
    scopes = ("thesis", "scratch", "session:s1", "total")
    alerts: dict[str, dict[str, object]] = {}

    def hear(client: ClientConnection, count: int) -> None:
        alerts.update((alert["workstream_id"], alert) for alert in map(json.loads, received(client, count)))

    relay.start()
    try:
        with connect(relay.url("/ws", "ws"), proxy=None) as client:
            client.send('{"type":"auth","token":"of Arawn"}')
            client.send('{"type":"ping"}')
            assert json.loads(client.recv(timeout=10)) == {"type": "pong"}
            for root in ((), ("--root", "lab")):
                assert run("disk-check", "--config", config, *root).code == 0
                hear(client, len(scopes))
            assert alerts.keys() == {*scopes, *(f"lab/{scope}" for scope in scopes)}
            assert len({alert["workstream_name"] for alert in alerts.values()}) == 2 * len(scopes)
            assert {key.startswith("lab/") for key, alert in alerts.items() if str(alert["workstream_name"]).endswith("(lab)")} == {True}
            (lab.root / "workstreams" / "thesis" / "work" / "data").write_bytes(b"")
            assert run("disk-check", "--config", config, "--root", "lab").code == 0
            hear(client, len(scopes))
            assert {key for key, alert in alerts.items() if alert["level"] == "ok"} == {"lab/thesis"}
    finally:
        relay.stop()
