"""A root above its limits and a configuration that names a relay, for the installed command."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
import urllib3

from tests.conftest import Run
from tests.support.relay_fixtures import TOKEN
from tests.support.tree import SampleTree


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
        table = {"url": url, "token_file": str(self.token_file), "timeout_secs": 3.0, "deadline_secs": 4.0, **relay}
        limits = {"total": "0.000005GiB", "workstream": "0.000002GiB"}
        tables = {
            "maintenance": {"root": str(self.tree.root), "state_dir": str(self.state), "pressure": limits, "relay": table},
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


def outbox_size(site: Site) -> object:
    with contextlib.closing(sqlite3.connect(site.state / "state.db")) as connection:
        return connection.execute("SELECT count(*) FROM outbox").fetchone()[0]


def post(url: str, body: str) -> None:
    assert urllib3.request("POST", url, body=body).status in (201, 202)
