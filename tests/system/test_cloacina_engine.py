"""`schedule serve` with Cloacina: SQLite on one machine, PostgreSQL on several."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import chain, pairwise
from pathlib import Path

import psutil
import pytest

from arawn_cli.timestamps import parse
from tests.conftest import Run
from tests.support.newer_machine import COMMAND, NewerMachine, debian13, newer
from tests.support.relay_fixtures import wait_until
from tests.support.tree import SampleTree, set_age

__all__ = ["debian13", "newer"]
pytestmark = pytest.mark.engine

PASSWORD = "s3cret-of-the-database"
_DUE = re.compile(r"INFO: (?P<workflow>arawn_\w+), due (?P<due>\S+?)(\+00:00)?: (?P<outcome>.*)")
_FORGOTTEN = ("id", "timestamp", "duration_ms", "filesystem", "last_activity", "sample_age_secs")


class Service:
    """A `schedule serve` in the foreground, with its log and events."""

    def __init__(self, machine: NewerMachine, config: Path, name: str, **extra: str) -> None:
        self.log = machine.folder / name
        self.process = machine.start(*COMMAND, "schedule", "serve", "--cloacina", "--config", config, "-v", log=self.log, **extra)

    @property
    def said(self) -> str:
        return Path(f"{self.log}.err").read_text()

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in Path(f"{self.log}.out").read_text().splitlines()]

    def runs(self, outcome: str = "done") -> list[tuple[str, str]]:
        """Return workflow and due time of each run with an outcome."""
        found = [match for match in _DUE.finditer(self.said) if match["outcome"].startswith(outcome)]
        return [(match["workflow"], match["due"]) for match in found]

    def count(self, workflow: str) -> int:
        return sum(name == workflow for name, _ in self.runs())

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.said[-3000:]}") from None


Serve = Callable[..., Service]


@pytest.fixture
def serve(newer: NewerMachine) -> Iterator[Serve]:
    """Start services that end with the test."""
    started: list[Service] = []

    def start(config: Path, name: str, **extra: str) -> Service:
        started.append(Service(newer, config, name, **extra))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()


def a_tree(folder: Path) -> SampleTree:
    """A root with an expired session, an active one, and a workstream above its limit."""
    tree = SampleTree(folder, time.time_ns())
    tree.session("old-one", files={"a": 5_000, "b/c": 10}, age_days=30)
    tree.session("new-one", files={"a": 7_000}, age_days=1)
    tree.workstream("blog", "Blog", {"production/post": 3_000_000})
    set_age(tree.workstreams / "blog", tree.ago(2))
    return tree


def configured(file: Path, *, root: Path, state: Path, interval: str = "2s") -> Path:
    """A configuration whose limits the sample tree exceeds, with a relay that does not answer."""
    file.write_text(f"""
