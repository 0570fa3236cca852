"""What the checks of doctor are asked with on a tree: its configuration, its shell, and the account
of the jobs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.schedule.settings import Account, Shell
from tests.support.in_process import NOWHERE
from tests.support.tree import SampleTree

NOBODY = Account("nobody", "/nonexistent")


def config_of(tree: SampleTree) -> Config:
    return load(
        Flags(base_path=str(tree.root)),
        {"ARAWN_CONFIG_DIR": str(_empty(tree)), "STATE_DIRECTORY": str(tree.root.parent / "state")},
        system_file=NOWHERE,
    )


def shell_of(tree: SampleTree) -> Shell:
    return Shell(config_of(tree), Flags(base_path=str(tree.root)), {})


def _empty(tree: SampleTree) -> Path:
    directory = tree.root.parent / "config"
    directory.mkdir(exist_ok=True)
    (directory / "config.toml").touch()
    return directory


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every account can reach; pytest closes that of `tmp_path` again whenever
    another run starts."""
    with tempfile.TemporaryDirectory(prefix="arawn-public-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
