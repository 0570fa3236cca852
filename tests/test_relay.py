"""The installed command against a real relay, and what its subscribers get."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
import trustme
import urllib3

from arawn_cli.sample_tree import SampleTree
from tests.conftest import COMMAND, Run, needs_namespaces, needs_strace, snapshot
from tests.relay_fixtures import TOKEN, Nchan, free_port, needs_nchan, received
from tests.simulated_relay import waiting

pytest_plugins = ("tests.relay_fixtures",)
pytestmark = needs_nchan


class Site:
    """A root with two workstreams above their limits, and a configuration that names a relay."""

    def __init__(self, tree: SampleTree, folder: Path, run: Callable[..., Run]) -> None:
        tree.workstream("blog", "My blog", {"work/draft": 4000})
        tree.workstream("thesis", "Thesis", {"work/data": 2500})
        self.tree, self.folder, self._run = tree, folder, run
        self.state = folder / "state"
        self.file = folder / "arawn.toml"
        self.token_file = folder / "relay.token"
        self.token_file.write_text(f"{TOKEN}\n")
        self.token_file.chmod(0o600)

    def configure(self, url: object, **relay: object) -> None:
        table = {"url": url, "token_file": str(self.token_file), "timeout_secs": 1.0, "deadline_secs": 1.5, **relay}
        limits = {"total_warning_gb": 0.000005, "workstream_warning_gb": 0.000002}
        tables = {
            "paths": {"base_path": str(self.tree.root), "usage": limits},
            "maintenance": {"state_dir": str(self.state), "relay": table},
        }
        self.file.write_text(tomli_w.dumps(tables))

    def check(self, *arguments: object, **extra: object) -> Run:
        return self._run("disk-check", "--config", self.file, *arguments, **extra)


def lines(run: Run, *types: str) -> list[str]:
    return [line for line in run.stdout.splitlines() if json.loads(line)["type"] in (types or ("disk_pressure",))]


def log_of_delivery(run: Run) -> list[str]:
    """What a run logged, without the levels that rise."""
    return [line for line in run.stderr.splitlines() if " rises from " not in line]


@pytest.fixture
def site(tree: SampleTree, tmp_path: Path, run: Callable[..., Run]) -> Site:
    return Site(tree, tmp_path, run)


@pytest.fixture
def channel(tmp_path: Path) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in tmp_path.name)


def test_two_subscribers_and_a_late_one_get_each_event_byte_for_byte(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}"))
    with shared_nchan.subscriber(channel) as first, shared_nchan.subscriber(channel) as second:
        run = site.check()
        events = lines(run)
        assert (run.code, log_of_delivery(run), len(events)) == (0, [], 3)
        assert received(first, 3) == received(second, 3) == events
    assert shared_nchan.buffered(channel, 3) == events


def test_what_arrives_is_read_by_both_message_types_of_arawn(site: Site, shared_nchan: Nchan, channel: str) -> None:
    server = {"type": str, "level": str, "scope": str, "usage_mb": int, "limit_mb": int, "timestamp": str}
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
def test_each_way_for_tls_to_fail_is_one_sentence(site: Site, shared_nchan: Nchan, channel: str, scheme: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    own = str(shared_nchan.directory / "ca.pem")
    cases = [
        (shared_nchan.tls_url(f"/pub/{channel}", f"{scheme}s"), str(other), "signed by an authority that"),
        (shared_nchan.url(f"/pub/{channel}", f"{scheme}s"), own, "does not speak TLS"),
        (shared_nchan.tls_url(f"/pub/{channel}", scheme), own, "speaks TLS; use" if scheme == "http" else "HTTPS port"),
    ]
    for url, authority, sentence in cases:
        site.configure(url, ca_file=authority)
        run = site.check()
        assert run.code == 0
        assert sentence in run.stderr
        assert "Traceback" not in run.stderr
        assert len(log_of_delivery(run)) == 1


def test_an_outage_keeps_events_for_the_next_run_in_their_order(site: Site, nchan: Nchan) -> None:
    site.configure(nchan.url("/pub/outage"))
    nchan.stop()
    first = site.check()
    assert first.code == 0
    assert "3 events wait in the outbox: 127.0.0.1" in first.stderr
    assert "Connection refused" in first.stderr
    nchan.start()
    second = site.check()
    assert nchan.buffered("outage", 6) == lines(first) + lines(second)
    assert second.stderr == ""


@needs_namespaces
def test_a_relay_whose_name_nobody_knows_keeps_events_and_is_named(site: Site) -> None:
    site.configure("https://relay.invalid/pub", deadline_secs=0.2)
    run = site.check(prefix=("unshare", "--net"))  # where no question leaves the machine
    assert run.code == 0
    assert "3 events wait in the outbox: the name relay.invalid is not known" in run.stderr


def test_a_wrong_token_keeps_events_until_it_is_mended(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}"))
    site.token_file.write_text("wrong-t0ken")
    first = site.check("-v")
    assert first.code == 0
    assert "the relay refuses event" in first.stderr
    assert "401 bad token" in first.stderr
    assert "wrong-t0ken" not in first.stderr + first.stdout
    site.token_file.write_text(TOKEN)
    assert shared_nchan_gets(site, shared_nchan, channel) == lines(first)


def shared_nchan_gets(site: Site, relay: Nchan, channel: str) -> list[str]:
    """The first three messages after one more run."""
    site.check()
    return relay.buffered(channel, 3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"token": "s3cret"}, "a secret never stands in this file"),
        (
            {"url": "ftp://ann:s3cret@relay.example/"},
            "maintenance.relay.url: found 'ftp://***@relay.example/'; allowed: an address such as",
        ),
        ({"url": "ann:s3cret@relay"}, "maintenance.relay.url"),
        ({"url": "http://ann:s3cret@relay.example/"}, "a token and a user with password cannot both be sent"),
        ({"url": "http://relay.example/"}, "would cross the network in plain text"),
        ({"ca_file": "/nonexistent/ca.pem", "url": "https://relay.example/"}, "cannot read /nonexistent/ca.pem"),
        ({"timeout_secs": 0}, "maintenance.relay.timeout_secs"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_wrong_relay_ends_a_run_before_anything_is_done(site: Site, wrong: dict[str, object], told: str, dry: tuple[str, ...]) -> None:
    site.configure(**{"url": "http://127.0.0.1:1/", **wrong})
    run = site.check(*dry)
    assert (run.code, run.stdout) == (78, "")
    assert told in run.stderr
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
    assert waiting(site.state) == []
    assert snapshot(site.tree.root) == {path: entry for path, entry in before.items() if path.startswith(f"{site.tree.root}/")}


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


@pytest.mark.parametrize("how", ["silent", "dead"])
def test_a_relay_that_does_not_answer_cannot_hold_a_check_past_its_deadline(site: Site, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1] if how == 'silent' else free_port()}/"
        site.configure(url)
        began = time.monotonic()
        without = site.check("--no-relay")
        measuring = time.monotonic() - began
        began = time.monotonic()
        run = site.check()
        took = time.monotonic() - began
    assert (without.code, run.code) == (0, 0)
    assert "3 events wait in the outbox" in run.stderr
    assert took < 1.5 + measuring + 5.0


def test_an_answer_a_byte_at_a_time_cannot_hold_a_check_past_its_deadline(site: Site) -> None:
    dribble = (
        "import socket, time\n"
        "server = socket.create_server(('127.0.0.1', 0)); print(server.getsockname()[1], flush=True)\n"
        "peer, _ = server.accept()\n"
        "for letter in b'HTTP/1.1 200 OK' + b'x' * 600:\n"
        "    peer.send(bytes([letter])); time.sleep(0.1)\n"
    )
    with subprocess.Popen(
        [str(COMMAND.with_name("python")), "-c", dribble], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            site.configure(f"http://127.0.0.1:{server.stdout.readline().strip()}/")
            began = time.monotonic()
            run = site.check()
            took = time.monotonic() - began
        finally:
            server.kill()
    assert run.code == 0
    assert "1 event waits" in run.stderr or "events wait in the outbox" in run.stderr
    assert took < 4


# Each counts in the thread that it happens in: storing is the main one's, sending and removing the other's.
KILLS = [
    *(("pwrite64", step, False) for step in (1, 9, 14, 22, 31, 38)),
    *(("pwrite64", step, True) for step in (2, 7, 9, 15, 17, 26, 34)),
    *(("sendto", step, True) for step in (1, 2, 4, 6)),
    *(("recvfrom", step, True) for step in (1, 3)),
    ("unlink", 1, True),
]


@pytest.mark.slow
@needs_strace
def test_killed_at_any_step_every_event_that_was_shown_arrives(site: Site, shared_nchan: Nchan, channel: str) -> None:
    """Storing, sending and removing, each with a kill at many of its system calls; all runs share one outbox."""
    site.configure(shared_nchan.url(f"/pub/{channel}"), deadline_secs=0.5)
    quiet = site.folder / "quiet.toml"
    quiet.write_text(site.file.read_text().replace("0.00000", "1.00000").replace("5e-06", "1.0").replace("2e-06", "1.0"))
    dead = site.folder / "dead.toml"
    dead.write_text(site.file.read_text().replace(shared_nchan.url(f"/pub/{channel}"), "http://127.0.0.1:1/"))
    shown: list[str] = []
    killed = 0
    for call, step, removing in KILLS:
        if removing:
            shown += lines(site.check("--config", dead))
        arguments = ("--config", quiet) if removing else ()
        trace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={step}")
        done = site.check(*arguments, prefix=trace, traced=True)
        shown += lines(done)
        killed += done.code == -9
    shown += lines(site.check())
    assert killed >= len(KILLS) - 3
    assert outbox_size(site) == 0
    post(shared_nchan.url(f"/open/{channel}"), "the end")
    arrived = shared_nchan.everything(channel, "the end")
    assert list(dict.fromkeys(message for message in arrived if message in shown)) == shown


def outbox_size(site: Site) -> object:
    with contextlib.closing(sqlite3.connect(site.state / "state.db")) as connection:
        return connection.execute("SELECT count(*) FROM outbox").fetchone()[0]


def post(url: str, body: str) -> None:
    assert urllib3.request("POST", url, body=body).status in (201, 202)


@needs_namespaces
@pytest.mark.parametrize("alive", [True, False])
def test_on_a_full_disk_events_reach_a_live_relay_and_are_named_when_it_is_dead(
    site: Site, shared_nchan: Nchan, channel: str, alive: bool
) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}") if alive else f"http://127.0.0.1:{free_port()}/")
    site.state.mkdir()
    script = (
        f'mount -t tmpfs -o size=64k,nr_inodes=20,mode=700 none {site.state} && (cat /dev/zero > {site.state}/full 2>/dev/null; exec "$@")'
    )
    run = site.check(prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    events = lines(run)
    assert len(events) == 3
    assert run.stderr.count("events go to the relay directly") == 1
    if alive:
        assert run.code == 0
        assert shared_nchan.buffered(channel, 3) == events
    else:
        assert run.code == 69
        for event in map(json.loads, events):
            assert f"lost event {event['id']} (disk_pressure {event['scope']} {event['level']}), neither delivered nor stored" in run.stderr


def test_a_version_costs_no_import_of_a_client() -> None:
    code = "import sys; sys.argv = ['arawn-cli', '--version']\ntry:\n import arawn_cli.cli; arawn_cli.cli.main()\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('urllib3', 'websockets', 'sqlite3', 'ssl')))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    assert subprocess.run([str(COMMAND.with_name("python")), "-c", code], env=environment, check=False, capture_output=True).returncode == 0


def test_a_cleanup_that_delivers_and_checks_beside_it_lose_nothing(site: Site, shared_nchan: Nchan, channel: str) -> None:
    """Several connections of several processes to one state file: none may drop the locks of another."""
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
