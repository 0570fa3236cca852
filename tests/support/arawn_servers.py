"""Trees and databases that running Arawn servers wrote, as homes for tests."""

from __future__ import annotations

import os
import tarfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SERVERS = Path(__file__).parent / "servers"
KEYS = SERVERS / "keys.toml"

V0 = ("v0-fresh", "v0-live", "v0-stock", "v0-stopped")
MAIN = ("main-fresh", "main-live", "main-stopped")

# Sessions and workstreams of v0-live and v0-stopped.
V0_SESSIONS = {
    "A": "95901134-e9b7-4e53-82be-0d1c580b39c4",
    "B": "6817c2d8-08d2-4298-9880-ded4d9c42403",  # attached to Thesis; without a directory
    "C": "84b73f99-64d8-4264-9459-1c718419f4f1",
    "D": "55ff61cb-29cd-4669-8f2e-697edb6abd29",  # opened, without a message
    "E": "1da59a05-f20d-4f7f-bbe1-b9e10b34c6b9",  # a chat without files
    "F": "b79f9878-8c87-4324-a209-2b6d0e423cff",
    "G": "d3184ab2-2a91-4e4f-8837-6ac48182817e",  # one more turn on the last day
}
V0_WORKSTREAMS = {
    "Thesis": "326ee263-4476-4524-b03e-d7f06664f343",
    "My blog": "d483ecaa-634d-45f6-9703-c02824d573a3",
    "Old stuff": "90d1d0bb-143d-4d42-94d1-198fe006f262",  # archived
    "From scratch": "89f68666-6b8a-447c-9564-c4700e9b67fd",  # promoted
}
# Sessions of main-live and main-stopped.
MAIN_SESSIONS = {
    "A": "098ee2f4-32b5-411e-a7ec-e73a77d25aed",
    "B": "1bac827e-bc13-4126-96a9-f7c871641ed0",  # promoted to thesis; its files are still in scratch
    "C": "af6ddd2e-eb1d-45e4-9b09-0d9e60299bf3",
    "F": "acb9a6c9-cc32-4b7a-a0d7-a1ee40fc1564",  # one more turn on the last day
}

_LAST_DAY = datetime(2026, 11, 20, tzinfo=UTC)


def days_before_last_day(margin: int = 5) -> int:
    """Return the `--older-than-days` with which only what was used on the last day of the servers
    is recent."""
    return (datetime.fromtimestamp(time.time(), UTC) - _LAST_DAY).days + margin


@dataclass(frozen=True)
class Server:
    """A home directory with the files of one server."""

    home: Path

    @property
    def is_v0(self) -> bool:
        return (self.home / ".config" / "arawn").is_dir()

    @property
    def configuration(self) -> Path:
        """Return Arawn's own directory: the one with the configuration and the database."""
        return self.home / ".config" / "arawn" if self.is_v0 else self.home / ".arawn"

    @property
    def root(self) -> Path:
        return self.configuration / "workstreams" if self.is_v0 else self.configuration

    @property
    def database(self) -> Path:
        return self.configuration / ("workstreams.db" if self.is_v0 else "arawn.db")

    @property
    def scratch(self) -> Path:
        """Return the directory of the scratch sessions."""
        return self.root / "workstreams" / "scratch" / ("sessions" if self.is_v0 else "")


def extract(name: str, home: Path) -> Server:
    """Extract the archive of a server into a new home, with the times of its files, owned by this
    account."""
    home.mkdir(parents=True, exist_ok=True)
    with tarfile.open(SERVERS / f"{name}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12 has Python 3.11.2, which has no filters
        archive.extractall(home)  # noqa: S202 - an archive of ours
    for directory, _, files in os.walk(home):
        for path in (directory, *(os.path.join(directory, file) for file in files)):
            os.chmod(path, os.stat(path).st_mode & ~0o022)
    return Server(home)
