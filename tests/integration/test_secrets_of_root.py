"""The owner of the tree cannot read secrets of root from processes that act as the owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import tomli_w

from tests.conftest import COMMAND, RunCommand, needs_namespaces
from tests.support.notify_servers import JsonServer
from tests.support.owner import OWNER, READABLE, as_account, give, tree_of_owner
from tests.support.tree import SampleTree

pytestmark = needs_namespaces

# Try everything that opens the memory of each process: all of it checks the same (ptrace(2)).
SPY = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def result(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "open"
def attach():
    if libc.ptrace(16, process, None, None) < 0:
        raise OSError(ctypes.get_errno(), "PTRACE_ATTACH")
    os.waitpid(process, 0x40000000)
    libc.ptrace(17, process, None, None)
found = []
for process in map(int, sys.argv[1:]):
    tries = {name: result(lambda: open(f"/proc/{process}/{name}", "rb").close()) for name in ("mem", "environ", "maps")}
    found.append(tries | {"fd": result(lambda: os.listdir(f"/proc/{process}/fd")), "attach": result(attach)})
print(json.dumps(found))
"""
OPEN = dict.fromkeys(("mem", "environ", "maps", "fd", "attach"), "open")
CLOSED = {"mem": "EACCES", "environ": "EACCES", "maps": "EACCES", "fd": "EACCES", "attach": "EPERM"}


@pytest.fixture
def owned() -> Iterator[SampleTree]:
    with tree_of_owner() as tree:
        tree.workstream("blog", "Blog", {"work/draft": 3000})
        give(tree.root)
        yield tree


@pytest.fixture
def slow() -> Iterator[JsonServer]:
    server = JsonServer()
    server.delay = 3
    yield server
    server.close()


def configure(tree: SampleTree, **tables: dict[str, object]) -> tuple[str, ...]:
    """Write a configuration of root, beside secrets that only root can read; return the options."""
    file = tree.root.parent / "config.toml"
    file.write_text(tomli_w.dumps({"maintenance": {"state_dir": "state", "pressure": {"workstream": "1KiB"}, **tables}}))
    return ("--base-path", str(tree.root), "--config", str(file))


def secret(tree: SampleTree, text: str) -> str:
    file = tree.root.parent / "secret"
    file.touch(0o600)
    file.write_text(text)
    return str(file)


def seen_by_owner(processes: list[int]) -> list[dict[str, str]]:
    command = [*as_account(OWNER), sys.executable, "-c", SPY, *map(str, processes)]
    found: list[dict[str, str]] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    return found


def test_the_owner_can_read_the_memory_of_other_processes_of_its_own() -> None:
    """Without this, the next test would prove nothing."""
    with subprocess.Popen([*as_account(OWNER), "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert seen_by_owner([process.pid]) == [OPEN]
        process.kill()


@pytest.mark.parametrize(
    ("command", "processes"), [(("disk-check",), 2), (("doctor", "--notify-test"), 2), (("disk-check", "--relay-url"), 1)]
)
def test_no_process_that_has_a_secret_of_root_shows_its_memory_to_the_owner(
    owned: SampleTree, slow: JsonServer, environment: dict[str, str], command: tuple[str, ...], processes: int
) -> None:
    if "--relay-url" in command:
        options = configure(owned, relay={"url": slow.url.replace("json", "http"), "token_file": secret(owned, "topsecret")})
        command = command[:1]
    else:
        options = configure(owned, notify={"urls_file": secret(owned, f"{slow.url}/topsecret\n")})
    with subprocess.Popen(
        [*READABLE, COMMAND, *command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        slow.wait_for_request()
        own = psutil.Process(run.pid)
        acting = [each.pid for each in (own, *own.children(recursive=True)) if each.uids().effective == OWNER]
        found = seen_by_owner(acting)
        _, log = run.communicate(timeout=60)
    assert found == [CLOSED] * processes
    assert run.returncode in (0, 1)  # `doctor` warns
    assert len(slow.messages) == 1
    assert "topsecret" not in log


def test_no_program_that_is_started_for_the_owner_gets_a_secret_of_root(run: RunCommand, owned: SampleTree) -> None:
    options = configure(owned, relay={"url": "https://relay.invalid/"})
    seen = owned.root.parent / "seen"
    seen.touch(0o666)
    seen.chmod(0o666)
    programs = owned.root.parent / "programs"
    programs.mkdir()
    (owned.root.parent / "machine" / "booted").mkdir(parents=True)
    for name in ("crontab", "git", "systemctl", "systemd-analyze", "timedatectl"):
        (programs / name).write_text(f'#!/bin/sh\ntr "\\0" "\\n" < /proc/$$/environ >> {seen}\necho {name} >> {seen}\nexit 1\n')
        (programs / name).chmod(0o755)
    secrets = {
        "ARAWN_RELAY_TOKEN": "topsecret",
        "HTTPS_PROXY": "http://user:topsecret@127.0.0.1:1",
        "http_proxy": "http://user:topsecret@127.0.0.1:1",
        "ARAWN_CLOACINA_URL": "postgres://user:topsecret@127.0.0.1/d",
        "A_SECRET": "topsecret",
    }
    variables = {"COLUMNS": "200", "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(owned.root.parent)}
    done = run("doctor", "--format=table", *options, prefix=READABLE, **secrets, **variables)
    assert "https://relay.invalid/ through the proxy 127.0.0.1 port 1" in done.stdout
    text = seen.read_text()
    assert "PATH=" in text
    assert "topsecret" not in text


def test_a_service_for_the_owner_gives_its_jobs_nothing_of_root(owned: SampleTree, environment: dict[str, str]) -> None:
    """Its jobs are programs of the owner, and would send the token to the owner's relay."""
    options = configure(owned)
    os.chown(owned.root.parent / "config.toml", OWNER, OWNER)
    code = (
        "import json; from arawn_cli.schedule.cloacina import service; from arawn_cli.__main__ import main\n"
        "service.load_engine = lambda: None; service.serve = lambda *values: print(json.dumps(values[-1]))\n"
        "main()\n"
    )
    command = [*READABLE, sys.executable, "-c", code, "schedule", "serve", "--cloacina", *options]
    secrets = {
        "ARAWN_RELAY_TOKEN": "topsecret",
        "https_proxy": "http://user:topsecret@127.0.0.1:1",
        "ARAWN_CLOACINA_URL": "postgres://user:topsecret@127.0.0.1/d",
        "A_SECRET": "topsecret",
    }
    done = subprocess.run(command, env=environment | secrets, capture_output=True, text=True, timeout=60, check=True)
    assert "PATH" in json.loads(done.stdout)
    assert "topsecret" not in done.stdout
    assert "$ARAWN_RELAY_TOKEN of root is not used" in done.stderr
