"""Words in the files of schedules."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.errors import ConfigurationError
from arawn_cli.schedule.places import cron_command, cron_line, unit_command, unit_line, unit_word

words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1)


def as_cron_reads(line: str) -> str:
    """What cron hands to the shell, as do_command.c of Debian's cron takes a line apart.

    The first `%` that is not escaped ends it.
    """
    command, escaped = "", False
    for character in line:
        if escaped:
            command = command[:-1] + "%" if character == "%" else command + character
            escaped = False
            continue
        if character == "%":
            return command
        escaped = character == "\\"
        command += character
    return command


@given(st.lists(words, min_size=1, max_size=4))
def test_words_pass_cron_and_the_shell_unchanged(given_words: list[str]) -> None:
    assert shlex.split(as_cron_reads(cron_command(tuple(given_words)))) == given_words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("/srv/arawn", "/srv/arawn"),
        ("/srv/100%", "/srv/100%%"),
        ("/srv/a b", '"/srv/a b"'),
        ('/srv/"x"\\', '"/srv/\\"x\\"\\\\"'),
        ("/home/me/x", "%h/x"),
        ("/home/me/a %h", '"%h/a %%h"'),
        ("/home/meer", "/home/meer"),
    ],
)
def test_a_word_of_a_unit(text: str, word: str) -> None:
    assert unit_word(text, "/home/me") == word


def test_a_prefix_is_inside_the_quotes() -> None:
    assert unit_word("/srv/a", prefix="-") == "-/srv/a"
    assert unit_word("/home/me/a b", "/home/me", "-") == '"-%h/a b"'


def test_a_command_with_a_dollar_is_kept_from_taking_variables() -> None:
    assert unit_command(("/bin/x", "$HOME")) == ':/bin/x "$HOME"'
    assert unit_command(("/bin/x", "y")) == "/bin/x y"


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\x1bb", "a\x7fb", "a\udcffb", "a\x85b"])
def test_what_no_file_can_hold_is_refused(text: str) -> None:
    for quote in (unit_word, unit_line, lambda text: cron_command((text,))):
        with pytest.raises(ConfigurationError, match="cannot be written into"):
            quote(text)


@pytest.mark.parametrize("text", ["/a\\", "/a ", " /a"])
def test_the_end_of_a_line_that_systemd_would_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="backslash or a space"):
        unit_line(text)


def test_a_line_longer_than_cron_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="999 bytes"):
        cron_line("x" * 999)
