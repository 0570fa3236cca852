"""A root with a workstream and a configuration that names addresses, for the installed command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tests.conftest import Run
from tests.support.tree import SampleTree

OVER = 3000  # bytes, with a limit of 1 KiB and a critical one of 2 KiB


class NotifySite:
    """A root with a workstream, and a configuration that names addresses."""

    def __init__(self, tree: SampleTree, folder: Path, run: Callable[..., Run]) -> None:
        tree.workstream("blog", "My blog", {"work/draft": 100})
        self.tree, self.folder, self._run = tree, folder, run
        self.state, self.file, self.urls = folder / "state", folder / "arawn.toml", folder / "notify.urls"
        self.draft = tree.root / "workstreams" / "blog" / "work" / "draft"
        self.configure()

    def address(self, *urls: str) -> None:
        self.urls.write_text("# people\n" + "".join(f"{url}\n" for url in urls))
        self.urls.chmod(0o600)

    def configure(self, *, on: tuple[str, ...] = ("level", "failed"), **tables: dict[str, object]) -> None:
        maintenance = {
            "root": str(self.tree.root),
            "state_dir": str(self.state),
            "notify": {"urls_file": str(self.urls), "on": list(on)},
            **tables,
            "pressure": {"workstream": "1KiB", "total": "1GiB", **tables.get("pressure", {})},
        }
        self.file.write_text(tomli_w.dumps({"maintenance": maintenance}))

    def check(self, **extra: object) -> Run:
        return self._run("disk-check", "--config", self.file, "--format", "none", "-v", **extra)

    def clean(self, *arguments: str) -> Run:
        return self._run("scratch-cleanup", "--config", self.file, "--format", "none", "-v", *arguments)

    def doctor(self, *arguments: str, **extra: str) -> Run:
        return self._run("doctor", "--config", self.file, "--format", "table", *arguments, **extra)


@pytest.fixture
def site(tree: SampleTree, tmp_path: Path, run: Callable[..., Run]) -> NotifySite:
    return NotifySite(tree, tmp_path, run)
