"""Pings of a real local server: what arrives when a run begins and ends, and what a bad server
changes."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import tomli_w

from tests.conftest import COMMAND, Run, needs_namespaces
from tests.integration.test_locks import held_by_a_run
from tests.support.contrary_servers import answering, running, unreachable
from tests.support.owner import READABLE, THIRD, give, tree_of_owner
from tests.support.tree import SampleTree

SECRET = "5ecret-uuid"
JOBS = ("scratch-cleanup", "disk-check")


@dataclass
class PingServer:
    """Keep each request; `on_start` is called before a `/start` is answered."""

    port: int = 0
    status: int = 200
    answer: bytes = b"OK"
    on_start: Callable[[], None] | None = None
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    @property
    def last_body(self) -> dict[str, object]:
        body: dict[str, object] = json.loads(self.requests[-1][1])
        return body

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}/{name}"


@contextmanager
def listening(server: PingServer) -> Iterator[PingServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.requests.append((self.path.removeprefix(f"/{SECRET}"), self.rfile.read(int(self.headers["Content-Length"]))))
            if self.path.endswith("/start") and server.on_start is not None:
                server.on_start()
            with suppress(OSError):  # a killed run does not read it
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.answer)))
                self.end_headers()
                self.wfile.write(server.answer)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.port = listener.server_port
        with running(listener.serve_forever, listener.shutdown):
            yield server


@pytest.fixture
def server() -> Iterator[PingServer]:
    with listening(PingServer()) as server:
        yield server


@pytest.fixture
def configure(tree: SampleTree, tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration for the tree, with the same address for both jobs and other tables."""

    def write(url: str, **tables: object) -> Path:
        path = tmp_path / "config.toml"
        ping = {"scratch_cleanup": url, "disk_check": url} if url else {}
        path.write_text(tomli_w.dumps({"maintenance": {"root": str(tree.root), "ping": ping, **tables}}))
        return path

    return write


@pytest.mark.parametrize("job", JOBS)
def test_a_run_pings_its_start_and_then_its_summary(
    run: Callable[..., Run], tree: SampleTree, server: PingServer, configure: Callable[..., Path], job: str
) -> None:
    tree.session("old", files={"f": 10}, age_days=40)
    done = run(job, "--config", configure(server.url("uuid")), "--verbose")
    assert (done.code, server.paths) == (0, ["/uuid/start", "/uuid"]), done
    assert server.last_body == done.last
    assert SECRET not in done.stdout + done.stderr


def test_only_the_job_with_an_address_pings(run: Callable[..., Run], server: PingServer, configure: Callable[..., Path]) -> None:
    file = configure("", ping={"disk_check": server.url("check") + "?create=1"})
    assert run("scratch-cleanup", "--config", file).code == 0
    assert run("trash", "list", "--config", file).code == 0
    assert run("report", "--config", file).code == 0
    assert server.paths == []
    assert run("disk-check", "--config", file).code == 0
    assert server.paths == ["/check/start?create=1", "/check?create=1"]


def test_a_refused_run_and_an_incomplete_one_are_failures(
    run: Callable[..., Run], tree: SampleTree, server: PingServer, configure: Callable[..., Path]
) -> None:
    for name in ("a", "b"):
        tree.session(name, files={"f": 10}, age_days=40)
    refused = run("scratch-cleanup", "--config", configure(server.url("uuid"), cleanup={"max_sessions": 1}))
    assert (refused.code, server.paths) == (77, ["/uuid/start", "/uuid/77"])
    assert server.last_body == refused.last
    server.requests.clear()
    level = run("disk-check", "--config", configure(server.url("uuid"), pressure={"total": 1}), "--fail-on", "warning")
    assert (level.code, server.paths) == (3, ["/uuid/start", "/uuid/3"])
    server.requests.clear()
    (tree.root / "workstreams" / "strange").mkdir()
    (tree.root / "workstreams" / "strange" / "messages.jsonl").mkdir()
    partly = run("scratch-cleanup", "--config", configure(server.url("uuid")))
    assert (partly.code, server.paths) == (1, ["/uuid/start", "/uuid/1"]), partly


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("arguments", "code"), [(["--base-path", "/nonexistent/arawn"], 78), (["--base-path", "/usr"], 77), (["--base-path", ""], 77)]
)
def test_a_root_that_cannot_be_used_is_a_failure_without_a_start(
    run: Callable[..., Run], server: PingServer, configure: Callable[..., Path], job: str, arguments: list[str], code: int
) -> None:
    done = run(job, "--config", configure(server.url("uuid")), *arguments)
    assert (done.code, server.paths) == (code, [f"/uuid/{code}"])
    assert server.last_body["exit_code"] == code
    assert str(server.last_body["problems"])[2:-2] in done.stderr


