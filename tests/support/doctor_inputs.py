"""What the checks of doctor are asked with on a tree: its configuration, its shell, and the account of the jobs."""

from __future__ import annotations

import getpass
import tempfile
from pathlib import Path

from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.doctor.findings import Shell
from arawn_cli.schedule.settings import Account
from tests.support.in_process import NOWHERE
from tests.support.tree import SampleTree

NOBODY = Account("nobody", "/nonexistent")


def config_of(tree: SampleTree) -> Config:
    return load(Flags(base_path=str(tree.root)), {"ARAWN_CONFIG_DIR": str(_empty(tree))}, system_file=NOWHERE)


def shell_of(tree: SampleTree) -> Shell:
    return Shell(config_of(tree), Flags(base_path=str(tree.root)), {})


def _empty(tree: SampleTree) -> Path:
    directory = tree.root.parent / "config"
    directory.mkdir(exist_ok=True)
    (directory / "config.toml").touch()
    return directory


def open_to_all(path: Path) -> None:
    for directory in (path, *path.parents):
        if directory.is_relative_to(Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}")):
            directory.chmod(0o755)
