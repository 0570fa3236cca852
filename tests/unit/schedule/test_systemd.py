"""Units are rendered as the files in contrib/ show, accepted by systemd, and confined."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.config.loader import Flags, load
from arawn_cli.schedule.places import Scope
from arawn_cli.schedule.settings import Account, Network, Settings, settings_from
from arawn_cli.schedule.systemd import units
from tests.conftest import COMMAND, needs, needs_root
from tests.support.contrib_settings import CONTRIB, SYSTEM, USER, contrib_files
from tests.support.tree import SampleTree

UNITS = sorted(path for path in (CONTRIB / "systemd").rglob("*") if path.is_file())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
TIMERS = [path for path in UNITS if path.suffix == ".timer"]

CLOACINA = CONTRIB / "systemd" / "system" / "arawn-cloacina.service"
# The user manager's cleanup: more confinement would hide which processes use a session.
UNCONFINED = CONTRIB / "systemd" / "user" / "arawn-scratch-cleanup.service"

needs_systemd = needs(shutil.which("systemd-analyze") is not None, "systemd-analyze")


def shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def analyse(flavour: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = ["systemd-analyze", f"--{flavour}", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_every_file_is_what_the_renderer_gives() -> None:
    files = contrib_files()
    assert {path: path.read_text() for path in files} == files, "render them again: python -m tests.support.contrib_settings"
    assert {*UNITS, *(CONTRIB / "cron").iterdir()} == {*files, CLOACINA}


def test_the_service_of_cloacina_is_confined_as_cleanup_is() -> None:
    """It is not rendered, because it is installed by hand."""
    confinement = units(SYSTEM)["arawn-scratch-cleanup.service"].partition("ProtectHome=")[2]
    assert confinement.count("=") > 20
    assert f"{confinement}\n[Install]\n" in CLOACINA.read_text()


@needs_systemd
@pytest.mark.parametrize("flavour", ["system", "user"])
def test_systemd_verifies_the_units(flavour: str, tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:
        if unit.parent.name == flavour:
            copy = tmp_path / unit.name
            copy.write_text(re.sub(r"^ExecStart=\S+arawn-cli", f"ExecStart={COMMAND}", unit.read_text(), flags=re.MULTILINE))
            copies.append(str(copy))
    done = analyse(flavour, tmp_path, "verify", "--man=no", "--recursive-errors=no", *copies)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("service", [path for path in SERVICES if path != UNCONFINED], ids=shown)
def test_the_exposure_of_a_service_is_1_5_or_better(service: Path, tmp_path: Path) -> None:
    done = analyse(service.parent.name, tmp_path, "security", "--offline=true", "--threshold=15", str(service))
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@needs_systemd
@pytest.mark.parametrize(
    "settings",
    [
        replace(SYSTEM, network="none"),
        replace(SYSTEM, network="loopback", token_file=Path("/etc/arawn/relay.token")),
        replace(SYSTEM, root=Path("/home/arawn/.arawn"), state=Path("/home/arawn/state"), metrics=Path("/var/lib/node")),
        replace(SYSTEM, root=Path("/var/tmp/arawn"), io_class="none", network="loopback"),  # noqa: S108 - PrivateTmp= would hide it
        replace(USER, network="none"),
    ],
    ids=["no-relay", "relay-here", "in-a-home", "in-tmp", "user"],
)
def test_other_configurations_are_as_well_confined(settings: Settings, tmp_path: Path) -> None:
    for name, text in units(settings).items():
        if name.endswith(".service") and not (settings.scope == USER.scope and "cleanup" in name):
            (tmp_path / name).write_text(text)
            done = analyse(settings.scope, tmp_path, "security", "--offline=true", "--threshold=15", str(tmp_path / name))
            assert done.returncode == 0, (name, done.stdout.splitlines()[-1])


@needs_systemd
def test_cleanup_of_a_tree_of_root_has_two_powers_and_no_more(tmp_path: Path) -> None:
    texts = units(replace(SYSTEM, account=Account("root", "/root")))
    assert "CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH\n" in texts["arawn-scratch-cleanup.service"]
    for name, exposure in {"arawn-scratch-cleanup.service": 22, "arawn-disk-check.service": 16}.items():
        (tmp_path / name).write_text(texts[name])
        done = analyse("system", tmp_path, "security", "--offline=true", f"--threshold={exposure}", str(tmp_path / name))
        assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_a_sandbox_opens_only_what_the_configuration_needs() -> None:
    plain = units(SYSTEM)["arawn-scratch-cleanup.service"]
    assert "ProtectHome=yes\nPrivateTmp=yes\nReadWritePaths=/srv/arawn\n" in plain
    check = units(SYSTEM)["arawn-disk-check.service"]
    assert "ReadWritePaths" not in check
    at_home = units(replace(SYSTEM, root=Path("/home/arawn/my tree"), metrics=Path("/var/lib/node")))
    assert "ProtectHome=read-only" in at_home["arawn-scratch-cleanup.service"]
    assert 'ReadWritePaths="/home/arawn/my tree" -/var/lib/node\n' in at_home["arawn-scratch-cleanup.service"]
    assert "ReadWritePaths=-/var/lib/node\n" in at_home["arawn-disk-check.service"]
    assert "StateDirectory=lab-state\n" in units(replace(SYSTEM, state=Path("/var/lib/lab-state")))["arawn-disk-check.service"]
    elsewhere = units(replace(SYSTEM, state=Path("/srv/state")))["arawn-disk-check.service"]
    assert "ReadWritePaths=-/srv/state\n" in elsewhere
    assert "StateDirectory" not in elsewhere
    unprivileged = units(replace(USER, namespaces=False))["arawn-disk-check.service"]
    assert "PrivateUsers" not in unprivileged
    assert "SystemCallFilter" in unprivileged
    notifier = units(replace(USER, namespaces=False))["arawn-notify@.service"]
    assert [word for word in ("PrivateUsers", "ProtectSystem", "PrivateTmp", "SystemCallFilter") if word in notifier] == [
        "SystemCallFilter"
    ]


def test_a_path_is_as_visible_as_the_target_of_its_link(tmp_path: Path) -> None:
    (tmp_path / "config.toml").symlink_to("/home/arawn/config.toml")
    assert "ProtectHome=read-only" in units(replace(SYSTEM, reads=(tmp_path / "config.toml",)))["arawn-disk-check.service"]


def test_no_path_of_a_unit_has_a_parent_which_systemd_ignores(tree: SampleTree, tmp_path: Path) -> None:
    table = f'root = "{tree.root}"\nstate_dir = "a/../state"\nmetrics.textfile_dir = "../metrics"\n'
    secrets = 'relay = { url = "http://127.0.0.1/", token_file = "../token" }\nnotify.urls_file = "b/../../urls"\n'
    (tmp_path / "arawn.toml").write_text(f"[maintenance]\n{table}{secrets}")
    settings = settings_from(load(Flags(config=tmp_path / "arawn.toml"), {}), Scope.USER)
    expected = (tmp_path / "state", *(tmp_path.parent / name for name in ("metrics", "token", "urls")))
    assert (settings.state, settings.metrics, settings.token_file, settings.notify_urls) == expected


@needs_root
def test_the_owner_of_a_configuration_expects_the_units_that_root_installs(
    tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "arawn.toml"
    file.write_text(f'[maintenance]\nroot = "{tree.root}"\nrelay = {{ url = "http://127.0.0.1/", token_file = "token" }}\n')
    os.chown(file, 5, 5)
    config = load(Flags(config=file), {})
    by_root = units(settings_from(config, Scope.SYSTEM))
    monkeypatch.setattr(os, "getuid", lambda: 5)
    assert units(settings_from(config, Scope.SYSTEM)) == by_root


def test_only_a_job_with_a_relay_or_a_ping_has_network() -> None:
    cases: tuple[tuple[Network, dict[str, Network], tuple[Network, Network]], ...] = (
        ("none", {}, ("none", "none")),
        ("none", {"scratch-cleanup": "any"}, ("any", "none")),
        ("none", {"disk-check": "loopback"}, ("none", "loopback")),
        ("loopback", {"disk-check": "any"}, ("loopback", "any")),
        ("any", {"disk-check": "loopback"}, ("any", "any")),
    )
    for network, pings, expected in cases:
        texts = units(replace(SYSTEM, network=network, pings=pings))
        for job, needed in zip(("scratch-cleanup", "disk-check"), expected, strict=True):
            unit = texts[f"arawn-{job}.service"]
            assert ("PrivateNetwork=yes" in unit) is (needed == "none")
            assert ("IPAddressDeny=any" in unit) is (needed != "any")
            assert ("IPAddressAllow=localhost" in unit) is (needed == "loopback")
            assert ("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" in unit) is (needed != "none")
            assert ("LoadCredential=" in unit) is (network != "none")


def test_the_addresses_of_notifications_are_a_credential_if_root_names_them() -> None:
    settings = replace(SYSTEM, network="any", notify_urls=Path("/etc/arawn/notify.urls"))
    for unit in ("arawn-scratch-cleanup.service", "arawn-disk-check.service"):
        assert "\nLoadCredential=notify-urls:/etc/arawn/notify.urls\n" in units(settings)[unit]
        assert "LoadCredential" not in units(replace(settings, is_of_root=False))[unit]
        both = units(replace(settings, token_file=Path("/etc/arawn/relay.token")))[unit]
        assert both.count("\nLoadCredential=") == 2


def test_jobs_that_notify_need_any_network(tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "arawn.toml"
    table = f'root = "{tree.root}"\nstate_dir = "{tmp_path / "state"}"\n[maintenance.relay]\nurl = "http://127.0.0.1/"\n'
    for notify, network in (("", "loopback"), ('[maintenance.notify]\nurls_file = "urls"\n', "any")):
        file.write_text(f"[maintenance]\n{table}{notify}")
        settings = settings_from(load(Flags(config=file), {}), Scope.USER)
        assert settings.network == network
        assert settings.notify_urls == (tmp_path / "urls" if notify else None)


def test_the_units_of_a_named_root_stand_beside_those_of_the_main_one() -> None:
    named = replace(SYSTEM, root_name="lab", options=("--config", "/etc/arawn/config.toml", "--root", "lab"))
    texts = units(named)
    assert texts.keys() & units(SYSTEM).keys() == {"arawn-notify@.service"}
    assert texts["arawn-notify@.service"] == units(SYSTEM)["arawn-notify@.service"]
    service = texts["arawn-disk-check-lab.service"]
    assert "/usr/local/bin/arawn-cli disk-check --config /etc/arawn/config.toml --root lab\n" in service
    assert "Description=Check the disk usage of Arawn's workstreams (lab)\n" in service
    assert "StateDirectory=arawn-cli-lab\n" in service
    assert "StateDirectory=lab-state\n" in units(replace(named, state=Path("/var/lib/lab-state")))["arawn-disk-check-lab.service"]


def test_an_account_keeps_state_where_its_shell_says() -> None:
    for name in ("arawn-scratch-cleanup.service", "arawn-disk-check.service"):
        assert "Environment=STATE_DIRECTORY=%h/.local/state/arawn-cli\n" in units(USER)[name]
        strange = units(replace(USER, state=Path('/srv/my "state" 5%')))[name]
        assert 'Environment="STATE_DIRECTORY=/srv/my \\"state\\" 5%%"\n' in strange


def test_no_unit_of_cleanup_has_a_user_namespace() -> None:
    for settings in (SYSTEM, USER):
        assert "PrivateUsers=yes" not in units(settings)["arawn-scratch-cleanup.service"]


@needs_systemd
@pytest.mark.parametrize("timer", TIMERS, ids=shown)
def test_the_calendars_are_daily_and_every_five_minutes(timer: Path, tmp_path: Path) -> None:
    calendar = re.search(r"^OnCalendar=(.*)$", timer.read_text(), re.MULTILINE)
    assert calendar
    normalized = analyse("system", tmp_path, "calendar", calendar[1]).stdout
    assert ("*-*-* 04:00:00\n" if "cleanup" in timer.name else "*-*-* *:00/5:00 UTC\n") in normalized


def test_units_of_an_account_name_the_command_of_its_own_manager() -> None:
    for settings, command, other in ((SYSTEM, "systemctl edit", "--user edit"), (USER, "systemctl --user edit", "systemctl edit")):
        for name, text in units(settings).items():
            assert (text.count(command), other in text) == (2 if "notify" in name else 1, False)


def test_a_check_may_only_ask_for_a_cleanup_with_a_file_that_a_path_unit_watches() -> None:
    plain = units(SYSTEM)
    assert not [name for name in plain if name.endswith(".path")]
    found = units(replace(SYSTEM, cleanup_on_critical=True, root_name="lab"))
    request = "/var/lib/arawn-cli-lab/cleanup-request"
    path = found["arawn-cleanup-on-critical-lab.path"]
    assert f"\nPathChanged={request}\nUnit=arawn-scratch-cleanup-lab.service\n" in path
    check, cleanup = found["arawn-disk-check-lab.service"], found["arawn-scratch-cleanup-lab.service"]
    assert f"\nEnvironment=ARAWN_CLEANUP_REQUEST={request}\n" in check
    assert "ARAWN_CLEANUP_REQUEST" not in cleanup
    assert "StateDirectory=arawn-cli-lab\n" in check
    user = units(replace(USER, cleanup_on_critical=True))
    assert "\nPathChanged=/home/arawn/.local/state/arawn-cli/cleanup-request\n" in user["arawn-cleanup-on-critical.path"]
    assert "\nEnvironment=ARAWN_CLEANUP_REQUEST=%h/.local/state/arawn-cli/cleanup-request\n" in user["arawn-disk-check.service"]
