"""The installed command and a real relay with subscribers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.conftest import COMMAND
from tests.support.relay_fixtures import TOKEN, Nchan, needs_nchan, received
from tests.support.relay_site import Site, channel, lines, log_of_delivery, outbox_size, post, site

__all__ = ["channel", "site"]

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


def test_two_subscribers_and_a_late_one_get_each_event_byte_for_byte(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}"))
    with shared_nchan.subscriber(channel) as first, shared_nchan.subscriber(channel) as second:
        run = site.check()
        events = lines(run)
        assert (run.code, log_of_delivery(run), len(events)) == (0, [], 3)
        assert received(first, 3) == received(second, 3) == events
    assert shared_nchan.buffered(channel, 3) == events


def test_both_message_types_of_arawn_can_read_an_event(site: Site, shared_nchan: Nchan, channel: str) -> None:
    server = {"type": str, "level": str, "scope": str, "usage_mb": float, "limit_mb": float, "timestamp": str}
    client = {"workstream_id": str, "workstream_name": str, "level": str, "usage_bytes": int, "limit_bytes": int, "percent": int}
    site.configure(shared_nchan.url(f"/pub/{channel}"))
    site.check()
    for message in shared_nchan.buffered(channel, 3):
        pairs = json.loads(message, object_pairs_hook=list)
        event = dict(pairs)
        assert len(event) == len(pairs)
        assert {key: type(event[key]) for key in server | client} == server | client
        assert all(event[key] >= 0 for key in ("usage_mb", "limit_mb", "usage_bytes", "limit_bytes"))
        assert 0 <= event["percent"] <= 255


def test_requests_carry_the_headers_of_cloudevents_over_one_connection(site: Site, nchan: Nchan) -> None:
    site.configure(nchan.url("/pub/headers"))
    events = [json.loads(line) for line in lines(site.check())]
    nchan.stop()
    requests = [json.loads(line) for line in (nchan.directory / "headers.log").read_text().splitlines()]
    assert [request["id"] for request in requests] == [request["key"] for request in requests] == [event["id"] for event in events]
    for request, event in zip(requests, events, strict=True):
        assert request["spec"] == "1.0"
        assert (request["type"], request["time"]) == ("disk_pressure", event["timestamp"])
        assert request["source"] == f"//{socket.gethostname()}/arawn-cli"
        assert (request["content"], request["authorization"]) == ("application/json", f"Bearer {TOKEN}")
    assert len({request["connection"] for request in requests}) == 1


@pytest.mark.parametrize(("path", "scheme"), [("/pub/", "https"), ("/wspub/", "wss")])
def test_tls_with_an_authority_of_ones_own(site: Site, shared_nchan: Nchan, channel: str, path: str, scheme: str) -> None:
    site.configure(shared_nchan.tls_url(f"{path}{channel}", scheme), ca_file=str(shared_nchan.directory / "ca.pem"))
    if scheme == "wss":
        site.configure(shared_nchan.tls_url(f"{path}{channel}", scheme), ca_file=str(shared_nchan.directory / "ca.pem"), token_file="")
    run = site.check()
    assert (run.code, log_of_delivery(run)) == (0, [])
    assert shared_nchan.buffered(channel, 3) == lines(run)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_each_tls_failure_is_one_sentence(site: Site, shared_nchan: Nchan, channel: str, scheme: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    own = str(shared_nchan.directory / "ca.pem")
    cases = [
        (shared_nchan.tls_url(f"/pub/{channel}", f"{scheme}s"), str(other), "signed by an authority that"),
        (shared_nchan.url(f"/pub/{channel}", f"{scheme}s"), own, "does not speak TLS"),
        (shared_nchan.tls_url(f"/pub/{channel}", scheme), own, "the relay speaks TLS; use"),
    ]
    for url, authority, sentence in cases:
        site.configure(url, ca_file=authority)
        run = site.check()
        assert run.code == 0
        assert sentence in run.stderr
        assert "Traceback" not in run.stderr
        assert len(log_of_delivery(run)) == 1


def test_a_version_costs_no_import_of_a_client() -> None:
    code = "import sys; sys.argv = ['arawn-cli', '--version']\nfrom arawn_cli.cli.app import main; assert main() == 0\n"
    code += "sys.exit(any(name in sys.modules for name in ('http.client', 'websockets', 'sqlite3', 'ssl')))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    assert subprocess.run([str(COMMAND.with_name("python")), "-c", code], env=environment, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_check_with_nothing_to_send_imports_no_client(site: Site, environment: dict[str, str], scheme: str) -> None:
    site.configure(f"{scheme}://relay.example/pub", events=["scratch_cleanup"])
    code = "import sys\nfrom arawn_cli.cli.app import main; assert main() == 0\n"
    code += "print([name for name in ('http.client', 'websockets', 'ssl') if name in sys.modules])"
    python = [str(COMMAND.with_name("python")), "-c", code]
    command = [*python, "disk-check", "--config", str(site.file), "--format", "none"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "[]\n", 3)  # three levels that rise


def test_a_cleanup_that_delivers_and_checks_beside_it_lose_nothing(site: Site, shared_nchan: Nchan, channel: str) -> None:
    """Processes with connections to one state file must not release each other's locks."""
    site.configure(shared_nchan.url(f"/pub/{channel}"), events=["disk_pressure", "scratch_session", "scratch_cleanup"])
    for number in range(60):
        site.tree.session(f"old-{number}", files={"f": 1}, age_days=30)
    command = [str(COMMAND), "scratch-cleanup", "--config", str(site.file), "--base-path", str(site.tree.root), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cleanup:
        shown: list[str] = []
        while cleanup.poll() is None:
            shown += lines(site.check())
        assert cleanup.stdout
        told = [line for line in cleanup.stdout.read().splitlines() if '"scratch_' in line]
    assert cleanup.returncode == 0
    site.check()
    assert outbox_size(site) == 0
    with contextlib.closing(sqlite3.connect(site.state / "state.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    post(shared_nchan.url(f"/open/{channel}"), "the end")
    arrived = shared_nchan.everything(channel, "the end")
    assert set(told) <= set(arrived)
    assert set(shown) <= set(arrived)
    assert len(told) > 60