def test_a_file_that_leads_to_no_root_or_to_several_is_a_failure(run: Callable[..., Run], server: PingServer, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps({"maintenance": {"ping": {"disk_check": server.url("uuid")}}}))
    assert run("disk-check", "--config", file).code == 78
    assert server.paths == ["/uuid/78"]
    assert run("disk-check", "--config", file, "--dry-run").code == 78
    file.write_text(file.read_text() + "nonsense = 1\n")
    assert run("disk-check", "--config", file).code == 78
    assert server.paths == ["/uuid/78"]


@pytest.mark.parametrize("job", JOBS)
def test_a_run_that_does_nothing_pings_nothing(
    run: Callable[..., Run],
    tree: SampleTree,
    environment: dict[str, str],
    server: PingServer,
    configure: Callable[..., Path],
    job: str,
) -> None:
    tree.session("old", files={"f": 10}, age_days=1)
    file = configure(server.url("uuid"))
    assert run(job, "--config", file, "--dry-run").code == 0
    assert run(job, "--config", file, "--dry-run", "--base-path", "/nonexistent").code == 78
    with held_by_a_run(tree, environment, job) as lock:
        assert run(job, "--config", file).code == 75
        assert run(job, "--config", file, "--unless-running").code == 0
        assert server.paths == []
        os.utime(lock, (time.time() - 90_000,) * 2)
        assert run(job, "--config", file).code == 1
    assert server.paths == ["/uuid/1"]
    server.requests.clear()
    assert run("scratch-cleanup", "--config", file, "old").code == 0  # a run on some sessions is another one
    assert server.paths == []


def test_a_named_root_pings_its_own_addresses_alone(
    run: Callable[..., Run], tree: SampleTree, server: PingServer, configure: Callable[..., Path], tmp_path: Path
) -> None:
    roots = []
    for name, own in (("lab", {"disk_check": server.url("lab")}), ("other", {})):
        (tmp_path / name / "workstreams").mkdir(parents=True)
        roots.append({"name": name, "path": str(tmp_path / name), **own})
    file = configure(server.url("main"), roots=roots)
    for name in ("lab", "other"):
        for job in JOBS:
            assert run(job, "--config", file, "--root", name).code == 0
    assert server.paths == ["/lab/start", "/lab"]
    assert run("disk-check", "--config", file).code == 0
    assert server.paths[2:] == ["/main/start", "/main"]


def signalling(number: int) -> Callable[[], None]:
    """Send a signal to the command that pings, while it waits for the answer."""

    def act() -> None:
        (child,) = [child for child in psutil.Process().children() if str(COMMAND) in child.cmdline()]  # relays of tests are children, too
        child.send_signal(number)

    return act


