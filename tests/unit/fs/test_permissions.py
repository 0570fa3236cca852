"""What accounts may change. `tests/integration/test_permissions.py` has runs of other accounts."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from arawn_cli.fs.permissions import way_to
from tests.conftest import WITHOUT_FILE_POWERS, needs_root, needs_setpriv

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


def give_by_acl(path: Path, user: int) -> None:
    """Let another account write to a file or directory, as setfacl(1) does."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 7, nobody), (0x02, 7, user), (0x04, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)]
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("the filesystem has no ACLs")
        raise


@needs_root
def test_an_account_that_an_acl_lets_write_shares_the_path(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    file.parent.chmod(0o775)  # of the group of root
    assert way_to(file).is_of_root
    for path in (file, file.parent):
        give_by_acl(path, 5)
        assert way_to(file).is_shared
        path.unlink() if path == file else None
