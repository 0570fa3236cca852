"""Root installs the schedule of a configuration that the tree's owner wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunCommand, needs_namespaces
from tests.support.owner import OWNER, OWNER_NAME, READABLE, give, tree_of_owner
from tests.support.tree import SampleTree

pytestmark = needs_namespaces


@pytest.fixture
def owned() -> Iterator[SampleTree]:
    with tree_of_owner() as tree:
        give(tree.root)
        (tree.root.parent / "of-root").mkdir()
        (tree.root.parent / "home").mkdir()
        give(tree.root.parent / "home")
        yield tree


def configured(tree: SampleTree, text: str, owner: int = OWNER) -> tuple[object, ...]:
    file = tree.root.parent / "config.toml"
    file.write_text(text)
    os.chown(file, owner, owner)
    return ("--system", "--base-path", tree.root, "--config", file)


@pytest.fixture
def units(environment: dict[str, str]) -> Path:
    """Where the installed command finds the units of the system."""
    return Path(environment["HOME"], "machine", "units")


@pytest.mark.parametrize("way", ["link", "of root", "system"])
@pytest.mark.parametrize("key", ["state_dir", "metrics.textfile_dir"])
def test_a_directory_that_the_owner_cannot_use_is_refused_and_nothing_made(
    run: RunCommand, owned: SampleTree, units: Path, way: str, key: str
) -> None:
    top = owned.root.parent
    (top / "home" / "link").symlink_to(top / "of-root")
    give(top / "home")
    place = {"link": top / "home" / "link" / "x", "of root": top / "of-root" / "x", "system": Path("/etc/arawn-cli-test")}[way]
    options = configured(owned, f'maintenance.{key} = "{place}"\n')
    for command in (("show",), ("install", "--yes")):
        done = run("schedule", *command, "--systemd", *options, prefix=READABLE)
        if command == ("install", "--yes"):
            assert done.code == 77, done.stderr
            assert f"{place}, which the configuration names: " in done.stderr
    assert (os.listdir(top / "of-root"), units.exists(), place.exists()) == ([], False, False)


def test_units_of_an_owners_configuration_give_it_nothing_of_root(run: RunCommand, owned: SampleTree, units: Path) -> None:
    text = '[maintenance]\nstate_dir = "home/a state"\n[maintenance.relay]\nurl = "http://127.0.0.1:9/"\ntoken_file = "/etc/shadow"\n'
    options = configured(owned, text)
    done = run("schedule", "install", "--systemd", "--yes", *options, prefix=READABLE)
    assert done.code in (0, 1)
    texts = [path.read_text() for path in units.glob("arawn-*.service") if "notify" not in path.name]
    assert len(texts) == 2, done.stderr
    for unit in texts:
        assert f"User={OWNER_NAME}\n" in unit
        assert "LoadCredential" not in unit
        assert "StateDirectory" not in unit
    created = owned.root.parent / "home" / "a state"
    assert (created.stat().st_uid, created.stat().st_mode & 0o777) == (OWNER, 0o700)
    assert (
        "LoadCredential=relay-token:/etc/shadow"
        in run("schedule", "show", "--systemd", *configured(owned, text, 0), prefix=READABLE).stdout
    )


def test_a_directory_that_root_names_is_created_for_the_owner(run: RunCommand, owned: SampleTree) -> None:
    place = owned.root.parent / "of-root" / "a" / "state"
    options = configured(owned, f'maintenance.state_dir = "{place}"\n', 0)
    assert run("schedule", "install", "--systemd", "--yes", *options, prefix=READABLE).code in (0, 1)
    assert [path.stat().st_uid for path in (place, place.parent, place.parent.parent)] == [OWNER, OWNER, 0]
    done = run("schedule", "status", "--systemd", *options, "--format=json", prefix=READABLE)
    assert {event["installed"] for event in done.events} == {"current"}, done.stderr
