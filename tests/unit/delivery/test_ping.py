"""What is appended to the address of a ping, and when there is none; its time limits."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.config import relay_url
from arawn_cli.delivery.ping import Pings, suffix_of, with_suffix
from arawn_cli.errors import ExitCode
from tests.support.contrary_servers import answering, unreachable
from tests.support.relay_fixtures import free_port

SEGMENTS = st.lists(st.text("abz019-_~.", min_size=1), max_size=4)


@pytest.mark.parametrize("code", ExitCode)
def test_only_a_run_with_a_result_is_a_success_and_only_that_of_another_lock_is_none(code: ExitCode) -> None:
    for has_result in (True, False):
        suffix = suffix_of(code, has_result=has_result)
        assert (suffix == "") is (code is ExitCode.DONE and has_result)
        assert (suffix is None) is (code is ExitCode.LOCKED or (code is ExitCode.DONE and not has_result))
        assert suffix in (None, "", f"/{code.value}")


@given(SEGMENTS, st.text("ab=&1/", max_size=8), st.sampled_from(["/start", "/1", "/143"]))
def test_a_suffix_goes_to_the_end_of_the_path_and_leaves_the_rest(segments: list[str], query: str, suffix: str) -> None:
    url = f"https://hc.example/{'/'.join(segments)}" + (f"?{query}" if query else "")
    target = relay_url.parse(url).target
    assert with_suffix(target, "") == target
    parts = urlsplit(f"https://hc.example{with_suffix(target, suffix)}")
    assert (parts.path, parts.query) == (f"{'/' if segments else ''}{'/'.join(segments)}{suffix}", query)


def test_each_ping_has_its_time_and_only_the_first_failure_is_a_warning(told: pytest.LogCaptureFixture) -> None:
    with unreachable() as port:
        pings = Pings(f"http://127.0.0.1:{port}/secret", lambda: False)
        pings.start()
        pings.end(ExitCode.PARTIAL, None, ["it failed"])
    sentence = "the ping of 127.0.0.1 failed: no answer within 1.5 s"
    assert [(record.levelname, record.getMessage()) for record in told.records] == [("WARNING", sentence), ("INFO", sentence)]


def test_a_server_that_is_down_is_not_said_to_be_slow(told: pytest.LogCaptureFixture) -> None:
    Pings(f"http://127.0.0.1:{free_port()}/secret", lambda: False).start()
    assert told.records[0].getMessage() == "the ping of 127.0.0.1 failed: Connection refused"


def test_a_success_that_is_cut_is_none(told: pytest.LogCaptureFixture) -> None:
    """The rest could say that the ping is ignored."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nOK") as port:
        Pings(f"http://127.0.0.1:{port}/secret", lambda: False).start()
    assert told.records[0].getMessage() == "the ping of 127.0.0.1 failed: it did not complete its answer 200"


def test_after_a_signal_a_ping_is_still_sent_and_waits_less_than_a_second(told: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []
    with answering(b"", pause=30, heard=heard) as port:
        Pings(f"http://127.0.0.1:{port}/secret", lambda: True).end(ExitCode.TERMINATED, None, [])
    assert heard[0].startswith(b"POST /secret/143 HTTP/1.1\r\n")
    assert told.records[0].getMessage() == "the ping of 127.0.0.1 failed: no answer within 0.7 s"
