"""The docs say what the code does, and lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").glob("*.md")), *sorted((TOP / "contrib").rglob("*.md"))]


@pytest.mark.parametrize(("script", "zone"), [("generate.py", "UTC"), ("make_pictures.py", "UTC"), ("make_pictures.py", "Asia/Tokyo")])
def test_what_the_docs_say_and_show_of_the_code_is_made_from_it(script: str, zone: str) -> None:
    done = subprocess.run(
        [sys.executable, TOP / "docs" / script, "--check"],
        env={**os.environ, "PYTHONPATH": str(TOP), "TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            assert heading in {anchor(line) for line in file.read_text().splitlines() if line.startswith("#")}, target


def anchor(heading: str) -> str:
    """The name by which a forge links to a heading."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


WRITTEN = [page for page in PAGES if page.name not in ("commands.md", "events.md", "exit-codes.md")]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(TOP)))
def test_prose_is_wrapped_at_100_columns(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    prose = [line for line in text.splitlines() if not line.startswith(("#", "|", "<", "!["))]
    assert [line for line in prose if len(line) > 100] == []
