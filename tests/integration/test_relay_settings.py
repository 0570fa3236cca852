"""The relay in configuration, token file and options: errors are found before a run acts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Run, snapshot
from tests.support.relay_fixtures import TOKEN, Nchan, needs_nchan
from tests.support.relay_site import Site, channel, lines, site
from tests.support.simulated_relay import queued

__all__ = ["channel", "site"]

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"token": "s3cret"}, "keep the token in a separate file"),
        (
            {"url": "ftp://ann:s3cret@relay.example/"},
            "maintenance.relay.url: found 'ftp://relay.example/'; allowed: an address such as",
        ),
        ({"url": "ann:s3cret@relay"}, "maintenance.relay.url"),
        ({"url": "http://ann:s3cret@relay.example/"}, "a token and a user with password cannot both be sent"),
        ({"url": "http://relay.example/"}, "would cross the network in plain text"),
        ({"ca_file": "/nonexistent/ca.pem", "url": "https://relay.example/"}, "cannot read /nonexistent/ca.pem"),
        ({"timeout_secs": 0}, "maintenance.relay.timeout_secs"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_wrong_relay_ends_a_run_before_anything_is_done(site: Site, wrong: dict[str, object], message: str, dry: tuple[str, ...]) -> None:
    site.configure(**{"url": "http://127.0.0.1:1/", **wrong})
    run = site.check(*dry)
    assert (run.code, run.stdout) == (78, "")
    assert message in run.stderr
    assert "s3cret" not in run.stderr
    assert not site.state.exists()


def test_a_token_file_that_others_can_read_stops_a_cleanup_before_it_removes(site: Site, run: Callable[..., Run]) -> None:
    site.configure("http://127.0.0.1:1/")
    site.tree.session("old", files={"f": 10}, age_days=40)
    site.token_file.chmod(0o644)
    done = run("scratch-cleanup", "--config", site.file)
    assert done.code == 78
    assert "chmod 600" in done.stderr
    assert TOKEN not in done.stderr
    assert (site.tree.sessions / "old").exists()


def test_no_relay_and_dry_runs_send_and_store_no_event(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        site.configure(f"http://127.0.0.1:{server.getsockname()[1]}/")
        before = snapshot(tmp_path)
        assert site.check("--dry-run").code == 0
        assert not site.state.exists()
        assert site.check("--no-relay").code == 0
        with pytest.raises(BlockingIOError):
            server.accept()
    assert queued(site.state) == []
    assert snapshot(site.tree.root) == {path: entry for path, entry in before.items() if path.startswith(f"{site.tree.root}/")}


def test_a_list_of_the_trash_changes_nothing_and_needs_no_relay(site: Site, run: Callable[..., Run], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        site.configure(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_secs=0.1, deadline_secs=0.1)
        for has_state in (False, True):
            if has_state:
                site.check()
                assert queued(site.state)
                _connections(server)
            before = snapshot(tmp_path)
            for option in ("--format=json", "--all"):
                assert run("trash", "list", option, "--config", site.file).code == 0
            assert not _connections(server)
            assert snapshot(tmp_path) == before


def _connections(server: socket.socket) -> int:
    """Close the waiting connections, and return their number."""
    number = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            number += 1
    return number


def test_relay_url_replaces_the_configured_one(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure("http://127.0.0.1:1/")
    run = site.check("--relay-url", shared_nchan.url(f"/pub/{channel}"))
    assert shared_nchan.buffered(channel, 3) == lines(run)
    assert site.check("--relay-url", "nonsense").code == 78
    with_password = site.check("--relay-url", "https://ann:s3cret@relay.example/")
    assert (with_password.code, "s3cret" in with_password.stderr) == (78, False)
    assert "password on a command line" in with_password.stderr


def test_events_of_the_chosen_types_go_to_the_relay(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}"), events=["disk_check", "workstream_usage"])
    run = site.check()
    chosen = lines(run, "disk_check", "workstream_usage")
    assert len(chosen) == 4
    assert shared_nchan.buffered(channel, 4) == chosen
