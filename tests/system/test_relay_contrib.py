"""The relay configuration to install is one that nginx takes and Arawn's client understands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import urllib3
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.relay_fixtures import MODULES, Nchan, build, needs_nchan, received

CONTRIB = Path(__file__).parents[2] / "contrib" / "relay" / "arawn-relay.conf"
pytestmark = needs_nchan


def installed(directory: Path) -> Nchan:
    """The configuration inside a minimal nginx.conf, as Debian's includes it."""
    relay = build(directory)
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "".join(f"{kind}_temp_path tmp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    site = CONTRIB.read_text().replace("127.0.0.1:8090", f"127.0.0.1:{relay.port}").replace("CHANGE-THIS-TOKEN", "t0ken")
    (directory / "site.conf").write_text(site)
    (directory / "nginx.conf").write_text(
        f"load_module {MODULES}/ngx_nchan_module.so;\n{user}\npid nginx.pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {paths} include site.conf; }}\n"
    )
    return relay


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
