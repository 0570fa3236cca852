"""The page of a report in a real browser: it fits, asks for nothing, and its text stands out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.output.report_html import page
from tests.conftest import needs
from tests.support.chromium import COMMAND, Page, started
from tests.support.reports import HOSTILE, report

needs_chromium = needs(shutil.which(COMMAND) is not None, COMMAND)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with started(tmp_path_factory.mktemp("chromium")) as page_:
        yield page_


LONG = "a-name-without-any-place-to-break-" * 8


@needs_chromium
@pytest.mark.parametrize("name", ["My blog", HOSTILE, LONG, "x" * 300])
def test_the_page_in_a_browser_fits_asks_for_nothing_and_complains_of_nothing(tab: Page, tmp_path: Path, name: str) -> None:
    problems = ("openat " + LONG,) if name == LONG else ()
    file = tmp_path / "report.html"
    file.write_text(page(replace(report(name), problems=problems, host=name)), "utf-8")
    backgrounds = {}
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            tab.emulate(width, scheme)
            tab.open(file.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
            assert tab.complaints() == []
            assert tab.requested() == [file.as_uri()]
            backgrounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            wide = "[...document.querySelectorAll('td, span, svg, p, li')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
            assert tab.evaluate(wide) == 0
    assert backgrounds["light"] != backgrounds["dark"]
    assert tab.evaluate("document.scripts.length") == 0


@needs_chromium
def test_text_stands_out_from_its_background_in_both_schemes(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(report()), "utf-8")
    for scheme in ("light", "dark"):
        tab.emulate(1280, scheme)
        tab.open(file.as_uri())
        colours = tab.evaluate(
            "['--page', '--card', '--ink', '--soft', '--ok', '--warning', '--critical']"
            ".map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
        )
        assert isinstance(colours, list)
        grounds, inks = colours[:2], colours[2:]
        assert all(contrast(ink, ground) >= 4.5 for ink in inks for ground in grounds), scheme


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
