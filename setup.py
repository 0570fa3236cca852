"""Record the commit of the checkout in what is built, for `arawn-cli --version --verbose`."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

COMMIT = Path("arawn_cli", "_commit.txt")


def record_commit(directory: Path) -> None:
    """Write the commit of this checkout into `directory`; elsewhere keep the recorded one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, check=True, text=True).stdout if Path(".git").exists() else ""
    except (OSError, subprocess.CalledProcessError):  # no git, or the checkout of another account
        return
    if commit:
        (directory / COMMIT).write_text(commit)


class BuildWithCommit(build_py):
    """Build the package with the commit. An editable installation asks git itself."""

    def run(self) -> None:
        """Build, then write the commit."""
        super().run()
        if not self.editable_mode:
            record_commit(Path(self.build_lib))


class SdistWithCommit(sdist):
    """Pack the sources with the commit, since a wheel is built from them without git."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, then write the commit."""
        super().make_release_tree(base_dir, files)
        record_commit(Path(base_dir))


setup(cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit})
