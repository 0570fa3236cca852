"""Root acts as the owner of the tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arawn_cli.fs.permissions import account_name
from tests.conftest import COMMAND, RunCommand, needs_namespaces, needs_user_namespaces
from tests.support.owner import GROUP, OWNER, OWNER_NAME, READABLE, THIRD, THIRD_NAME, as_account, give, listening, tree_of_owner
from tests.support.tree import SampleTree

pytestmark = needs_namespaces

LOADING = "import os, sys; from arawn_cli.config.loader import Flags; from pathlib import Path; from arawn_cli.cli import account\n"


@pytest.fixture
def owned() -> Iterator[SampleTree]:
    """A tree with the sessions `old`, `used` and `new` that belongs to the owner."""
    with tree_of_owner() as tree:
        for name, age in (("old", 30), ("used", 30), ("new", 1)):
            tree.session(name, files={"f": 1}, age_days=age)
        give(tree.root)
        yield tree


def options(tree: SampleTree) -> tuple[object, ...]:
    return ("--base-path", tree.root, "--config", tree.root.parent / "config.toml")


@contextmanager
def working_in(directory: Path, user: int) -> Iterator[int]:
    """A process of an account that works in a directory."""
    with subprocess.Popen([*as_account(user), "sh", "-c", "echo; exec sleep 60"], cwd=directory, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def python(script: str, *arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*READABLE, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def test_an_account_that_cannot_open_the_state_of_the_timers_uses_its_own_and_says_so(
    owned: SampleTree, environment: dict[str, str]
) -> None:
    """Cron of the system keeps its state in the home of its account, which is often closed."""
    script = LOADING + (
        "from arawn_cli.schedule import status; flags = Flags(base_path=sys.argv[1])\n"
        "account.state_of_jobs = status.state_of_jobs = lambda config, environment: Path(sys.argv[2])\n"
        "config = account.load_as_owner(flags)\n"
        "print(config.state_directory); print(status.unread_state_problem(config, flags, {}))\n"
    )
    closed = owned.root.parent / "state" / "arawn-cli"
    command = [*as_account(THIRD), sys.executable, "-c", script, str(owned.root), str(closed)]
    reachable = environment | {"HOME": str(owned.root.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=reachable, timeout=60)
    assert done.returncode == 0, done.stderr
    own, problem = done.stdout.splitlines()
    assert closed not in (Path(own), *Path(own).parents)
    assert problem.startswith(f"the timers keep their history in {closed}, which this account cannot read")
    assert f"sudo arawn-cli report --base-path {owned.root} " in problem


@pytest.mark.parametrize("config_owner", [0, OWNER], ids=["config of root", "config of the owner"])
def test_root_removes_as_the_owner_and_sees_the_processes_of_all(run: RunCommand, owned: SampleTree, config_owner: int) -> None:
    os.chown(owned.root.parent / "config.toml", config_owner, config_owner)
    with working_in(owned.sessions / "used" / "work", THIRD):
        dry, real = (
            run("scratch-cleanup", *words, *options(owned), "-v", "--format=json", prefix=READABLE) for words in (("--dry-run",), ())
        )
    for done in (dry, real):
        assert (done.code, done.reasons()) == (0, {"old": "expired", "used": "in_use", "new": "recent_files"}), done.stderr
        assert done.stderr.count(f"INFO: root acts as {OWNER_NAME}, the owner of ") == 1
    created = [*(owned.sessions.parent / ".trash").rglob("*"), owned.sessions.parent / ".trash", *(owned.root.parent / "state").iterdir()]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in created} == {(OWNER, GROUP)}
    assert run("disk-check", *options(owned), prefix=READABLE).last["complete"] is True
    assert run("trash", "restore", "old", *options(owned), prefix=READABLE).code == 0
    assert (owned.sessions / "old").stat().st_uid == OWNER


@pytest.mark.parametrize("command", [("scratch-cleanup",), ("disk-check",), ("trash", "list"), ("report",), ("config", "show")])
def test_a_configuration_of_a_third_account_is_refused(run: RunCommand, owned: SampleTree, command: tuple[str, ...]) -> None:
    file = owned.root.parent / "config.toml"
    os.chown(file, THIRD, THIRD)
    done = run(*command, *options(owned), prefix=READABLE)
    assert (done.code, done.stdout) == (77, "")
    assert f"the configuration {file} belongs to {THIRD_NAME}, but the root {owned.root} to {OWNER_NAME}" in done.stderr


def test_nothing_of_root_stays(owned: SampleTree, environment: dict[str, str]) -> None:
    script = LOADING + (
        "config = account.load_as_owner(Flags(config=Path(sys.argv[1]), base_path=sys.argv[2]))\n"
        "import json; ids = os.getresuid(), os.getresgid(), os.getgroups()\n"
        "print(json.dumps([*ids, open('/proc/self/status').read(), dict(os.environ)]))\n"
        "try: os.seteuid(0)\n"
        "except PermissionError: print('stays')\n"
    )
    variables = environment | {
        "XDG_STATE_HOME": "/of-the-caller",
        "USER": "root",
        "SUDO_USER": "someone",
        "A_SECRET": "of root",
        "ARAWN_RELAY_TOKEN": "t",
        "TMPDIR": "/root",
        "https_proxy": "p",
    }
    done = python(script, owned.root.parent / "config.toml", owned.root, environment=variables)
    first, second = done.stdout.splitlines()
    users, groups, all_groups, status, found = json.loads(first)
    assert (users, groups, second) == ([OWNER] * 3, [GROUP] * 3, "stays")
    assert set(all_groups) == set(os.getgrouplist(OWNER_NAME, GROUP))
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (found["USER"], found["LOGNAME"]) == (OWNER_NAME, OWNER_NAME)
    assert not [name for name in found if name.startswith(("XDG_", "SUDO_")) or name in ("A_SECRET", "TMPDIR", "ARAWN_RELAY_TOKEN")]
    assert {name: found[name] for name in ("PATH", "https_proxy")} == {"PATH": environment["PATH"], "https_proxy": "p"}
    assert found["HOME"] != environment["HOME"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_if_the_child_is_dead_or_silent_nothing_is_removed(owned: SampleTree, environment: dict[str, str], number: signal.Signals) -> None:
    script = LOADING + (
        "import os, sys; from arawn_cli.fs import child, in_use; child.Child.ask.__kwdefaults__ = {'seconds': 0.5}\n"
        "start = in_use.stay_root_in_child\n"
        f"def start_and_stop(): start(); in_use.hidden_processes(); os.kill(in_use._root_child._process, {int(number)}); "
        "print(in_use._root_child._process, file=sys.stderr)\n"
        "in_use.stay_root_in_child = start_and_stop\n"
        "from arawn_cli.__main__ import main; main()\n"
    )
    done = python(script, "scratch-cleanup", *options(owned), "--format=json", environment=environment)
    reasons = {event["session_id"]: event["reason"] for event in map(json.loads, done.stdout.splitlines()) if "session_id" in event}
    assert (done.returncode, reasons) == (1, {"old": "activity_unknown", "used": "activity_unknown", "new": "recent_files"}), done.stderr
    assert {entry.name for entry in owned.sessions.iterdir()} == {"old", "used", "new"}
    if number is signal.SIGSTOP:  # a process that is stopped does not see the end of the run
        os.kill(int(done.stderr.splitlines()[0]), signal.SIGKILL)


def test_the_child_has_no_file_of_the_run_and_ends_with_it(owned: SampleTree, environment: dict[str, str]) -> None:
    script = LOADING + (
        "kept = open('/dev/zero'); account.load_as_owner(Flags(config=Path(sys.argv[1]), base_path=sys.argv[2]))\n"
        "from arawn_cli.fs import in_use; print(in_use._root_child._process, flush=True)\n"
        "in_use.hidden_processes(); print('asked', flush=True)\n"
        "sys.stdin.read(); os.kill(os.getpid(), 9)\n"
    )
    command = [*READABLE, sys.executable, "-c", script, str(owned.root.parent / "config.toml"), str(owned.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.stdout.readline()
        files = sorted(os.readlink(f"/proc/{child}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{child}/fd"))
        assert ({Path(name).name for name in files}, files.count("socket")) == ({"null", "socket"}, 1)
        assert os.path.samefile(f"/proc/{child}/cwd", "/")
        assert os.stat(f"/proc/{child}").st_uid == 0
        process.communicate()
    end = time.monotonic() + 10
    while not has_ended(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Whether a process is gone, or only its entry is left for its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_secrets_and_outputs_that_root_names_are_opened_as_root(run: RunCommand, owned: SampleTree) -> None:
    top = owned.root.parent
    private = top / "private"
    private.mkdir(mode=0o700)
    (private / "token").write_text("secret-token")
    (private / "token").chmod(0o600)
    (top / "config.toml").write_text(
        f'[maintenance]\nstate_dir = "state"\n[maintenance.relay]\nurl = "http://127.0.0.1:9/"\ntoken_file = "{private}/token"\n'
    )
    (top / "config.toml").chmod(0o600)
    done = run("scratch-cleanup", "--dry-run", "--plan-out", private / "plan", *options(owned), prefix=READABLE)
    assert (done.code, json.loads((private / "plan").read_text())["version"]) == (0, 1), done.stderr
    assert ((private / "plan").stat().st_uid, (private / "plan").stat().st_mode & 0o777) == (0, 0o600)
    assert run("scratch-cleanup", "--apply", private / "plan", *options(owned), prefix=READABLE).removed() == {"old", "used"}
    assert run("report", "--html", private / "page", *options(owned), prefix=READABLE).code == 0
    assert "</html>" in (private / "page").read_text()


def test_root_sends_its_own_tokens_only_where_its_own_configuration_says(run: RunCommand, owned: SampleTree) -> None:
    top, received = owned.root.parent, list[bytes]()
    (top / "credentials").mkdir(mode=0o700)
    (top / "credentials" / "relay-token").write_text("token-of-a-credential")
    (top / "config.toml").write_text('[maintenance]\nstate_dir = "state"\n[maintenance.pressure]\ntotal = 1\n')
    variables = {"CREDENTIALS_DIRECTORY": str(top / "credentials"), "ARAWN_RELAY_TOKEN": "token-of-a-variable"}
    for owner, name in (
        (0, "CREDENTIALS_DIRECTORY"),
        (0, "ARAWN_RELAY_TOKEN"),
        (OWNER, "CREDENTIALS_DIRECTORY"),
        (OWNER, "ARAWN_RELAY_TOKEN"),
    ):
        os.chown(top / "config.toml", owner, owner)
        (top / "state" / "state.db").unlink(missing_ok=True)
        with listening(received) as port:
            done = run("disk-check", "--relay-url", f"http://127.0.0.1:{port}", *options(owned), prefix=READABLE, **{name: variables[name]})
        assert done.code == 0, done.stderr
        assert (f"${name} of root is not used" in done.stderr) == (owner != 0)
        assert received
        assert all((b"Bearer token-of-a-" in request) == (owner == 0) for request in received), received
        received.clear()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_configuration_of_root_that_others_can_write_is_refused(run: RunCommand, owned: SampleTree, mode: int) -> None:
    file = owned.root.parent / "config.toml"
    os.chown(file, 0, GROUP)
    file.chmod(mode)
    done = run("disk-check", *options(owned), prefix=READABLE)
    assert (done.code, done.stdout) == (77, "")
    assert f"accounts other than root can write or replace the configuration {file}" in done.stderr


def test_a_configuration_that_another_account_creates_meanwhile_is_not_read(owned: SampleTree, environment: dict[str, str]) -> None:
    file = owned.root.parent / "sticky" / "config.toml"
    file.parent.mkdir()
    file.parent.chmod(0o1777)
    script = LOADING + (
        "find = account._way_to\n"
        "def found_before(path):\n"
        "    way = find(path)\n"
        f"    if path.name == 'config.toml': path.write_text(''); os.chown(path, {THIRD}, {THIRD})\n"
        "    return way\n"
        "account._way_to = found_before\n"
        "account.load_as_owner(Flags(config=Path(sys.argv[1]), base_path=sys.argv[2]))\n"
    )
    done = python(script, file, owned.root, environment=environment)
    assert f"cannot read the configuration {file}: another account has replaced it" in done.stderr


def test_an_account_without_an_entry_gets_no_group_of_a_file(owned: SampleTree, environment: dict[str, str]) -> None:
    user = next(number for number in range(23_456, 24_000) if account_name(number) == str(number))
    give(owned.root, user)
    for path in (owned.root, *owned.root.rglob("*")):
        os.chown(path, user, 0)
    script = LOADING + (
        "account.load_as_owner(Flags(config=Path(sys.argv[1]), base_path=sys.argv[2]))\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
    )
    done = python(script, owned.root.parent / "config.toml", owned.root, environment=environment)
    assert done.stdout == f"{(user,) * 3} {(65534,) * 3} []\n", done.stderr


def test_the_configuration_that_root_writes_for_an_account_is_of_that_account(run: RunCommand, owned: SampleTree) -> None:
    top = owned.root.parent
    (top / "of-root").mkdir()
    (top / "home").mkdir()
    (top / "home" / "config.toml").write_text("# old\n")
    (top / "home" / "link").symlink_to(top / "of-root")
    give(top / "home")
    done = run("config", "init", "--force", top / "home" / "config.toml", prefix=READABLE)
    assert done.code == 0, done.stderr
    written = {path.name: path.lstat().st_uid for path in (top / "home").iterdir()}
    assert written == {"config.toml": OWNER, "config.toml.bak": OWNER, "link": OWNER}
    assert run("config", "init", "--force", top / "home" / "link" / "config.toml", prefix=READABLE).code == 78
    assert os.listdir(top / "of-root") == []


def test_root_writes_the_outputs_of_its_own_tree_through_no_link_of_another(run: RunCommand, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "of-root").mkdir()
        (top / "third").mkdir()
        (top / "third" / "link").symlink_to(top / "of-root")
        give(top / "third", THIRD)
        page = ("report", "--base-path", tree.root, "--html")
        assert run(*page, top / "third" / "page").code == 0
        done = run(*page, top / "third" / "link" / "page")
        assert (done.code, os.listdir(top / "of-root")) == (78, []), done.stderr
        assert "a link of another account is on the way" in done.stderr


def test_an_output_is_not_written_through_a_link_of_another_or_into_a_file_with_several_names(run: RunCommand, owned: SampleTree) -> None:
    top = owned.root.parent
    (top / "precious").write_text("of root")
    (top / "third").mkdir()
    (top / "third" / "link").symlink_to(top / "precious")
    (top / "third" / "hard").hardlink_to(top / "precious")
    give(top / "third", THIRD)
    os.chown(top / "precious", 0, 0)
    for name in ("link", "hard"):
        done = run("report", "--html", top / "third" / name, *options(owned), prefix=READABLE)
        assert done.code in (77, 78), done.stderr
    assert (top / "precious").read_text() == "of root"


@needs_user_namespaces
def test_root_of_a_user_namespace_stays_who_it_is(run: RunCommand, tree: SampleTree) -> None:
    """It has no power over the files of others, and no account to become."""
    tree.session("old", files={"f": 1}, age_days=30)
    done = run("scratch-cleanup", "--dry-run", "--base-path", tree.root, prefix=("unshare", "--user", "--map-root-user"))
    assert "root acts as" not in done.stderr
    assert done.reasons() in ({"old": "expired"}, {"old": "activity_unknown"})


def test_root_that_may_not_become_the_owner_refuses(run: RunCommand, owned: SampleTree) -> None:
    done = run("disk-check", *options(owned), prefix=(*READABLE, "setpriv", "--bounding-set=-setuid", "--inh-caps=-all"))
    assert (done.code, done.stdout) == (77, "")
    assert f"root cannot act as {OWNER_NAME}" in done.stderr


def test_the_owner_itself_runs_as_before(run: RunCommand, owned: SampleTree) -> None:
    done = run("scratch-cleanup", *options(owned), prefix=as_account(OWNER))
    assert (done.code, os.listdir(owned.sessions)) == (0, ["new"]), done.stderr
    assert "root acts as" not in done.stderr


@pytest.mark.parametrize("home", [True, False], ids=["home", "no home"])
def test_an_account_without_an_entry_can_run_every_command(environment: dict[str, str], owned: SampleTree, home: bool) -> None:
    user = next(number for number in range(23_456, 24_000) if account_name(number) == str(number))
    give(owned.root.parent, user)
    variables = {key: value for key, value in environment.items() if key != "HOME"} | ({"HOME": str(owned.root.parent)} if home else {})
    for words, code in (
        (("schedule", "status", *options(owned)), 1),
        (("schedule", "show", *options(owned)), 0),
        (("schedule", "remove", "--user"), 0),
        (("doctor", "--format", "table", *options(owned)), 0),
        (("disk-check", *options(owned)), 0),
        (("report", *options(owned)), 0),
        (("config", "show", *options(owned)), 0),
        (("scratch-cleanup", *options(owned)), 0),
        (("trash", "list", *options(owned)), 0),
        (("--version", "-v"), 0),
    ):
        done = subprocess.run(
            [*as_account(user), COMMAND, *map(str, words)], capture_output=True, text=True, check=False, env=variables, timeout=60
        )
        assert done.returncode == code, (words, done)
