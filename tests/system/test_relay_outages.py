"""The installed command with a relay that fails, on a full disk, and killed: no event is lost."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from tests.conftest import COMMAND, needs_namespaces, needs_strace
from tests.support.relay_fixtures import TOKEN, Nchan, free_port, needs_nchan
from tests.support.relay_site import Site, channel, lines, outbox_size, post, site

__all__ = ["channel", "site"]

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


def test_an_outage_keeps_events_for_the_next_run_in_their_order(site: Site, nchan: Nchan) -> None:
    site.configure(nchan.url("/pub/outage"))
    nchan.stop()
    first = site.check()
    assert first.code == 0
    assert "3 events in the outbox: cannot connect to 127.0.0.1" in first.stderr
    assert "Connection refused" in first.stderr
    nchan.start()
    second = site.check()
    assert nchan.buffered("outage", 6) == lines(first) + lines(second)
    assert second.stderr == "WARNING: the relay is reachable again: no event is left in the outbox\n"


@needs_namespaces
def test_with_an_unknown_host_name_events_stay_in_the_outbox(site: Site) -> None:
    site.configure("https://relay.invalid/pub")
    run = site.check(prefix=("unshare", "--net"))  # where no question leaves the machine
    assert run.code == 0
    assert "3 events in the outbox: the name relay.invalid cannot be resolved" in run.stderr


def test_with_a_wrong_token_events_stay_until_it_is_corrected(site: Site, shared_nchan: Nchan, channel: str) -> None:
    site.configure(shared_nchan.url(f"/pub/{channel}"))
    site.token_file.write_text("wrong-t0ken")
    first = site.check("-v")
    assert first.code == 0
    assert "3 events in the outbox: the relay requires a valid token or password: 401 bad token; the first is" in first.stderr
    assert "wrong-t0ken" not in first.stderr + first.stdout
    site.token_file.write_text(TOKEN)
    assert shared_nchan_gets(site, shared_nchan, channel) == lines(first)


def shared_nchan_gets(site: Site, relay: Nchan, channel: str) -> list[str]:
    """The first three messages after one more run."""
    site.check()
    return relay.buffered(channel, 3)


@pytest.mark.parametrize("how", ["silent", "dead"])
def test_a_relay_that_does_not_answer_cannot_hold_a_check_past_its_deadline(site: Site, how: str) -> None:
    """Only the deadline can end the run before the time limit of this test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1] if how == 'silent' else free_port()}/"
        site.configure(url, timeout_secs=3600, deadline_secs=1.5)
        run = site.check()
    assert run.code == 0
    assert "3 events in the outbox" in run.stderr


def test_an_answer_a_byte_at_a_time_cannot_hold_a_check_past_its_deadline(site: Site) -> None:
    """The answer does not end before the time limit of this test."""
    dribble = (
        "import socket, time\n"
        "server = socket.create_server(('127.0.0.1', 0)); print(server.getsockname()[1], flush=True)\n"
        "peer, _ = server.accept()\n"
        "for letter in b'HTTP/1.1 200 OK' + b'x' * 60_000:\n"
        "    peer.send(bytes([letter])); time.sleep(0.1)\n"
    )
    with subprocess.Popen(
        [str(COMMAND.with_name("python")), "-c", dribble], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            site.configure(f"http://127.0.0.1:{server.stdout.readline().strip()}/", deadline_secs=1.5)
            run = site.check()
        finally:
            server.kill()
    assert run.code == 0
    assert "1 event in the outbox" in run.stderr or "events in the outbox" in run.stderr


# strace counts in each thread: the main thread stores and removes, and each attempt to send has
# its own thread.
KILLS = [
    *(("pwrite64", step, False) for step in (1, 9, 14, 22, 31, 38)),
    *(("pwrite64", step, True) for step in (2, 7, 9, 15, 17, 26, 34)),
    *(("sendto", step, True) for step in (1, 2)),
    *(("clone3", step, True) for step in (1, 2, 3)),
    ("recvfrom", 1, True),
    ("unlink", 1, True),
]


@pytest.mark.slow
@needs_strace
def test_killed_at_any_step_every_event_that_was_shown_arrives(site: Site, shared_nchan: Nchan, channel: str) -> None:
    """Kill runs that share an outbox at many system calls of storing, sending and removing."""
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
    site.configure(shared_nchan.url(f"/pub/{channel}"), deadline_secs=30)  # the last run has time for all
    shown += lines(site.check())
    assert killed >= len(KILLS) - 3
    assert outbox_size(site) == 0
    post(shared_nchan.url(f"/open/{channel}"), "the end")
    arrived = shared_nchan.everything(channel, "the end")
    assert list(dict.fromkeys(message for message in arrived if message in shown)) == shown


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
    run = site.check("-v", prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    events = lines(run)
    assert len(events) == 3
    assert run.stderr.count("events are sent without being stored first") == 1
    if alive:
        assert run.code == 0
        assert shared_nchan.buffered(channel, 3) == events
    else:
        assert run.code == 69
        for event in map(json.loads, events):
            assert f"lost event {event['id']} (disk_pressure {event['scope']} {event['level']}), neither delivered nor stored" in run.stderr
