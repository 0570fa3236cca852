"""What accounts may change. `tests/integration/test_permissions.py` has runs of other accounts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WITHOUT_FILE_POWERS, needs_setpriv

REQUIRE = """
import os, sys
from arawn_cli.fs.permissions import require_writable
try:
    require_writable(os.open(sys.argv[1], os.O_RDONLY))
except OSError as error:
    print(error.strerror)
"""


@needs_setpriv
@pytest.mark.parametrize(("mode", "said"), [(0o700, ""), (0o500, "Permission denied"), (0o600, "Permission denied")])
def test_a_directory_can_be_changed_with_write_and_search_permission(tmp_path: Path, mode: int, said: str) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    directory.chmod(mode)
    words = [*WITHOUT_FILE_POWERS, sys.executable, "-c", REQUIRE, str(directory)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == said
