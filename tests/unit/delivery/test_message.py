"""Answers of a relay: any status, header and body."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from arawn_cli.config.relay_url import parse
from arawn_cli.delivery.credentials import Secrets, Token
from arawn_cli.delivery.message import EXCERPT_CHARACTERS, Delivered, Failed, Refused, excerpt, interpret_response, parse_retry_after

NOW = 1_700_000_000.0
NONE = Secrets()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_delivered(status: int) -> None:
    assert interpret_response(status, b"queued", None, NOW, NONE) == Delivered()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_temporary_failure_is_retried_after_the_requested_pause(status: int) -> None:
    assert interpret_response(status, b"later", "7", NOW, NONE) == Failed(f"the relay answers {status} later", retry_after=7)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 422])
def test_a_permanent_failure_is_refused(status: int) -> None:
    assert interpret_response(status, b"no", None, NOW, NONE) == Refused(f"{status} no")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_refuses_no_event(status: int) -> None:
    answer = interpret_response(status, b"", None, NOW, NONE)
    assert isinstance(answer, Failed)
    assert not answer.retryable
    assert "never followed" in answer.reason


def test_a_wrong_token_refuses_no_event() -> None:
    reason = "the relay requires a valid token or password: 401 bad token"
    assert interpret_response(401, b"bad token", None, NOW, NONE) == Failed(reason, retryable=False)


@pytest.mark.parametrize("body", [b'{"error": {"code": 1}}', b' \n{"error":"x"}', b'\xef\xbb\xbf{"error":"x"}'])
def test_a_success_with_an_error_in_its_body_is_refused(body: bytes) -> None:
    assert isinstance(interpret_response(200, body, None, NOW, NONE), Refused)


@pytest.mark.parametrize("body", [b'{"error": null}', b'{"error": ""}', b"[]", b"{", b'{"a":' + b"[" * 60_000, b"\xff\xfe", b'"error"'])
def test_a_success_with_any_other_body_is_delivered(body: bytes) -> None:
    assert interpret_response(200, body, None, NOW, NONE) == Delivered()


def test_the_start_of_an_answer_is_shown_on_one_line() -> None:
    answer = interpret_response(400, b"x\n" * 5000, None, NOW, NONE)
    assert isinstance(answer, Refused)
    assert answer.answer == "400 " + ("x " * (EXCERPT_CHARACTERS // 2)).rstrip()


@pytest.mark.parametrize(
    "repeated", ["tok-3n/!", "tok-3n%2F%21", 'p@ss"w', 'p@ss\\"w', "p%40ss%22w", "QUERYS3CRET", "/pub?key=QUERYS3CRET", "YW5uOnBAc3Midw=="]
)
def test_a_secret_in_an_answer_is_not_shown(repeated: str) -> None:
    secrets = Secrets.of(parse("http://ann:p%40ss%22w@h/pub?key=QUERYS3CRET"), Token("tok-3n/!"))
    answer = interpret_response(403, f"bad {repeated} here".encode(), None, NOW, secrets)
    assert isinstance(answer, Refused)
    assert re.fullmatch(r"403 bad (/pub\?)?(\*\*\*)+ here", answer.answer)


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
    assert parse_retry_after(header, NOW) == seconds


def test_text_that_does_not_print_is_escaped() -> None:
    assert excerpt("a\x1b[31m\ud800", NONE) == "a\\x1b[31m\\xed\\xa0\\x80"
