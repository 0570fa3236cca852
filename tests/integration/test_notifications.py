"""The installed command notifies people through Apprise and real servers: what arrives, and how
often."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ISOLATED, Run
from tests.support.notify_servers import SERVERS, JsonServer, NotifyServer, silent_port
from tests.support.notify_site import OVER, NotifySite, site

__all__ = ["site"]


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[NotifyServer]:
    found = SERVERS[request.param]()
    yield found
    found.close()


@pytest.fixture
def web() -> Iterator[JsonServer]:
    found = JsonServer()
    yield found
    found.close()


def titles(server: NotifyServer) -> list[str]:
    return [title.partition(": ")[2] for title, _ in server.texts]


@pytest.mark.slow
def test_levels_are_told_when_they_rise_and_end_and_not_in_between(site: NotifySite, server: NotifyServer) -> None:
    site.address(server.url)
    for size in (100, OVER, OVER, 1500, 100, 100):
        site.draft.write_bytes(bytes(size))
        assert site.check().code == 0
    assert titles(server) == [
        "My blog is critical, 2.9 KiB of 1KiB",
        "My blog is warning, 1.5 KiB of 1KiB",
        "My blog is ok again",
    ]
    assert server.texts[0][1] == "critical: My blog, 2.9 KiB of 1KiB (292 %)\nNext: arawn-cli report"
    assert server.texts[1][1] == "warning: My blog, 1.5 KiB of 1KiB (146 %), was critical\nNext: arawn-cli report"
    assert server.texts[2][1] == "ok again: My blog, 100 bytes of 1KiB"


@pytest.mark.slow
def test_a_level_that_lasts_is_told_again_after_the_interval(site: NotifySite, server: NotifyServer) -> None:
    site.configure(pressure={"repeat_interval": "1s"})
    site.address(server.url)
    site.draft.write_bytes(bytes(OVER))
    site.check()
    time.sleep(1.1)
    site.check()
    assert titles(server) == ["My blog is critical, 2.9 KiB of 1KiB"] * 2
    assert "as before" in server.texts[1][1]


@pytest.mark.slow
def test_a_refused_cleanup_is_told_once_and_that_it_works_again(site: NotifySite, server: NotifyServer) -> None:
    site.address(server.url)
    for name in ("a", "b"):
        site.tree.session(name, files={"work/f": 10}, age_days=30)
    site.configure(cleanup={"max_sessions": 1})
    assert [site.clean().code, site.clean().code] == [77, 77]
    assert titles(server) == ["scratch-cleanup was refused"]
    assert "2 sessions would be removed, more than the removal limit allows; none was removed" in server.texts[0][1]
    site.configure()
    assert site.clean().code == 0
    assert titles(server) == ["scratch-cleanup was refused", "scratch-cleanup works again"]


@pytest.mark.slow
def test_a_root_that_is_not_mounted_is_told(site: NotifySite, web: JsonServer) -> None:
    site.address(web.url)
    shutil.move(site.tree.root, site.folder / "elsewhere")
    assert site.check().code == 78
    assert titles(web) == ["disk-check cannot run"]
    shutil.move(site.folder / "elsewhere", site.tree.root)
    assert site.check().code == 0
    assert titles(web)[1:] == ["disk-check works again"]


def test_another_run_in_progress_is_told_to_nobody(site: NotifySite, web: JsonServer) -> None:
    import fcntl

    site.address(web.url)
    site.check()
    (lock,) = site.state.glob("*disk-check*.lock*")
    with lock.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert site.check().code == 75
    assert web.texts == []


def test_a_run_sends_one_message_with_the_worst_first(site: NotifySite, web: JsonServer) -> None:
    """A level that rises in a run that is not complete."""
    site.address(web.url)
    site.draft.write_bytes(bytes(OVER))
    site.tree.database.write_bytes(b"no database" * 1000)
    assert site.check().code == 1
    assert titles(web) == ["blog is critical, 2.9 KiB of 1KiB, and 1 more"]
    assert [line.partition(":")[0] for line in web.texts[0][1].splitlines()] == [
        "critical",
        "disk-check was not complete (exit code 1)",
        "Next",
        "Next",
    ]


@pytest.mark.slow
def test_what_was_cleaned_and_what_expires_soon_is_told_if_wanted(site: NotifySite, web: JsonServer) -> None:
    site.address(web.url)
    for name, days in (("removed", 30), ("soon", 6), ("later", 4)):
        site.tree.session(name, files={"work/f": 2000}, age_days=days)
    site.configure(on=("cleaned", "expiring"))
    assert site.clean().code == 0
    assert titles(web) == ["1 session expires within two days, and 1 more"]
    first, second, *steps = web.texts[0][1].splitlines()
    assert first.startswith("1 session expires within two days: soon (20")
    assert second.startswith("1 session removed, 2.0 KiB in the trash until 20")
    assert second.endswith(": removed")
    assert steps == ["Next: arawn-cli report; a session that is used stays", "Next: arawn-cli trash restore --last (to undo it)"]
    assert site.clean().code == 0
    assert len(web.texts) == 1  # `soon` is known


def test_nothing_is_told_that_is_not_wanted(site: NotifySite, web: JsonServer) -> None:
    site.address(web.url)
    site.configure(on=("cleaned",))
    site.draft.write_bytes(bytes(OVER))
    site.check()
    site.clean()
    assert web.texts == []


@pytest.mark.slow
def test_a_message_that_is_not_accepted_is_sent_by_a_later_run_in_order(site: NotifySite, server: NotifyServer) -> None:
    site.address(server.url)
    server.status = 500
    for size in (OVER, 100):
        site.draft.write_bytes(bytes(size))
        done = site.check()
        assert done.code == 0
        assert "in the outbox for address 1 (" in done.stderr
    server.status = 200
    assert site.check().code == 0
    assert titles(server) == ["My blog is critical, 2.9 KiB of 1KiB", "My blog is ok again"]
    site.check()
    assert len(server.texts) == 2


@pytest.mark.slow
def test_addresses_and_relay_do_not_wait_for_each_other(site: NotifySite, web: JsonServer) -> None:
    relay = JsonServer()
    with silent_port() as hangs, silent_port(listens=False) as down:
        site.address(f"json://127.0.0.1:{hangs}/", web.url, f"json://127.0.0.1:{down}/")
        site.configure(relay={"url": f"http://127.0.0.1:{down}/", "deadline_secs": 15, "timeout_secs": 1})
        for size in (OVER, 100):
            site.draft.write_bytes(bytes(size))
            began = time.monotonic()
            assert site.check().code == 0
            assert time.monotonic() - began < 60
        assert titles(web) == ["My blog is critical, 2.9 KiB of 1KiB", "My blog is ok again"]
        site.configure(relay={"url": f"http://127.0.0.1:{relay.port}/", "deadline_secs": 15})
        assert site.check().code == 0
    assert [event["level"] for event in relay.messages] == ["critical", "ok"]
    relay.close()


@pytest.mark.slow
def test_messages_for_an_address_are_sent_to_the_one_that_replaces_it(site: NotifySite, web: JsonServer) -> None:
    site.address("json://127.0.0.1:1/", "json://127.0.0.1:1/other")
    site.configure(relay={"deadline_secs": 3})
    site.draft.write_bytes(bytes(OVER))
    site.check()
    site.address(web.url)
    site.configure()
    site.check()
    assert titles(web) == ["My blog is critical, 2.9 KiB of 1KiB"] * 2


@pytest.mark.slow
def test_no_part_of_an_address_is_stored_or_logged(site: NotifySite, web: JsonServer) -> None:
    secrets = ("topsecretpath", "hiddenvalue", "someuser", "passw0rd")
    web.status = 403
    site.configure(relay={"deadline_secs": 15})
    site.address(f"json://someuser:passw0rd@127.0.0.1:{web.port}/topsecretpath?+X-Key=hiddenvalue", "json://127.0.0.1:1/topsecretpath")
    site.draft.write_bytes(bytes(OVER))
    done, doctor = site.check(), site.doctor("-v")
    told = done.stdout + done.stderr + doctor.stdout + doctor.stderr
    assert web.requests
    stored = b"".join(path.read_bytes() for path in site.state.iterdir() if path.is_file())
    assert [word for word in secrets if word in told or word.encode() in stored] == []
    assert "403" in done.stderr


@pytest.mark.slow
def test_doctor_sends_a_test_message_and_says_what_became_of_it(site: NotifySite, server: NotifyServer) -> None:
    site.address(server.url, "nosuchservice://x")
    done = site.doctor("--notify-test")
    assert done.code == 1
    assert "ok    notifications: address 1 (" in done.stdout
    assert "a test message was sent" in done.stdout
    assert "fail  notifications: address 2 (nosuchservice)" in done.stdout
    assert [title.partition(": ")[2] for title, _ in server.texts] == ["test"]
    server.status = 500
    assert "fail  notifications: address 1 (" in site.doctor("--notify-test").stdout


@pytest.mark.slow
def test_doctor_lists_what_waits_and_what_is_refused(site: NotifySite, web: JsonServer) -> None:
    web.status = 404
    site.address(web.url)
    site.draft.write_bytes(bytes(OVER))
    site.check()
    done = site.doctor()
    assert "1 notification waiting for address 1; refused: Failed to send JSON POST notification: " in done.stdout
    assert "outbox: empty" in done.stdout


@pytest.mark.parametrize(("mode", "text"), [(0o644, "json://localhost\n"), (0o600, "no address\n"), (0o600, "")])
def test_addresses_that_cannot_be_used_stop_the_run_and_doctor_says_so(site: NotifySite, mode: int, text: str) -> None:
    site.urls.write_text(text)
    site.urls.chmod(mode)
    done = site.check()
    assert done.code == 78
    assert str(site.urls) in done.stderr
    assert "fail  notifications: " in site.doctor().stdout


def without_apprise(folder: Path) -> str:
    """Return a `PYTHONPATH` with which Apprise cannot be found, as without the extra."""
    folder.mkdir()
    hide = (
        "import importlib.util as u, sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'apprise':\n"
        "            raise ModuleNotFoundError(name)\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'apprise' else real(name, package)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"exec(open({str(ISOLATED / 'sitecustomize.py')!r}).read())\n"
    )
    (folder / "sitecustomize.py").write_text(hide)
    return f"{folder}:{ISOLATED}"


@pytest.mark.slow
def test_without_apprise_the_job_does_its_work_and_names_the_command(site: NotifySite, web: JsonServer) -> None:
    site.address(web.url)
    path = without_apprise(site.folder / "hide")
    assert site.check(PYTHONPATH=path).stderr == ""  # nothing to send
    site.draft.write_bytes(bytes(OVER))
    done = site.check(PYTHONPATH=path)
    assert done.code == 0
    assert "ERROR: notifications need Apprise, the extra arawn-cli[notify]: run " in done.stderr
    assert "-m pip install apprise" in done.stderr
    doctor = site.doctor(PYTHONPATH=path)
    assert doctor.code == 0
    assert "warn  notifications: Apprise, the extra arawn-cli[notify], is not installed: notifications wait" in doctor.stdout
    assert doctor.stdout.split("is not installed")[1].splitlines()[1].endswith("-m pip install apprise")
    assert site.check().code == 0
    assert titles(web) == ["My blog is critical, 2.9 KiB of 1KiB"]


def test_without_news_no_part_of_apprise_is_started(site: NotifySite, web: JsonServer, run: Callable[..., Run]) -> None:
    site.address(web.url)
    hidden = without_apprise(site.folder / "hide")
    loaded = run("disk-check", "--config", site.file, "--format", "none", PYTHONPROFILEIMPORTTIME="1", PYTHONPATH=hidden).stderr
    assert "arawn_cli.delivery.notify" in loaded
    assert " apprise" not in loaded
    assert "http.client" not in loaded
    site.configure(notify={})
    assert "delivery.notify" not in run("disk-check", "--config", site.file, "--format", "none", PYTHONPROFILEIMPORTTIME="1").stderr


@pytest.mark.slow
def test_a_state_that_cannot_be_written_does_not_silence_a_rising_level(site: NotifySite, web: JsonServer) -> None:
    if os.geteuid() == 0:
        site.state.symlink_to("/proc/1/nowhere")
    else:
        site.state.mkdir(mode=0o500)
    site.address(web.url)
    site.configure(schedule={"disk_check": "1h"})  # each check is the first one of its hour
    site.draft.write_bytes(bytes(OVER))
    assert site.check().code == 0
    assert titles(web) == ["My blog is critical, 2.9 KiB of 1KiB"]