@pytest.mark.parametrize(
    ("number", "code", "paths"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ["/uuid/start"]),
        (signal.SIGTERM, 143, ["/uuid/start", "/uuid/143"]),
        (signal.SIGINT, 130, ["/uuid/start", "/uuid/130"]),
    ],
)
@pytest.mark.parametrize("job", JOBS)
def test_a_run_that_is_ended_pings_no_success(
    run: Callable[..., Run],
    environment: dict[str, str],
    server: PingServer,
    configure: Callable[..., Path],
    job: str,
    number: int,
    code: int,
    paths: list[str],
) -> None:
    (Path(environment["HOME"]) / "machine").mkdir()
    (Path(environment["HOME"]) / "machine" / "slow").touch()  # the run waits until the signal was sent
    server.on_start = signalling(number)
    done = run(job, "--config", configure(server.url("uuid")))
    assert (done.code, server.paths) == (code, paths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_ping_waits(
    run: Callable[..., Run], server: PingServer, configure: Callable[..., Path], number: int
) -> None:
    """The server sends the signal and answers only when the test is over."""
    over = threading.Event()
    signal_run = signalling(number)

    def hang() -> None:
        signal_run()
        over.wait(30)

    server.on_start = hang
    done = run("disk-check", "--config", configure(server.url("uuid")), timeout=20)
    over.set()
    assert (done.code, server.paths) == (128 + number, ["/uuid/start", f"/uuid/{128 + number}"])


@contextmanager
def silent() -> Iterator[int]:
    """Accept connections, and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


@contextmanager
def trickling() -> Iterator[int]:
    """Answer each request with a byte now and then, for longer than a ping waits."""
    with answering(*(bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000), pause=0.2) as port:
        yield port


@pytest.mark.parametrize(
    ("bad", "job"), [(silent, "scratch-cleanup"), (silent, "disk-check"), (unreachable, "disk-check"), (trickling, "disk-check")]
)
def test_a_server_that_hangs_changes_neither_the_work_nor_the_exit_code(
    run: Callable[..., Run], tree: SampleTree, configure: Callable[..., Path], bad: Callable[[], AbstractContextManager[int]], job: str
) -> None:
    tree.session("old", files={"f": 10}, age_days=40)
    with bad() as port:
        done = run(job, "--config", configure(f"http://127.0.0.1:{port}/{SECRET}"), timeout=20)
    assert done.code == 0
    assert done.last["type"] == job.replace("-", "_")
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("WARNING: the ping of 127.0.0.1 failed: no answer within ")
    assert (tree.sessions / "old").exists() is (job == "disk-check")


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (404, SECRET.encode(), "it answers 404"),
        (500, b"", "it answers 500"),
        (301, b"", "it answers 301, a redirect, which is never followed"),
        (200, b"OK (not found)", "it answers 200 OK (not found)"),
    ],
)
def test_an_answer_that_says_no_is_one_warning_without_the_address(
    run: Callable[..., Run], server: PingServer, configure: Callable[..., Path], status: int, answer: bytes, said: str
) -> None:
    server.status, server.answer = status, answer
    done = run("disk-check", "--config", configure(server.url("uuid")))
    assert (done.code, done.stderr) == (0, f"WARNING: the ping of 127.0.0.1 failed: {said}\n")


def test_no_server_and_one_that_speaks_no_tls_are_one_warning(
    run: Callable[..., Run], server: PingServer, configure: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/{SECRET}", server.url("uuid").replace("http:", "https:")):
        done = run("disk-check", "--config", configure(url), "--verbose")
        assert (done.code, done.stderr.count("WARNING"), SECRET in done.stderr) == (0, 1, False), done


@needs_namespaces
def test_a_resolver_that_hangs_delays_a_run_only_by_seconds(
    run: Callable[..., Run], configure: Callable[..., Path], tmp_path: Path
) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.7.7.7\noptions timeout:30 attempts:5\n")
    prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind "{resolver}" /etc/resolv.conf && exec "$@"', "sh")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.7.7.7", 53))
        done = run("disk-check", "--config", configure(f"https://hc.example.org/{SECRET}"), prefix=prefix, timeout=20)
    assert done.code == 0
    assert "WARNING: the ping of hc.example.org failed: no answer within 1.5 s" in done.stderr


def test_doctor_names_unusual_addresses_and_pings_none(run: Callable[..., Run], server: PingServer, configure: Callable[..., Path]) -> None:
    found = {}
    for url in (server.url("uuid"), "http://hc.example/uuid", "https://hc.example/uuid/start", "https://hc.example/uuid/0?create=1"):
        done = run("doctor", "--config", configure("", ping={"disk_check": url}), "--format", "json")
        (found[url],) = [(event["status"], event["detail"]) for event in done.of_type("doctor_check") if event["check"] == "ping"]
    assert list(found.values()) == [
        ("ok", "disk-check pings 127.0.0.1"),
        ("warn", "disk-check pings hc.example in plain text: anyone who intercepts the address can ping, too"),
        ("warn", "the address of disk-check ends with /start"),
        ("warn", "the address of disk-check ends with /0"),
    ]
    assert server.paths == []


def test_only_the_unit_of_a_job_that_pings_elsewhere_reaches_every_network(run: Callable[..., Run], configure: Callable[..., Path]) -> None:
    file = configure("", ping={"scratch_cleanup": "http://127.0.0.1/uuid", "disk_check": "https://hc.example/uuid"})
    shown = run("schedule", "show", "--config", file, "--systemd", "--system").stdout
    _, cleanup, check = shown.split("ExecStart=", 2)
    assert ("IPAddressAllow=localhost" in cleanup, "IPAddressDeny=any" in cleanup) == (True, True)
    assert ("IPAddressDeny=any" in check, "AF_INET6" in check) == (False, True)


def test_no_command_shows_the_address(run: Callable[..., Run], configure: Callable[..., Path], tmp_path: Path) -> None:
    roots = [{"name": "lab", "path": str(tmp_path), "disk_check": f"https://hc.example/{SECRET}"}]
    file = configure(f"https://ann:{SECRET}@hc.example/{SECRET}?x={SECRET}", roots=roots)
    for command in ("config show", "doctor", "schedule show", "schedule show --cron", "schedule status"):
        for chosen in ((), ("--root", "lab")):
            done = run(*command.split(), "--config", file, *chosen)
            assert (SECRET in done.stdout + done.stderr, "Traceback" in done.stderr) == (False, False), command
    assert "https://hc.example/***" in run("config", "show", "--config", file).stdout
    for wrong in (f"hc.example/{SECRET}", f"ftp://hc.example/{SECRET}", [SECRET], f"wss://hc.example/{SECRET}"):
        for tables in ({"ping": {"disk_check": wrong}}, {"roots": [{**roots[0], "disk_check": wrong}]}, {"ping": wrong}):
            done = run("disk-check", "--config", configure("", **tables))
            assert (done.code, SECRET in done.stderr) == (78, False), done
    done = run("disk-check", "--config", configure("", schedule={"disk_check": f"https://hc.example/{SECRET}"}))
    assert (done.code, SECRET in done.stderr) == (78, False), done


@needs_namespaces
def test_root_pings_as_the_owner_also_if_it_refuses_to_act_as_the_owner(run: Callable[..., Run], server: PingServer) -> None:
    with tree_of_owner() as tree:
        tree.session("old", files={"f": 1}, age_days=30)
        give(tree.root)
        file = tree.root.parent / "config.toml"
        file.write_text(tomli_w.dumps({"maintenance": {"state_dir": "state", "ping": {"scratch_cleanup": server.url("uuid")}}}))
        file.chmod(0o600)
        done = run("scratch-cleanup", "--config", file, "--base-path", tree.root, prefix=READABLE)
        assert (done.code, server.paths) == (0, ["/uuid/start", "/uuid"]), done
        os.chown(file, THIRD, -1)
        refused = run("scratch-cleanup", "--config", file, "--base-path", tree.root, prefix=READABLE)
        assert (refused.code, server.paths[2:]) == (77, ["/uuid/77"]), refused
