"""What an answer of a relay means, of any status, header and body."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from arawn_cli.config.relay_url import parse
from arawn_cli.delivery.credentials import Secrets, Token
from arawn_cli.delivery.http import judge, wait_asked_for
from arawn_cli.delivery.message import Delivered, Refused, Undelivered

NOW = 1_700_000_000.0
NONE = Secrets()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_delivered(status: int) -> None:
    assert judge(status, b"queued", None, NOW, NONE) == Delivered()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_the_time_asked_for(status: int) -> None:
    assert judge(status, b"later", "7", NOW, NONE) == Undelivered(f"the relay answers {status} later", retry_after=7)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_what_will_not_pass_is_refused(status: int) -> None:
    assert judge(status, b"no", None, NOW, NONE) == Refused(f"{status} no")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_not_followed(status: int) -> None:
    answer = judge(status, b"", None, NOW, NONE)
    assert isinstance(answer, Refused)
    assert "never followed" in answer.answer


@pytest.mark.parametrize("body", [b'{"error": {"code": 1}}', b' \n{"error":"x"}', b'\xef\xbb\xbf{"error":"x"}'])
def test_an_error_in_a_success_is_none(body: bytes) -> None:
    assert isinstance(judge(200, body, None, NOW, NONE), Refused)


@pytest.mark.parametrize("body", [b'{"error": null}', b'{"error": ""}', b"[]", b"{", b'{"a":' + b"[" * 60_000, b"\xff\xfe", b'"error"'])
def test_any_other_body_of_a_success_is_one(body: bytes) -> None:
    assert judge(200, body, None, NOW, NONE) == Delivered()


def test_two_hundred_characters_of_an_answer_are_shown_on_one_line() -> None:
    answer = judge(400, b"x\n" * 5000, None, NOW, NONE)
    assert isinstance(answer, Refused)
    assert answer.answer == "400 " + ("x " * 100).rstrip()


@pytest.mark.parametrize(
    "said", ["tok-3n/!", "tok-3n%2F%21", 'p@ss"w', 'p@ss\\"w', "p%40ss%22w", "QUERYS3CRET", "/pub?key=QUERYS3CRET", "YW5uOnBAc3Midw=="]
)
def test_a_secret_that_is_said_back_is_not_shown(said: str) -> None:
    secrets = Secrets.of(parse("http://ann:p%40ss%22w@h/pub?key=QUERYS3CRET"), Token("tok-3n/!"))
    answer = judge(401, f"bad {said} here".encode(), None, NOW, secrets)
    assert isinstance(answer, Refused)
    assert re.fullmatch(r"401 bad (/pub\?)?(\*\*\*)+ here", answer.answer)


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("99999999999999", 999_999_999),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (http_date(90), 90),
        (http_date(-90), 0),
        ("Mon, 01 Jan 2030 00:00:00 +99999999999999999999", None),
    ],
)
def test_the_forms_of_retry_after(header: str | None, seconds: float | None) -> None:
    assert wait_asked_for(header, NOW) == seconds