[paths]
base_path = "{root}"
[maintenance]
state_dir = "{state}"
[maintenance.pressure.limits]
blog = "1MiB"
[maintenance.relay]
url = "http://127.0.0.1:9/pub"
timeout_secs = 1
deadline_secs = 1
[maintenance.cleanup]
trash_days = 0
[maintenance.schedule]
scratch_cleanup = "{interval}"
disk_check = "{interval}"
""")
    return file


def names_below(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.suffix not in (".db-wal", ".db-shm")}


def essence(events: list[dict[str, object]], root: Path) -> list[dict[str, object]]:
    """Return events without the fields that differ between runs, and with one name for the root."""
    plain = [{key: value for key, value in event.items() if key not in _FORGOTTEN} for event in events]
    found: list[dict[str, object]] = json.loads(json.dumps(plain).replace(str(root), "ROOT"))
    return found


def outbox(state: Path) -> list[dict[str, object]]:
    with closing(sqlite3.connect(state / "state.db")) as connection:
        return [json.loads(body) for (body,) in connection.execute("SELECT body FROM outbox ORDER BY sequence")]


def rows(file: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def test_both_jobs_run_and_have_the_same_results_as_the_commands(newer: NewerMachine, serve: Serve, tmp_path: Path) -> None:
    by_command, by_engine = a_tree(tmp_path / "commands"), a_tree(tmp_path / "engine")
    plain = configured(tmp_path / "commands.toml", root=by_command.root, state=tmp_path / "state-of-commands")
    served = configured(tmp_path / "engine.toml", root=by_engine.root, state=tmp_path / "state-of-engine")
    service = serve(served, "service")
    wait_until(lambda: service.count("arawn_scratch_cleanup") >= 2 and service.count("arawn_disk_check") >= 2, 40)
    assert service.end() == 0, service.said
    events = service.events
    commands = Run(0, "", "")
    for job in ("scratch-cleanup", "disk-check"):
        done = newer.run(*COMMAND, job, "--config", plain)
        assert done.returncode == 0, done.stderr
        commands = Run(0, commands.stdout + done.stdout, "")
    assert names_below(by_engine.root) == names_below(by_command.root)
    last_check = max(index for index, event in enumerate(events) if event["type"] == "disk_check")
    check = [event for event in events[: last_check + 1] if event["type"] in ("disk_check", "disk_pressure", "workstream_usage")]
    expected = commands.of_type("workstream_usage") + commands.of_type("disk_pressure") + commands.of_type("disk_check")
    assert sorted(map(str, essence(check[-len(expected) :], by_engine.root))) == sorted(map(str, essence(expected, by_command.root)))
    first = [event for event in events if event["type"] in ("scratch_session", "scratch_cleanup")][:3]
    expected = commands.of_type("scratch_session") + commands.of_type("scratch_cleanup")
    assert essence(first, by_engine.root) == essence(expected, by_command.root)
    kept = outbox(tmp_path / "state-of-engine")
    assert kept == [event for event in events if event["type"] == "disk_pressure"]
    assert essence(kept[-1:], by_engine.root) == essence(outbox(tmp_path / "state-of-commands"), by_command.root)


def test_a_restart_keeps_the_schedules_and_runs_once_for_all_missed_runs(newer: NewerMachine, serve: Serve, tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "arawn")
    state = tmp_path / "state"
    config = configured(tmp_path / "c.toml", root=tree.root, state=state)
    schedules = "SELECT id, workflow_name, cron_expression FROM schedules ORDER BY id"
    first = serve(config, "first")
    wait_until(lambda: first.count("arawn_disk_check") >= 1 and first.count("arawn_scratch_cleanup") >= 1, 30)
    assert first.end() == 0
    before = rows(state / "cloacina.db", schedules)
    due = {str(name): str(at)[:19] for name, at in rows(state / "cloacina.db", "SELECT workflow_name, next_run_at FROM schedules")}
    assert sorted(due) == ["arawn_disk_check", "arawn_scratch_cleanup"]
    missed = time.time() + 5
    wait_until(lambda: time.time() > missed, 10)
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    second = serve(config, "second")
    wait_until(lambda: second.count("arawn_disk_check") >= 2 and second.count("arawn_scratch_cleanup") >= 2, 30)
    assert second.end() == 0
    assert "0 schedules registered, 0 removed" in second.said
    assert rows(state / "cloacina.db", schedules) == before
    for workflow, expected in due.items():
        assert [at for name, at in second.runs() if name == workflow and expected <= at < began] == [expected]
    assert set(Counter(first.runs() + second.runs()).values()) == {1}
    done = rows(state / "cloacina.db", "SELECT schedule_id, scheduled_time, COUNT(*) FROM schedule_executions GROUP BY 1, 2")
    assert {count for *_, count in done} == {1}
    changed = serve(configured(config, root=tree.root, state=state, interval="1h"), "third")
    wait_until(lambda: "2 schedules registered, 2 removed" in changed.said, 20)
    status = newer.run(*COMMAND, "schedule", "status", "--cloacina", "--config", config)
    found = [json.loads(line) for line in status.stdout.splitlines()]
    assert {each["installed"] for each in found} == {"current"}
    assert {each["result"] for each in found} == {"success"}
    assert all(each["enabled"] and each["last_run"] < each["next_run"] for each in found)
    assert changed.end() == 0
    assert len(rows(state / "cloacina.db", schedules)) == 2


def test_a_signal_lets_the_active_run_end(newer: NewerMachine, serve: Serve, tmp_path: Path) -> None:
    tree = a_tree(tmp_path / "arawn")
    large(tree, "large", 40_000)
    service = serve(configured(tmp_path / "c.toml", root=tree.root, state=tmp_path / "state"), "service")
    wait_until(lambda: any(tree.sessions.parent.glob(".trash/*")), 30)
    assert service.end() == 0, service.said
    assert "ending" in service.said
    assert "arawn_scratch_cleanup" in service.said.partition("ending")[2]
    assert not any(tree.sessions.parent.glob(".trash/*"))
    statuses = rows(
        tmp_path / "state" / "cloacina.db",
        "SELECT status FROM workflow_executions WHERE workflow_name = 'arawn_scratch_cleanup' ORDER BY created_at LIMIT 1",
    )
    assert statuses == [("Completed",)]


def several(folder: Path) -> tuple[Path, dict[str, SampleTree]]:
    """A configuration with three roots, and their trees by name."""
    names = ("lab", "home", "web")
    text = f'[maintenance]\nstate_dir = "{folder}/state"\n[maintenance.cleanup]\ntrash_days = 0\n'
    text += '[maintenance.schedule]\nscratch_cleanup = "2s"\ndisk_check = "2s"\n'
    text += "".join(f'[[maintenance.roots]]\nname = "{name}"\npath = "{folder}/{name}"\n' for name in names)
    config = folder / "config.toml"
    config.write_text(text)
    return config, {name: a_tree(folder / name) for name in names}


def test_two_machines_share_the_runs_of_three_roots_and_take_over_from_each_other(
    newer: NewerMachine, serve: Serve, tmp_path: Path
) -> None:
    config, trees = several(tmp_path)
    with newer.postgres(PASSWORD) as url:
        services = [serve(config, name, ARAWN_CLOACINA_URL=url) for name in ("first", "second")]
        wait_until(lambda: sum(len(service.runs()) for service in services) >= 60 and all(service.runs() for service in services), 120)
        assert all(threads_that_take(signal.SIGTERM, service) == {service.process.pid} for service in services)
        done = [run for service in services for run in service.runs()]
        assert [run for run, count in Counter(done).items() if count > 1] == []
        assert {name for name, _ in done} == {f"arawn_{job}_{root}" for job in ("scratch_cleanup", "disk_check") for root in trees}
        assert overlaps(services) == []

        large(trees["lab"], "large", 60_000)
        trash = trees["lab"].sessions.parent / ".trash"
        wait_until(lambda: any(trash.glob("gone.large.*")), 60)
        killed = next(service for service in services if is_cleaning(service, "lab"))
        (other,) = (service for service in services if service is not killed)
        checks = other.count("arawn_disk_check_home")
        children = psutil.Process(killed.process.pid).children(recursive=True)
        killed.process.kill()
        assert psutil.wait_procs(children, 10)[1] == []
        assert not (trees["lab"].sessions / "large").exists(), "gone from its place, whole"
        lost = set(killed.runs("begins")) - set(killed.runs("done")) - set(killed.runs("locked"))
        assert "arawn_scratch_cleanup_lab" in {name for name, _ in lost}
        wait_until(lambda: lost <= set(other.runs("begins")), 180)
        assert other.count("arawn_disk_check_home") > checks
        assert not any(trash.glob("*")), "the directory itself may be gone"
        assert overlaps(services) == []
        assert other.end() == 0
    assert not any(PASSWORD in service.said for service in services)


def overlaps(services: list[Service]) -> list[tuple[object, ...]]:
    """Return the runs of one job on one root that began before the previous one had ended."""
    spans: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for event in chain.from_iterable(service.events for service in services):
        if event["type"] in ("disk_check", "scratch_cleanup"):
            ended = parse(str(event["timestamp"]))
            spans.setdefault((event["type"], event["root"]), []).append((ended - int(str(event["duration_ms"])) * 1_000_000, ended))
    return [(key, *pair) for key, times in spans.items() for pair in pairwise(sorted(times)) if pair[1][0] < pair[0][1]]


def threads_that_take(number: signal.Signals, service: Service) -> set[int]:
    """Return the threads of a service that do not block a signal (proc_pid_status(5))."""
    found = {}
    for thread in Path(f"/proc/{service.process.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            (mask,) = re.findall(r"SigBlk:\s+(\w+)", (thread / "status").read_text())
            found[int(thread.name)] = int(mask, 16)
    return {thread for thread, mask in found.items() if not mask & 1 << number - 1}


def is_cleaning(service: Service, root: str) -> bool:
    """Return whether a service runs a cleanup of a root."""
    for child in psutil.Process(service.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has ended since
            command = child.cmdline()
            if "scratch-cleanup" in command and f"--root={root}" in command:
                return True
    return False


def large(tree: SampleTree, session: str, files: int) -> None:
    """Make a session whose removal takes a while."""
    directory = tree.session(session, files={}, age_days=30) / "work"
    for number in range(files):
        (directory / f"{number}").touch()
    set_age(directory.parent, tree.ago(30))
